"""Cross-fitted teachers: who has seen what, one file that holds them, and the students that they teach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.data import Dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import part_of_windows
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant
from mmkd_models.metrics.classes import scores_from_answers
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.tensors import read_tensors, write_tensors
from mmkd_models.train_config import OnStep, TrainConfig, TrainingProgress
from mmkd_models.training.checkpoint import TeacherCheckpoint, file_sha256, write_teacher
from mmkd_models.training.cross_fit import cross_fit
from mmkd_models.training.inputs import TrainingData, TrainingRun, visible_labels
from mmkd_models.training.predict import logits_of
from mmkd_models.training.resume import FILE_NAME
from mmkd_models.training.teacher_set import (
    OutOfFoldCheckpoint,
    TaughtBy,
    read_teacher_set,
    read_teachers,
    write_teacher_set,
)
from mmkd_models.training.trainings import distil, self_train, train_teacher

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
STUDENT = StudentConfig(preset="test", encoder=ENCODER)
TEACHER = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)
RUN = TrainingRun(train=TrainConfig(steps=4, batch=12, eval_every=2, seed=3), augment=AugmentConfig())
LOGITS = Recipe(terms=(LogitTerm(weight=constant(1.0)),))
SHA256 = "ef" * 32


def data_of(dataset: Dataset, *, share: float = 0.5) -> TrainingData:
    train = dataset.split("train")
    train = train.with_labels(visible_labels(train, share=share, seed=0))
    return TrainingData(train=train, valid=dataset.split("valid"), sha256=dataset.sha256)


@pytest.fixture(scope="module")
def data(machines: Dataset) -> TrainingData:
    """36 windows of six machines, half of them labelled."""
    return data_of(machines)


@pytest.fixture(scope="module")
def fitted(data: TrainingData) -> OutOfFoldCheckpoint:
    """Three teachers, each without two of six machines."""
    return cross_fit(data, TEACHER, RUN, count=3, self_training=True)


@pytest.fixture(scope="module")
def path(fitted: OutOfFoldCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("set") / "teachers.ckpt"
    write_teacher_set(found, fitted)
    return found


def same(first: OutOfFoldCheckpoint, second: OutOfFoldCheckpoint) -> bool:
    tensors = all(
        torch.equal(one[name], other[name])
        for one, other in zip(first.states, second.states, strict=True)
        for name in one
    )
    arrays = np.array_equal(first.groups, second.groups) and np.array_equal(first.parts, second.parts)
    facts = (first.facts, first.config, first.score, first.modalities) == (
        second.facts,
        second.config,
        second.score,
        second.modalities,
    )
    return tensors and arrays and facts


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_hold_whole_groups_and_are_of_one_size(data: TrainingData, parts: int) -> None:
    part = part_of_windows(data.train, parts=parts, seed=0)
    assert sorted(set(part.tolist())) == list(range(parts))
    groups = [set(data.train.groups[part == number].tolist()) for number in range(parts)]
    assert [len(own) for own in groups] == [6 // parts] * parts
    assert len(set.union(*groups)) == 6


@pytest.mark.parametrize("parts", [1, 7])
def test_parts_that_cannot_be_dealt_are_refused(data: TrainingData, parts: int) -> None:
    with pytest.raises(UsageError) as caught:
        part_of_windows(data.train, parts=parts, seed=0)
    assert str(caught.value) == (
        f"dataset 'machines': expected 2 to 6 parts of its 6 groups of training windows, got {parts}; "
        "choose another number"
    )


def test_each_teacher_is_what_training_without_its_part_gives(data: TrainingData, fitted: OutOfFoldCheckpoint) -> None:
    part = part_of_windows(data.train, parts=3, seed=RUN.train.seed)
    assert np.array_equal(fitted.part_of(data.train, dataset_sha256=data.sha256), part)
    for number in range(3):
        seen = replace(data, train=data.train.subset(part != number))
        alone = self_train(seen, train_teacher(seen, TEACHER, RUN), RUN)
        assert fitted.facts[number] == alone.facts
        assert all(torch.equal(fitted.states[number][name], alone.state[name]) for name in alone.state)


def test_the_out_of_fold_score_is_of_labelled_windows_that_each_teacher_has_not_seen(
    data: TrainingData, fitted: OutOfFoldCheckpoint
) -> None:
    labelled = np.flatnonzero(data.train.labels >= 0)
    part = fitted.part_of(data.train, dataset_sha256=data.sha256)
    answers = [
        int(logits_of(fitted.networks()[part[row]], data.train.subset(np.array([row])), modality=None).argmax())
        for row in labelled
    ]
    scores = scores_from_answers(data.train.labels[labelled], np.array(answers), 3)
    assert fitted.score == scores.balanced_accuracy


def test_the_file_gives_back_what_was_written_and_tells_itself_from_a_teacher(
    fitted: OutOfFoldCheckpoint, path: Path, teacher_checkpoint: TeacherCheckpoint, tmp_path: Path
) -> None:
    assert same(read_teacher_set(path), fitted)
    assert isinstance(read_teachers(path), OutOfFoldCheckpoint)
    write_teacher(tmp_path / "one.ckpt", teacher_checkpoint)
    assert isinstance(read_teachers(tmp_path / "one.ckpt"), TeacherCheckpoint)
    with pytest.raises(CheckpointError) as caught:
        read_teacher_set(tmp_path / "one.ckpt")
    assert str(caught.value) == (
        f"{tmp_path / 'one.ckpt'}: expected a teacher-set checkpoint, got a teacher checkpoint; name the right file"
    )


def test_groups_that_were_altered_are_refused(path: Path, tmp_path: Path) -> None:
    tensors, document = read_tensors(path, kind="teacher-set")
    tensors["groups/part"] = torch.full_like(tensors["groups/part"], 2)
    altered = tmp_path / "altered.ckpt"
    write_tensors(altered, tensors, kind="teacher-set", document=document)
    with pytest.raises(CheckpointError) as caught:
        read_teacher_set(altered)
    assert str(caught.value) == (
        f"{altered}: groups: expected int64 (G,) ascending numbers with a part from 0 to 2 each, got torch.int64 (6,) "
        "and torch.int64 (6,); the file was altered"
    )


def test_windows_and_data_that_the_teachers_may_have_seen_are_refused(
    machines: Dataset, data: TrainingData, fitted: OutOfFoldCheckpoint
) -> None:
    others = replace(data, train=machines.split("valid"))
    with pytest.raises(UsageError) as caught:
        distil(others, "acc", STUDENT, RUN, teacher=fitted, teacher_sha256=SHA256, recipe=LOGITS)
    assert str(caught.value) == (
        "out-of-fold teachers: expected the training windows of the 6 groups they were cross-fitted on, got 2 groups, "
        "and 8 are not in both, 0 for one; give the same --fold as for the teachers, or train them on these windows"
    )
    with pytest.raises(UsageError) as caught:
        distil(
            replace(data, sha256="00" * 32), "acc", STUDENT, RUN, teacher=fitted, teacher_sha256=SHA256, recipe=LOGITS
        )
    assert str(caught.value) == (
        f"out-of-fold teachers: expected the dataset they were trained on (SHA-256 {machines.sha256[:12]}...), "
        "got 000000000000...; train them on this one"
    )


def test_a_student_writes_down_every_teacher(data: TrainingData, fitted: OutOfFoldCheckpoint, path: Path) -> None:
    one = train_teacher(data.with_modalities(("gyro",)), TEACHER, RUN)
    further = [TaughtBy(checkpoint=one, sha256="12" * 32)]
    recipe = Recipe(terms=(LogitTerm(weight=constant(1.0)), TaskTerm(weight=constant(1.0))), mix="logits")
    sha256 = file_sha256(path)
    student = distil(data, "acc", STUDENT, RUN, teacher=fitted, teacher_sha256=sha256, recipe=recipe, further=further)
    assert student.facts.teachers_sha256 == (sha256, "12" * 32)
    assert student.facts.recipe == recipe
    assert "further_teachers_sha256" not in msgspec.to_builtins(fitted.facts[0])
    with pytest.raises(UsageError) as caught:
        distil(data, "acc", STUDENT, RUN, teacher=one, teacher_sha256="12" * 32, recipe=recipe, further=further)
    assert str(caught.value) == ("distillation: expected each teacher once, got teacher 0 again as 1; name it once")


class PowerCutError(Exception):
    """As if the power went."""


@contextmanager
def power_cut(name: str) -> Iterator[OnStep]:
    def on_step(progress: TrainingProgress) -> None:
        if name == "teacher 2 of 3" and progress.step == 3:
            raise PowerCutError

    yield on_step


def test_a_cross_fit_that_was_interrupted_goes_on_and_trains_no_teacher_twice(
    data: TrainingData, fitted: OutOfFoldCheckpoint, tmp_path: Path
) -> None:
    run = replace(RUN, run_dir=tmp_path / "run", resume=True)
    with pytest.raises(PowerCutError):
        cross_fit(data, TEACHER, run, count=3, self_training=True, watch=power_cut)
    states = sorted(str(state.parent.relative_to(tmp_path)) for state in tmp_path.rglob(FILE_NAME))
    assert states == ["run/part-0", "run/part-0/second", "run/part-1"]
    steps: list[str] = []

    @contextmanager
    def watch(name: str) -> Iterator[OnStep]:
        yield lambda progress: steps.append(name)

    again = cross_fit(data, TEACHER, run, count=3, self_training=True, watch=watch)
    assert same(again, fitted)
    assert {name: steps.count(name) for name in dict.fromkeys(steps)} == {
        "teacher 2 of 3": 2,  # from the validation at step 2
        "teacher 2 of 3, second generation": 4,
        "teacher 3 of 3": 4,
        "teacher 3 of 3, second generation": 4,
    }
    other = replace(run, train=msgspec.structs.replace(RUN.train, seed=4))
    with pytest.raises(UsageError, match=r"expected a training with seed=4, got seed=3; use the same options"):
        cross_fit(data, TEACHER, other, count=3, self_training=True)


def test_a_part_of_another_cross_fit_is_not_gone_on_with(data: TrainingData, tmp_path: Path) -> None:
    seen = replace(data, held_back=(0, 3))
    run = replace(RUN, run_dir=tmp_path, resume=True)
    train_teacher(seen, TEACHER, run)
    with pytest.raises(UsageError, match=r"expected a training with held_back=\[0, 2\], got held_back=\[0, 3\]"):
        train_teacher(replace(seen, held_back=(0, 2)), TEACHER, run)


def test_a_class_that_is_in_one_part_alone_is_refused_before_anything_is_trained(data: TrainingData) -> None:
    owner = data.train.groups[0]
    labels = np.where((data.train.labels == 2) & (data.train.groups != owner), 0, data.train.labels)
    labels[(data.train.groups == owner) & (labels < 0)] = 2  # one machine has every window of the class
    torn = replace(data, train=data.train.with_labels(labels))
    part = int(part_of_windows(torn.train, parts=3, seed=RUN.train.seed)[0])
    with pytest.raises(UsageError) as caught:
        cross_fit(torn, TEACHER, RUN, count=3, self_training=False)
    assert str(caught.value) == (
        f"out-of-fold teacher {part + 1}: expected labelled windows of class 'worn' among the groups it learns from, "
        "got them all in the part that is held back; label more groups, or choose another --out-of-fold or --seed"
    )
