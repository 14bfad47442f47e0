"""Teachers of a study: trained once, out of fold too, and judged on the test windows alone or together.

A teacher is here when its checkpoint is; its figures may be here without it, read from results of another machine. A
teacher that somebody still needs is then trained again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from mmkd_models.distillation.mixing import together
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.losses.goal import Goal
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.config import teacher_config
from mmkd_models.networks.teacher import Teacher
from mmkd_models.train_config import OnStep
from mmkd_models.training.checkpoint import TeacherCheckpoint, file_sha256, write_teacher
from mmkd_models.training.committee import train_committee
from mmkd_models.training.cross_fit import cross_fit
from mmkd_models.training.predict import logits_of
from mmkd_models.training.resume import FILE_NAME
from mmkd_models.training.teacher_set import OutOfFoldCheckpoint, TaughtBy, read_teachers, write_teacher_set
from mmkd_models.trials.folder import FORMAT_VERSION, TEST_FILE, StudyFolder, read_result, run_in, write_result
from mmkd_models.trials.space import TeacherChoice

TEACHER_FILE, TEACHER_CHECKPOINT = "teacher.json", "teacher.ckpt"
_SEEDS_APART = 1000  # members of an ensemble start where no fold's seed does


class TeacherResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished teacher: its score on validation, its size, the hash of its checkpoint.

    The score of out-of-fold teachers is that of their training windows, each answered by the one that has not seen it.
    """

    format_version: int = FORMAT_VERSION
    teacher: TeacherChoice
    seed: int
    score: float
    duration_s: float
    parameters: int
    sha256: str


def teacher_result(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> TeacherResult | None:
    """Gives a finished teacher of one member, or None where it is not."""
    return read_result(folder.of_teacher(teacher, seed) / TEACHER_FILE, TeacherResult)


def teacher_results(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> tuple[TeacherResult, ...] | None:
    """Gives all members of what teaches, or None where one of them is not finished."""
    found = tuple(teacher_result(folder, member, seed) for member in teacher.members)
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else None


def is_here(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> bool:
    """Says whether every member is finished, with its checkpoint."""
    return teacher_results(folder, teacher, seed) is not None and all(
        (folder.of_teacher(member, seed) / TEACHER_CHECKPOINT).exists() for member in teacher.members
    )


def run_teacher(folder: StudyFolder, teacher: TeacherChoice, seed: int, *, on_step: OnStep) -> TeacherResult:
    """Trains a teacher of one member, or goes on where its training was; gives it at once where it is here."""
    finished = teacher_result(folder, teacher, seed)
    if finished is not None and is_here(folder, teacher, seed):
        return finished
    began, path = time.monotonic(), folder.of_teacher(teacher, seed)
    score, networks = _train(folder, teacher, seed, path, on_step)
    result = TeacherResult(
        teacher=teacher,
        seed=seed,
        score=score,
        duration_s=time.monotonic() - began,
        parameters=sum(parameter.numel() for network in networks for parameter in network.parameters()),
        sha256=file_sha256(path / TEACHER_CHECKPOINT),
    )
    if finished is not None and finished.sha256 != result.sha256:
        (path / TEST_FILE).unlink(missing_ok=True)  # the figures were of one with other last bits
    write_result(path / TEACHER_FILE, result)
    for state in (path / "run").rglob(FILE_NAME):
        state.unlink()
    return result


def _train(
    folder: StudyFolder, teacher: TeacherChoice, seed: int, path: Path, on_step: OnStep
) -> tuple[float, Sequence[Teacher | Committee]]:
    """Writes the checkpoint of one member; gives its score and its networks."""
    conditions, config = folder.conditions, teacher_config(teacher.preset)
    data = folder.fold(seed).training.with_modalities(teacher.modalities)
    own_seed = seed + _SEEDS_APART * (teacher.number or 0)
    run = run_in(conditions.teacher_train, folder, path / "run", own_seed, on_step)
    if teacher.out_of_fold:
        fitted = cross_fit(data, config, run, count=teacher.out_of_fold, self_training=conditions.self_training)
        write_teacher_set(path / TEACHER_CHECKPOINT, fitted)
        return fitted.score, fitted.networks()
    members = teacher.committee or ("transformer",)
    made = train_committee(data, config, run, members=members, self_training=conditions.self_training)
    checkpoint = made.checkpoint
    write_teacher(path / TEACHER_CHECKPOINT, checkpoint)
    return checkpoint.facts.score, (checkpoint.network(),)


def taught_by(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> tuple[TaughtBy, ...]:
    """Gives the checkpoints of all members, in order."""
    paths = [folder.of_teacher(member, seed) / TEACHER_CHECKPOINT for member in teacher.members]
    return tuple(TaughtBy(checkpoint=read_teachers(path), sha256=file_sha256(path)) for path in paths)


def teacher_outcome(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> TestedNetwork:
    """Judges what teaches on the test windows of its fold, once; later calls read what was found.

    Several networks answer by the mean of their probabilities, or of their numbers. No out-of-fold teacher has seen a
    test window.
    """
    path = folder.of_teacher(teacher, seed) / TEST_FILE
    known = read_result(path, TestedNetwork)
    if known is not None:
        return known
    test = folder.fold(seed).test
    logits = [
        logits_of(network, test.with_modalities([spec.name for spec in one.checkpoint.modalities]), modality=None)
        for one in taught_by(folder, teacher, seed)
        for network in _networks(one.checkpoint)
    ]
    goal = Goal(kind=test.spec.task.kind)
    mean = together(goal, [torch.from_numpy(one) for one in logits], temperature=1.0, mix="probabilities")
    found = outcome_on(test, mean.numpy())
    write_result(path, found)
    return found


def _networks(checkpoint: TeacherCheckpoint | OutOfFoldCheckpoint) -> Sequence[Teacher | Committee]:
    return (checkpoint.network(),) if isinstance(checkpoint, TeacherCheckpoint) else checkpoint.networks()
