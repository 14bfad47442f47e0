"""Trainings that go on, and answers of a trained network."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe, term_from_text
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.tensors import write_tensors
from mmkd_models.training.predict import logits_of, scores_of
from tests.edge.said import said
from tests.models.conftest import STUDENT, TEACHER
from tests.models.interrupted_training import train
from tests.models.training.looping import Interrupted, interrupt_at, rewrite, same, scripted

SCRIPT = Path(__file__).parents[1].joinpath("interrupted_training.py")


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(trained, distiller, short, tmp_path, precision, stop):
    config = msgspec.structs.replace(short, precision=precision)
    with pytest.raises(Interrupted):
        trained(config, run_dir=tmp_path, on_step=interrupt_at(stop))
    steps = []
    learner = distiller()
    resumed = trained(config, learner=learner, run_dir=tmp_path, resume=True, on_step=lambda p: steps.append(p.step))
    whole = trained(config, learner=(other := distiller()))
    assert steps == list(range(stop // 2 * 2 + 1, 7))
    assert same(resumed.state, whole.state)
    assert same(learner.state_dict(), other.state_dict())  # queue and projectors too
    assert (resumed.curve, resumed.scores, resumed.best_step) == (whole.curve, whole.scores, whole.best_step)


def test_projectors_of_every_term_resume_too(trained, dataset, tmp_path):
    terms = ("relation,heads=2", "feature", "crd,queue=8,width=4", "dist", "dkd")
    recipe = Recipe(terms=tuple(term_from_text(text) for text in terms))

    def learner():
        torch.manual_seed(0)
        student = Student(dataset.spec.modality("acc"), 2, STUDENT)
        return DistillLearner(student, Teacher(dataset.spec.modalities, 2, TEACHER), recipe, modality="acc")

    with pytest.raises(Interrupted):
        trained(learner=learner(), run_dir=tmp_path, on_step=interrupt_at(5))
    resumed = trained(learner=(one := learner()), run_dir=tmp_path, resume=True)
    assert same(resumed.state, trained(learner=(other := learner())).state)
    assert same(one.state_dict(), other.state_dict())
    assert {name.split(".")[0] for name in one.state_dict()} == {"network", "heads"}


def test_a_finished_training_is_read_and_not_run_again(trained, tmp_path, short):
    first = trained(run_dir=tmp_path)
    second = trained(run_dir=tmp_path, resume=True, on_step=interrupt_at(1))
    assert same(first.state, second.state)
    assert (first.curve, first.stopped_at) == (second.curve, second.stopped_at)
    config = msgspec.structs.replace(short, steps=10, patience=1)
    first = trained(config, run_dir=tmp_path, evaluate=scripted([0.5, 0.4]))
    second = trained(config, run_dir=tmp_path, resume=True, evaluate=scripted([]))
    assert (first.stopped_at, second.stopped_at) == (4, 4)


def refused(trained, *config, kind=UsageError, **options):
    return said(kind, trained, *config, resume=True, **options)


def test_resuming_with_other_options_settings_or_networks_is_refused(trained, short, tmp_path, distiller):
    trained(run_dir=tmp_path)
    config, start = (
        msgspec.structs.replace(short, learning_rate=0.5),
        f"{tmp_path / 'resume.ckpt'}: expected a training",
    )
    advice = "use the same options as before, or start without --resume"
    assert refused(trained, config, run_dir=tmp_path) == (
        f"{start} with learning_rate=0.5, got learning_rate=0.002; {advice}"
    )
    trained(run_dir=tmp_path, settings={"dataset": "a1", "augment": AugmentConfig()})
    trained(run_dir=tmp_path, settings={"dataset": "a1", "augment": AugmentConfig()}, resume=True)
    for other, shown in (({"dataset": "b2"}, "'b2'"), ({}, "None")):
        assert refused(trained, run_dir=tmp_path, settings={**other, "augment": AugmentConfig()}) == (
            f"{start} with dataset={shown}, got dataset='a1'; {advice}"
        )
    trained(run_dir=tmp_path)
    assert refused(trained, kind=CheckpointError, run_dir=tmp_path, learner=distiller(width=16)) == (
        f"{tmp_path / 'resume.ckpt'}: tensor 'network.encoder.position': expected shape (7, 16) of float32, "
        "got shape (7, 8) of float32; the file was altered or made by another version"
    )


def test_a_state_that_was_altered_is_refused(trained, tmp_path):
    path, advice = tmp_path / "resume.ckpt", "start without --resume"
    trained(run_dir=tmp_path)
    rewrite(path, kind="resume", document=lambda document: document.update(format_version=3))
    message = f"{path}: metadata: Invalid enum value 3 - at `$.format_version`; {advice}"
    assert refused(trained, kind=CheckpointError, run_dir=tmp_path) == message
    rewrite(path, kind="resume", document=lambda document: (document.update(format_version=2), document.pop("curve")))
    assert (
        refused(trained, kind=CheckpointError, run_dir=tmp_path)
        == f"{path}: metadata: Object missing required field `curve`; {advice}"
    )
    write_tensors(path, {"t": torch.zeros(1)}, kind="resume", document=b"{")
    assert (
        refused(trained, kind=CheckpointError, run_dir=tmp_path)
        == f"{path}: metadata: Input data was truncated; {advice}"
    )
    trained(run_dir=tmp_path)
    rewrite(path, kind="resume", tensors=lambda parts: parts.update({"stranger/weight": torch.zeros(1)}))
    assert (
        refused(trained, kind=CheckpointError, run_dir=tmp_path)
        == f"{path}: tensor with an unknown name ('stranger'); {advice}"
    )


def command(dataset, run_dir, weights, *devices):
    return [sys.executable, str(SCRIPT), str(dataset.path), str(run_dir), str(weights), *devices]


def test_a_killed_process_resumes_to_the_bit_equal_weights_of_one_that_was_not(dataset, tmp_path):
    killed = command(dataset, tmp_path / "killed", tmp_path / "killed.safetensors")
    with subprocess.Popen(killed, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 7:  # validated and saved at step 4, three steps beyond
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.safetensors").exists()
    with safe_open(tmp_path / "killed" / "resume.ckpt", framework="pt") as file:
        assert json.loads(file.metadata()["resume"])["step"] in (4, 8)
    for name in ("killed", "whole"):  # in this process: torch takes seconds to import in another
        train(dataset, tmp_path / name, tmp_path / f"{name}.safetensors", devices=None)
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_share_a_batch_and_reach_the_weights_of_one(dataset, tmp_path):
    states = []
    for devices in ("1", "2"):
        weights = tmp_path / f"{devices}.safetensors"
        subprocess.run(command(dataset, tmp_path / devices, weights, devices), timeout=600, check=True)
        with safe_open(weights, framework="pt") as file:
            states.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
    for name, value in states[0].items():
        # Gradients are summed in another order, and Adam divides by their size: 2e-4 measured, steps of 2e-3 taken.
        torch.testing.assert_close(states[1][name], value, atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def student(dataset):
    torch.manual_seed(0)
    return Student(dataset.spec.modality("acc"), 2, STUDENT)


def test_a_student_answers_a_split_in_evaluation_mode_and_is_given_back_as_it_was(dataset, student):
    windows, spec = dataset.split("test"), dataset.spec.modality("acc")
    logits = logits_of(student, windows, modality="acc")
    assert logits.shape == (8, 2)
    assert logits.dtype == np.float32
    student.eval()
    for row in range(8):
        feeds = prepare(check_window(windows.take(np.array([row]))["acc"][0], spec), spec)
        alone = student(*(torch.from_numpy(feed) for feed in feeds)).logits[0]
        # A batch of eight and a batch of one sum in other orders.
        np.testing.assert_allclose(logits[row], alone.detach().numpy(), atol=1e-6)
    student.train()
    first, second = (logits_of(student, dataset.split("test"), modality="acc") for _ in range(2))
    assert np.array_equal(first, second)  # dropout would differ
    assert student.training


def test_only_windows_with_labels_are_scored_and_answers_of_the_right_kind(dataset, student):
    windows = dataset.split("valid")
    labels = windows.labels.copy()
    labels[8:] = -1
    partly = scores_of(student, windows.with_labels(labels), modality="acc")
    assert partly == scores_of(student, windows.subset(np.arange(8)), modality="acc")
    assert sum(map(sum, partly.confusion)) == 8
    assert said(UsageError, scores_of, student, windows.with_labels(np.full(16, -1)), modality="acc") == (
        "windows to score on: expected some labelled ones, got none; label some"
    )
    assert said(TypeError, logits_of, Own(), dataset.split("test"), modality="acc") == (
        "network: expected a StudentOutput or a TeacherOutput, got Tensor"
    )


class Own(torch.nn.Module):
    """A student of one's own that answers with logits as they are."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, values, present):
        return values.mean(1) * self.scale
