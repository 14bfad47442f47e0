"""The training loop: repeatable, stopping in time, keeping the best."""

import json
import math
import warnings

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_models.distillation.learner import SupervisedLearner
from mmkd_models.metrics.scores import Scores, scores_from_answers
from mmkd_models.networks.student import Student
from mmkd_models.training.loop import schedule
from tests.edge.said import said
from tests.models.conftest import STUDENT
from tests.models.training.looping import Interrupted, interrupt_at, same, scripted


def baseline(dataset):
    torch.manual_seed(0)
    return SupervisedLearner(Student(dataset.spec.modality("acc"), 2, STUDENT), modality="acc")


def test_the_schedule_warms_up_in_a_line_and_its_first_rate_is_the_first_step(trained, short, dataset):
    assert [schedule(progress) for progress in (0.0, 0.05, 0.1)] == [0.01, 0.5, 1.0]
    assert schedule(0.55) == pytest.approx(0.01 + 0.99 / 2)
    assert schedule(1.0) == pytest.approx(0.01)
    assert schedule(0.325) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2)
    # Adam's first step is the learning rate times the sign of the gradient; biases have no weight decay.
    learner = baseline(dataset)
    before = learner.network.head.bias.detach().clone()
    config = msgspec.structs.replace(short, steps=1, learning_rate=0.5, ema_decay=0.0)
    after = trained(config, learner=learner).state["head.bias"]
    torch.testing.assert_close((after - before).abs(), torch.full((2,), 0.01 * 0.5), atol=1e-5, rtol=1e-3)


def test_weight_decay_pulls_on_matrices_only(trained, short, dataset, monkeypatch):
    steps = []
    config = msgspec.structs.replace(short, steps=1, learning_rate=0.1, ema_decay=0.0)
    for decay in (0.0, 10.0):
        monkeypatch.setattr("mmkd_models.training.loop._WEIGHT_DECAY", decay)
        steps.append(trained(config, learner=baseline(dataset)).state)
    for name, matrix in baseline(dataset).network.state_dict().items():
        # Decoupled: rate * decay * weight on top of the same Adam step (Loshchilov and Hutter, ICLR 2019).
        pull = 0.001 * 10.0 * matrix if matrix.ndim >= 2 else torch.zeros_like(matrix)
        torch.testing.assert_close(steps[0][name] - steps[1][name], pull, atol=1e-6, rtol=1e-4)


def test_equal_seeds_give_bit_equal_weights_and_leave_the_callers_random_numbers(trained, distiller):
    first, second = trained(), trained()
    assert same(first.state, second.state)
    assert first.curve == second.curve
    learner = distiller()
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    trained(learner=learner)
    assert torch.equal(torch.rand(3), expected)


class Dice(nn.Module):
    """A learner that draws one random number in every step, as dropout does."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.drawn: list[float] = []

    def forward(self, batch, progress):
        self.drawn.append(float(torch.rand(())))
        return {"loss": self.network(*batch.inputs["acc"]).logits.square().sum()}


def test_every_step_draws_its_own_random_numbers_whenever_it_is_run(trained, dataset, tmp_path):
    whole, first, second = (Dice(baseline(dataset).network) for _ in range(3))
    trained(learner=whole)
    with pytest.raises(Interrupted):
        trained(learner=first, run_dir=tmp_path, on_step=interrupt_at(5))
    trained(learner=second, run_dir=tmp_path, resume=True)
    assert len(set(whole.drawn)) == 6
    assert second.drawn == whole.drawn[4:]


def test_the_curve_holds_mean_losses_since_the_last_validation(trained, short):
    seen = []
    result = trained(msgspec.structs.replace(short, steps=5), on_step=seen.append)
    assert [point.step for point in result.curve] == [2, 4, 5]
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5]
    assert {progress.steps for progress in seen} == {5}
    for point, rows in zip(result.curve, ([0, 1], [2, 3], [4]), strict=True):
        assert point.train_loss == pytest.approx(np.mean([seen[row].terms["loss"] for row in rows]))
        assert set(point.terms) == {"task", "logit", "edam", "crd"}
        for name, value in point.terms.items():
            assert value == pytest.approx(np.mean([seen[row].terms[name] for row in rows]))


def test_the_best_weights_are_kept_and_not_the_last(trained):
    seen = []
    result = trained(evaluate=scripted([0.4, 0.9, 0.6], seen))
    assert result.best_step == 4
    assert result.scores.accuracy == 0.9
    assert result.stopped_at == 6
    assert same(result.state, seen[1])
    assert not same(seen[1], seen[2])


def of_hundred(*right):
    """A judge on 100 windows of one class, of which so many are right in turn."""
    left = iter(right)

    def evaluate(network):
        return scores_from_answers(np.zeros(100, dtype=np.int64), (np.arange(100) >= next(left)).astype(np.int64), 2)

    return evaluate


# The standard error of 90 right of 100 is sqrt(0.9 * 0.1 / 100) = 0.03.
@pytest.mark.parametrize(
    ("right", "kept"), [((90, 88, 86), 4), ((90, 86, 88), 6), ((86, 90, 86), 4), ((80, 90, 88), 6), ((80, 85, 90), 6)]
)
def test_the_latest_weights_within_a_standard_error_of_the_best_are_kept(trained, right, kept):
    result = trained(evaluate=of_hundred(*right))
    assert result.best_step == kept
    assert result.scores.accuracy == right[kept // 2 - 1] / 100


@pytest.mark.parametrize(
    ("figures", "stopped_at"),
    [
        ([0.5, 0.6, 0.6, 0.4, 0.9], 8),  # two validations after the second one are no better; equal is no better
        ([0.5, 0.4, 0.6, 0.5, 0.5], 10),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 10),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 6),
    ],
)
def test_training_stops_when_patience_runs_out(trained, short, figures, stopped_at):
    config = msgspec.structs.replace(short, steps=10, patience=2)
    assert trained(config, evaluate=scripted(figures)).stopped_at == stopped_at


def test_the_metric_of_the_config_decides(trained, short):
    figures = iter([(0.9, 0.1), (0.2, 0.8), (0.3, 0.3)])

    def evaluate(network):
        accuracy, macro_f1 = next(figures)
        return Scores(accuracy=accuracy, balanced_accuracy=0.5, macro_f1=macro_f1, confusion=((1,),))

    assert trained(msgspec.structs.replace(short, metric="macro_f1"), evaluate=evaluate).best_step == 4


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_kept_weights_are_the_moving_average(trained, short, dataset, decay):
    learner = baseline(dataset)
    average = learner.network.head.weight.detach().double()

    def on_step(progress):
        nonlocal average
        held = min(decay, (1 + progress.step) / (10 + progress.step)) if decay else 0.0
        average = held * average + (1 - held) * learner.network.head.weight.detach().double()

    config = msgspec.structs.replace(short, steps=10, eval_every=10, ema_decay=decay)
    result = trained(config, learner=learner, on_step=on_step)
    torch.testing.assert_close(result.state["head.weight"].double(), average, atol=1e-7, rtol=1e-6)


def test_the_network_trains_on_with_its_raw_weights_after_validation(trained, distiller, short):
    often = trained(msgspec.structs.replace(short, eval_every=1), learner=(one := distiller()))
    seldom = trained(msgspec.structs.replace(short, eval_every=6), learner=(other := distiller()))
    assert same(one.state_dict(), other.state_dict())
    assert len(often.curve) == 6
    assert len(seldom.curve) == 1


class Broken(nn.Module):
    """A learner whose loss or gradient is no number at its third step."""

    def __init__(self, network, *, factor=1.0, root_of=1.0):
        super().__init__()
        self.network, self.factor, self.root_of, self.calls = network, factor, root_of, 0

    def forward(self, batch, progress):
        self.calls += 1
        loss = self.network(*batch.inputs["acc"]).logits.sum()
        if self.calls == 3:
            loss = loss * self.factor + (loss * 0 + self.root_of).sqrt()  # the slope of a root at 0 is infinite
        return {"loss": loss}


@pytest.mark.parametrize(("broken", "what"), [({"factor": math.nan}, "loss"), ({"root_of": 0.0}, "gradient")])
def test_numbers_that_are_not_finite_end_training_and_leave_the_last_state(trained, dataset, tmp_path, broken, what):
    assert said(UsageError, trained, learner=Broken(baseline(dataset).network, **broken), run_dir=tmp_path) == (
        f"training: expected a finite {what}, got nan at step 3; lower --learning-rate or check the data"
    )
    with safe_open(tmp_path / "resume.ckpt", framework="pt") as file:
        assert json.loads(file.metadata()["resume"])["step"] == 2


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 1}, {"eval_every": 0}])
def test_numbers_without_sense_are_refused(trained, short, wrong):
    config = msgspec.structs.replace(short, **wrong)
    assert said(UsageError, trained, config) == (
        "training: expected steps >= 1, batch >= 2 and eval_every >= 1, "
        f"got {config.steps}, {config.batch} and {config.eval_every}; correct them"
    )


def test_tensorboard_shows_scores_and_terms(trained, tmp_path):
    result = trained(run_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's imports warn of their own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {
        *("valid/score", "train/loss", "train/task", "train/logit", "train/edam", "train/crd")
    }
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert logged == [(point.step, pytest.approx(point.train_loss)) for point in result.curve]


def test_mixed_precision_trains_and_keeps_float32_weights(trained, short):
    result = trained(msgspec.structs.replace(short, precision="bf16-mixed"))
    assert {value.dtype for value in result.state.values()} == {torch.float32}
    assert all(math.isfinite(point.train_loss) for point in result.curve)
    assert not same(result.state, trained().state)
