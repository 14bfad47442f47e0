"""The training loop: repeatable, resumable, stopping in time, keeping the best."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.augment import AugmentConfig, Batch, BatchSource
from mmkd_models.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.data import Dataset
from mmkd_models.distill import (
    CrdTerm,
    DistillLearner,
    EdamTerm,
    LogitTerm,
    Recipe,
    SupervisedLearner,
    TaskTerm,
    constant,
)
from mmkd_models.evaluate.metrics import Scores
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.predict import scores_of
from mmkd_models.train import CurvePoint, Fit, Progress, TrainConfig, fit, schedule

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
RECIPE = Recipe(
    terms=(
        TaskTerm(weight=constant(1.0)),
        LogitTerm(weight=constant(1.0)),
        EdamTerm(weight=constant(0.5)),
        CrdTerm(weight=constant(0.1), queue=20, width=4),
    )
)
SHORT = TrainConfig(steps=6, batch=8, eval_every=2, seed=5)
SCRIPT = Path(__file__).with_name("interrupted_training.py")


def distiller(dataset: Dataset, *, width: int = 8) -> DistillLearner:
    torch.manual_seed(0)
    encoder = msgspec.structs.replace(ENCODER, width=width)
    student = Student(dataset.spec.modality("acc"), 2, StudentConfig(preset="test", encoder=encoder))
    config = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)
    return DistillLearner(student, Teacher(dataset.spec.modalities, 2, config), RECIPE, modality="acc")


def baseline(dataset: Dataset) -> SupervisedLearner:
    torch.manual_seed(0)
    student = Student(dataset.spec.modality("acc"), 2, StudentConfig(preset="test", encoder=ENCODER))
    return SupervisedLearner(student, modality="acc")


def source(dataset: Dataset, *, seed: int = 5) -> BatchSource:
    return BatchSource(dataset.split("train"), AugmentConfig(), batch=8, labelled_share=0.5, seed=seed)


def judge(dataset: Dataset) -> Callable[[nn.Module], Scores]:
    return lambda network: scores_of(network, dataset.split("valid"), modality="acc")


def trained(
    dataset: Dataset,
    config: TrainConfig = SHORT,
    *,
    learner: nn.Module | None = None,
    evaluate: Callable[[nn.Module], Scores] | None = None,
    **options: Any,
) -> Fit:
    return fit(
        distiller(dataset) if learner is None else learner,
        source(dataset, seed=config.seed),
        evaluate=judge(dataset) if evaluate is None else evaluate,
        config=config,
        **options,
    )


def scripted(figures: list[float], seen: list[dict[str, Tensor]] | None = None) -> Callable[[nn.Module], Scores]:
    """A judge that gives these figures one after the other, and remembers the weights it was shown."""
    left = iter(figures)

    def evaluate(network: nn.Module) -> Scores:
        if seen is not None:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
        figure = next(left)
        return Scores(accuracy=figure, balanced_accuracy=figure, macro_f1=figure, confusion=((1,),))

    return evaluate


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


class Interrupted(Exception):  # noqa: N818 - not an error of the code under test
    pass


def interrupt_at(step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            raise Interrupted

    return on_step


def test_the_schedule_warms_up_in_a_line_and_falls_along_a_cosine() -> None:
    assert schedule(0.05, 0.1) == 0.5
    assert schedule(0.1, 0.1) == 1.0
    assert schedule(0.55, 0.1) == pytest.approx(0.01 + 0.99 / 2)
    assert schedule(1.0, 0.1) == pytest.approx(0.01)
    assert schedule(0.325, 0.1) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2)


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_schedule_stays_between_one_percent_and_the_peak(share: float, warmup: float) -> None:
    assert 0.01 <= schedule(share, warmup) <= 1.0


def test_a_schedule_without_warm_up_starts_at_the_peak() -> None:
    assert schedule(0.0, 0.0) == 1.0


def test_the_first_step_has_the_size_of_the_schedules_first_rate(dataset: Dataset) -> None:
    # Adam's first step is the learning rate times the sign of the gradient; biases have no weight decay.
    learner = baseline(dataset)
    before = learner.network.head.bias.detach().clone()
    config = msgspec.structs.replace(SHORT, steps=1, learning_rate=0.5, ema_decay=0.0)
    after = trained(dataset, config, learner=learner).state["head.bias"]
    torch.testing.assert_close((after - before).abs(), torch.full((2,), 0.01 * 0.5), atol=1e-5, rtol=1e-3)


def test_weight_decay_pulls_on_matrices_only(dataset: Dataset) -> None:
    steps = []
    for decay in (0.0, 10.0):
        config = msgspec.structs.replace(SHORT, steps=1, learning_rate=0.1, ema_decay=0.0, weight_decay=decay)
        steps.append(trained(dataset, config, learner=baseline(dataset)).state)
    initial = baseline(dataset).network.state_dict()
    for name, matrix in initial.items():
        # Decoupled: rate * decay * weight on top of the same Adam step (Loshchilov and Hutter, ICLR 2019).
        pull = 0.001 * 10.0 * matrix if matrix.ndim >= 2 else torch.zeros_like(matrix)
        torch.testing.assert_close(steps[0][name] - steps[1][name], pull, atol=1e-6, rtol=1e-4)


def test_the_same_seed_gives_bit_equal_weights(dataset: Dataset) -> None:
    first, second = trained(dataset), trained(dataset)
    assert same(first.state, second.state)
    assert first.curve == second.curve


def test_another_seed_gives_other_weights(dataset: Dataset) -> None:
    assert not same(trained(dataset).state, trained(dataset, msgspec.structs.replace(SHORT, seed=6)).state)


def test_training_leaves_the_callers_random_numbers_alone(dataset: Dataset) -> None:
    learner = distiller(dataset)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    trained(dataset, learner=learner)
    assert torch.equal(torch.rand(3), expected)


class Dice(nn.Module):
    """A learner that draws one random number in every step, as dropout does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.drawn: list[float] = []

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        self.drawn.append(float(torch.rand(())))
        return {"loss": self.network(*batch.inputs["acc"]).logits.square().sum()}


def test_every_step_draws_its_own_random_numbers_whenever_it_is_run(dataset: Dataset, tmp_path: Path) -> None:
    whole, first, second = (Dice(baseline(dataset).network) for _ in range(3))
    trained(dataset, learner=whole)
    with pytest.raises(Interrupted):
        trained(dataset, learner=first, run_dir=tmp_path, on_step=interrupt_at(5))
    trained(dataset, learner=second, run_dir=tmp_path, resume=True)
    assert len(set(whole.drawn)) == 6
    assert second.drawn == whole.drawn[4:]


def test_training_learns(dataset: Dataset) -> None:
    config = TrainConfig(steps=60, batch=16, eval_every=20, learning_rate=5e-3)
    result = trained(dataset, config, learner=baseline(dataset))
    assert result.scores.accuracy >= 0.9
    assert result.curve[-1].train_loss < 0.8 * result.curve[0].train_loss


def test_the_curve_holds_mean_losses_since_the_last_validation(dataset: Dataset) -> None:
    seen: list[Progress] = []
    result = trained(dataset, msgspec.structs.replace(SHORT, steps=5), on_step=seen.append)
    assert [point.step for point in result.curve] == [2, 4, 5]
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5]
    assert {progress.steps for progress in seen} == {5}
    for point, rows in zip(result.curve, ([0, 1], [2, 3], [4]), strict=True):
        assert point.train_loss == pytest.approx(np.mean([seen[row].terms["loss"] for row in rows]))
        assert set(point.terms) == {"task", "logit", "edam", "edam_kl", "crd"}
        for name, value in point.terms.items():
            assert value == pytest.approx(np.mean([seen[row].terms[name] for row in rows]))


def test_progress_tells_the_best_score_so_far(dataset: Dataset) -> None:
    seen: list[float | None] = []
    trained(
        dataset,
        evaluate=scripted([0.4, 0.3, 0.6]),
        on_step=lambda progress: seen.append(progress.best_score),
    )
    assert seen == [None, 0.4, 0.4, 0.4, 0.4, 0.6]


def test_the_best_weights_are_kept_and_not_the_last(dataset: Dataset) -> None:
    seen: list[dict[str, Tensor]] = []
    result = trained(dataset, evaluate=scripted([0.4, 0.9, 0.6], seen))
    assert result.best_step == 4
    assert result.scores.accuracy == 0.9
    assert result.stopped_at == 6
    assert same(result.state, seen[1])
    assert not same(seen[1], seen[2])


def test_of_equal_scores_the_later_weights_are_kept(dataset: Dataset) -> None:
    result = trained(dataset, evaluate=scripted([0.7, 0.9, 0.9]))
    assert result.best_step == 6


@pytest.mark.parametrize(
    ("figures", "stopped_at"),
    [
        ([0.5, 0.6, 0.6, 0.4, 0.9], 8),  # two validations after the second one are no better; equal is no better
        ([0.5, 0.4, 0.6, 0.5, 0.5], 10),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 10),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 6),
    ],
)
def test_training_stops_when_patience_runs_out(dataset: Dataset, figures: list[float], stopped_at: int) -> None:
    config = msgspec.structs.replace(SHORT, steps=10, patience=2)
    assert trained(dataset, config, evaluate=scripted(figures)).stopped_at == stopped_at


def test_without_patience_training_never_stops_early(dataset: Dataset) -> None:
    config = msgspec.structs.replace(SHORT, steps=10)
    assert trained(dataset, config, evaluate=scripted([0.5, 0.1, 0.1, 0.1, 0.1])).stopped_at == 10


def test_the_metric_of_the_config_decides(dataset: Dataset) -> None:
    figures = iter([(0.9, 0.1), (0.2, 0.8), (0.3, 0.3)])

    def evaluate(network: nn.Module) -> Scores:
        accuracy, macro_f1 = next(figures)
        return Scores(accuracy=accuracy, balanced_accuracy=0.5, macro_f1=macro_f1, confusion=((1,),))

    result = trained(dataset, msgspec.structs.replace(SHORT, metric="macro_f1"), evaluate=evaluate)
    assert result.best_step == 4


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_kept_weights_are_the_moving_average(dataset: Dataset, decay: float) -> None:
    learner = baseline(dataset)
    average = learner.network.head.weight.detach().double()

    def on_step(progress: Progress) -> None:
        nonlocal average
        held = min(decay, (1 + progress.step) / (10 + progress.step)) if decay else 0.0
        average = held * average + (1 - held) * learner.network.head.weight.detach().double()

    config = msgspec.structs.replace(SHORT, steps=10, eval_every=10, ema_decay=decay)
    result = trained(dataset, config, learner=learner, on_step=on_step)
    torch.testing.assert_close(result.state["head.weight"].double(), average, atol=1e-7, rtol=1e-6)


def test_the_network_trains_on_with_its_raw_weights_after_validation(dataset: Dataset) -> None:
    often = trained(dataset, msgspec.structs.replace(SHORT, eval_every=1), learner=(one := distiller(dataset)))
    seldom = trained(dataset, msgspec.structs.replace(SHORT, eval_every=6), learner=(other := distiller(dataset)))
    assert same(one.state_dict(), other.state_dict())
    assert len(often.curve) == 6
    assert len(seldom.curve) == 1


class Broken(nn.Module):
    """A learner whose loss or gradient is no number at its third step."""

    def __init__(self, network: nn.Module, *, factor: float = 1.0, root_of: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.factor = factor
        self.root_of = root_of
        self.calls = 0

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        self.calls += 1
        loss = self.network(*batch.inputs["acc"]).logits.sum()
        if self.calls == 3:
            loss = loss * self.factor + (loss * 0 + self.root_of).sqrt()  # the slope of a root at 0 is infinite
        return {"loss": loss}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"factor": math.nan},
            "training: expected a finite loss, got nan at step 3; lower --learning-rate or check the data",
        ),
        (
            {"root_of": 0.0},
            "training: expected a finite gradient, got nan at step 3; lower --learning-rate or check the data",
        ),
    ],
)
def test_numbers_that_are_not_finite_end_training_and_leave_the_last_state(
    dataset: Dataset, tmp_path: Path, broken: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        trained(dataset, learner=Broken(baseline(dataset).network, **broken), run_dir=tmp_path)
    assert str(caught.value) == message
    with safe_open(tmp_path / "resume.ckpt", framework="pt") as file:
        assert json.loads(file.metadata()["resume"])["step"] == 2


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 1}, {"eval_every": 0}])
def test_numbers_without_sense_are_refused(dataset: Dataset, wrong: dict[str, int]) -> None:
    config = msgspec.structs.replace(SHORT, **wrong)
    with pytest.raises(UsageError) as caught:
        trained(dataset, config)
    assert str(caught.value) == (
        "training: expected steps >= 1, batch >= 2 and eval_every >= 1, "
        f"got {config.steps}, {config.batch} and {config.eval_every}; correct them"
    )


def test_without_a_run_folder_nothing_is_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(dataset)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_scores_and_terms(dataset: Dataset, tmp_path: Path) -> None:
    result = trained(dataset, run_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's imports warn of their own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {
        *("valid/score", "train/loss", "train/task", "train/logit", "train/edam", "train/edam_kl", "train/crd")
    }
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert logged == [(point.step, pytest.approx(point.train_loss)) for point in result.curve]


def test_mixed_precision_trains_and_keeps_float32_weights(dataset: Dataset) -> None:
    result = trained(dataset, msgspec.structs.replace(SHORT, precision="bf16-mixed"))
    assert {value.dtype for value in result.state.values()} == {torch.float32}
    assert all(math.isfinite(point.train_loss) for point in result.curve)
    assert not same(result.state, trained(dataset).state)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    dataset: Dataset, tmp_path: Path, precision: Any, stop: int
) -> None:
    config = msgspec.structs.replace(SHORT, precision=precision)
    with pytest.raises(Interrupted):
        trained(dataset, config, run_dir=tmp_path, on_step=interrupt_at(stop))
    steps: list[int] = []
    learner = distiller(dataset)
    resumed = trained(
        dataset, config, learner=learner, run_dir=tmp_path, resume=True, on_step=lambda p: steps.append(p.step)
    )
    whole = trained(dataset, config, learner=(other := distiller(dataset)))
    assert steps == list(range(stop // 2 * 2 + 1, 7))
    assert same(resumed.state, whole.state)
    assert same(learner.state_dict(), other.state_dict())  # queue and projectors too
    assert (resumed.curve, resumed.scores, resumed.best_step) == (whole.curve, whole.scores, whole.best_step)


def test_a_finished_training_is_read_and_not_run_again(dataset: Dataset, tmp_path: Path) -> None:
    first = trained(dataset, run_dir=tmp_path)
    second = trained(dataset, run_dir=tmp_path, resume=True, on_step=interrupt_at(1))
    assert same(first.state, second.state)
    assert (first.curve, first.stopped_at) == (second.curve, second.stopped_at)


def test_a_training_that_ran_out_of_patience_stays_finished(dataset: Dataset, tmp_path: Path) -> None:
    config = msgspec.structs.replace(SHORT, steps=10, patience=1)
    first = trained(dataset, config, run_dir=tmp_path, evaluate=scripted([0.5, 0.4]))
    second = trained(dataset, config, run_dir=tmp_path, resume=True, evaluate=scripted([]))
    assert (first.stopped_at, second.stopped_at) == (4, 4)


def test_resuming_where_nothing_was_interrupted_starts_at_the_beginning(dataset: Dataset, tmp_path: Path) -> None:
    assert same(trained(dataset, run_dir=tmp_path / "new", resume=True).state, trained(dataset).state)


def test_without_resume_an_old_state_is_replaced(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, msgspec.structs.replace(SHORT, seed=9), run_dir=tmp_path)
    assert same(trained(dataset, run_dir=tmp_path).state, trained(dataset).state)


def refused(dataset: Dataset, run_dir: Path, config: TrainConfig = SHORT, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        trained(dataset, config, run_dir=run_dir, resume=True, **options)
    return str(caught.value)


def test_resuming_with_other_options_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path)
    assert refused(dataset, tmp_path, msgspec.structs.replace(SHORT, learning_rate=0.5)) == (
        f"{tmp_path / 'resume.ckpt'}: expected a training with learning_rate=0.5, got learning_rate=0.002; "
        "use the same options as before, or start without --resume"
    )


def test_resuming_with_other_settings_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path, settings={"dataset": "a1", "augment": AugmentConfig()})
    trained(dataset, run_dir=tmp_path, settings={"dataset": "a1", "augment": AugmentConfig()}, resume=True)
    advice = "use the same options as before, or start without --resume"
    assert refused(dataset, tmp_path, settings={"dataset": "b2", "augment": AugmentConfig()}) == (
        f"{tmp_path / 'resume.ckpt'}: expected a training with dataset='b2', got dataset='a1'; {advice}"
    )
    assert refused(dataset, tmp_path, settings={"augment": AugmentConfig()}) == (
        f"{tmp_path / 'resume.ckpt'}: expected a training with dataset=None, got dataset='a1'; {advice}"
    )


def test_settings_of_any_json_shape_are_recognised(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path, settings={"recipe": RECIPE, "rates": (0.1, 0.2)})
    again = trained(dataset, run_dir=tmp_path, settings={"recipe": RECIPE, "rates": (0.1, 0.2)}, resume=True)
    assert again.stopped_at == 6


def unusable(dataset: Dataset, run_dir: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        trained(dataset, run_dir=run_dir, resume=True, **options)
    assert caught.value.exit_code == 6
    return str(caught.value)


def test_resuming_with_another_network_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path)
    assert unusable(dataset, tmp_path, learner=distiller(dataset, width=16)) == (
        f"{tmp_path / 'resume.ckpt'}: tensor 'network.encoder.position': expected shape (7, 16) of float32, "
        "got shape (7, 8) of float32; the file was altered or made by another version"
    )


def rewrite(path: Path, change: Callable[[dict[str, Any]], object], *, kind: str = "resume") -> None:
    """Writes the state again with another document."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        document = json.loads(file.metadata()["resume"])
    replaced = change(document)
    save_file(tensors, path, {kind: replaced if isinstance(replaced, str) else json.dumps(document)})


def test_a_state_of_a_newer_version_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path)
    rewrite(tmp_path / "resume.ckpt", lambda document: document.update(format_version=2))
    assert unusable(dataset, tmp_path) == (
        f"{tmp_path / 'resume.ckpt'}: expected format_version 1, got 2; start without --resume"
    )


def test_a_state_with_damaged_metadata_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path)
    rewrite(tmp_path / "resume.ckpt", lambda document: document.pop("curve"))
    assert unusable(dataset, tmp_path) == (
        f"{tmp_path / 'resume.ckpt'}: metadata: Object missing required field `curve`; start without --resume"
    )
    trained(dataset, run_dir=tmp_path)
    rewrite(tmp_path / "resume.ckpt", lambda document: "{")
    assert unusable(dataset, tmp_path) == (
        f"{tmp_path / 'resume.ckpt'}: metadata: Input data was truncated; start without --resume"
    )


def test_a_state_with_a_tensor_of_nobody_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    trained(dataset, run_dir=tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    save_file({**tensors, "stranger/weight": torch.zeros(1)}, path, metadata)
    assert unusable(dataset, tmp_path) == (f"{path}: tensor with an unknown name ('stranger'); start without --resume")


def test_a_file_of_another_kind_is_no_state(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path)
    rewrite(tmp_path / "resume.ckpt", lambda document: None, kind="student")
    assert unusable(dataset, tmp_path) == (
        f"{tmp_path / 'resume.ckpt'}: expected a resume checkpoint, got a student checkpoint; name the right file"
    )


def test_the_state_holds_no_teacher(dataset: Dataset, tmp_path: Path) -> None:
    trained(dataset, run_dir=tmp_path)
    with safe_open(tmp_path / "resume.ckpt", framework="pt") as file:
        names = list(file.keys())
    assert not [name for name in names if "fusion" in name or "gyro" in name]
    assert {name.split("/")[0] for name in names} == {"learner", "optimizer", "average", "best"}


def test_curve_points_survive_json() -> None:
    point = CurvePoint(step=3, train_loss=0.1, valid_score=0.7, terms={"logit": 1 / 3})
    assert msgspec.json.decode(msgspec.json.encode(point), type=CurvePoint) == point


def command(dataset: Dataset, run_dir: Path, weights: Path, *devices: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(dataset.path), str(run_dir), str(weights), *devices]


def run(arguments: list[str]) -> None:
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr


def test_a_killed_process_resumes_to_the_bit_equal_weights_of_one_that_was_not(
    dataset: Dataset, tmp_path: Path
) -> None:
    killed = command(dataset, tmp_path / "killed", tmp_path / "killed.safetensors")
    with subprocess.Popen(killed, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 7:  # validated and saved at step 4, three steps beyond
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.safetensors").exists()
    with safe_open(tmp_path / "killed" / "resume.ckpt", framework="pt") as file:
        assert json.loads(file.metadata()["resume"])["step"] in (4, 8)
    run(killed)
    run(command(dataset, tmp_path / "whole", tmp_path / "whole.safetensors"))
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_share_a_batch_and_reach_the_weights_of_one(dataset: Dataset, tmp_path: Path) -> None:
    states = []
    for devices in ("1", "2"):
        weights = tmp_path / f"{devices}.safetensors"
        run(command(dataset, tmp_path / devices, weights, devices))
        with safe_open(weights, framework="pt") as file:
            states.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
    for name, value in states[0].items():
        # Gradients are summed in another order, and Adam divides by their size: 2e-4 measured, steps of 2e-3 taken.
        torch.testing.assert_close(states[1][name], value, atol=2e-3, rtol=0)
