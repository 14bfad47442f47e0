"""A teacher of all sensors and the student of one that it teaches, from their files where they were made before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_TRAIN
from mmkd_models.distil.methods import default_recipe
from mmkd_models.networks.committee.network import CommitteeFacts
from mmkd_models.networks.config import Preset, StudentKind, student_config, teacher_config
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.closed_form.students import taught_student
from mmkd_models.training.committee import default_members, train_committee
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.teacher_set import TaughtBy


def taught(
    data: TrainingData,
    sensor: str,
    kind: StudentKind,
    *,
    preset: Preset,
    seed: int,
    kept: Path | None,
    grown: bool = False,
) -> tuple[TaughtBy, StudentCheckpoint]:
    """Gives the teacher and the student.

    Args:
        preset: the teacher's size.
        grown: rocket and trees teach, and no transformer, so that a teacher takes seconds.
        kept: how the names of the files begin of whoever learns from these windows, from which an interrupted training
            goes on; None keeps nothing.
    """
    made = _grown_teacher if grown else _teacher
    if kept is None:
        teacher = made(data, preset, seed, None)
        return TaughtBy(checkpoint=teacher, sha256="teacher"), _student(data, sensor, kind, seed, teacher)
    kept.parent.mkdir(parents=True, exist_ok=True)
    file = kept.with_name(f"{kept.name}.teacher.ckpt")
    if not file.exists():
        write_teacher(file, made(data, preset, seed, kept.with_name(f"{kept.name}.run")))
    teacher = read_teacher(file)
    file = kept.with_name(f"{kept.name}.{sensor}-{kind}.ckpt")
    if not file.exists():
        write_student(file, _student(data, sensor, kind, seed, teacher))
    return TaughtBy(checkpoint=teacher, sha256="teacher"), read_student(file)


def _teacher(data: TrainingData, preset: Preset, seed: int, run_dir: Path | None) -> TeacherCheckpoint:
    train = msgspec.structs.replace(TEACHER_TRAIN, seed=seed)
    run = TrainingRun(train=train, augment=AUGMENT, run_dir=run_dir, resume=run_dir is not None)
    members = default_members(data.train.spec.modalities)
    return train_committee(data, teacher_config(preset), run, members=members, self_training=False).checkpoint


def _grown_teacher(data: TrainingData, preset: Preset, seed: int, run_dir: Path | None) -> TeacherCheckpoint:
    """A committee whose transformer takes one step and has no weight, and the others what validation gives them."""
    run = TrainingRun(train=msgspec.structs.replace(TEACHER_TRAIN, seed=seed, steps=1), augment=AUGMENT)
    members = default_members(data.train.spec.modalities)
    config = teacher_config("tiny")
    found = train_committee(data, config, run, members=members, self_training=False).checkpoint
    assert isinstance(found.committee, CommitteeFacts)
    weights = without_first([one.weight for one in found.committee.members])
    weighed = [
        msgspec.structs.replace(one, weight=weight)
        for one, weight in zip(found.committee.members, weights, strict=True)
    ]
    return replace(found, committee=CommitteeFacts(members=tuple(weighed)))


def without_first(weights: Sequence[float]) -> list[float]:
    """Gives the weights of a committee of which the first is not heard: alike where the first had all of it."""
    others = sum(weights[1:])
    return [0.0, *(one / others if others > 0 else 1 / (len(weights) - 1) for one in weights[1:])]


def _student(
    data: TrainingData, sensor: str, kind: StudentKind, seed: int, teacher: TeacherCheckpoint
) -> StudentCheckpoint:
    return taught_student(
        data,
        sensor,
        student_config(STUDENT_PRESET, kind=kind),
        TrainingRun(train=msgspec.structs.replace(STUDENT_TRAIN, seed=seed), augment=AUGMENT),
        teachers=[TaughtBy(checkpoint=teacher, sha256="teacher")],
        recipe=default_recipe(data.train.spec.task),
    )
