"""Trials of a study on disk: trained once, resumed where they were, judged on the test windows when they are finished.

A folder of a trial or teacher is finished when its JSON file is there; the checkpoint is written before it. The test
windows are read by `judged_trial`, `judged_teacher` and `rival_on` alone, which keep what they find.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.files import write_file
from mmkd_models.checkpoint import (
    StudentCheckpoint,
    carried_windows,
    file_sha256,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.comparison import FoldData, fold_data
from mmkd_models.config import student_config, teacher_config
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.metrics import Scores, scores_from_answers
from mmkd_models.evaluate.rivals import extra_trees_scores
from mmkd_models.evaluate.scores import of_classes
from mmkd_models.jobs import OnStep, Run, distil, self_train, train_baseline, train_teacher
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.predict import logits_of
from mmkd_models.resume import FILE_NAME
from mmkd_models.study_plan import Conditions, Space, TeacherChoice, Trial, teacher_folder, trial_folder
from mmkd_models.train import TrainConfig

TRIAL_FILE, TEACHER_FILE, TEST_FILE = "trial.json", "teacher.json", "test.json"
STUDENT_CHECKPOINT, TEACHER_CHECKPOINT = "student.ckpt", "teacher.ckpt"
_FORMAT_VERSION = 1

State = Literal["finished", "pruned", "failed"]


class TrialResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trial ended.

    Attributes:
        format_version: of this file.
        trial: which.
        state: finished, or pruned by the search as hopeless, or failed.
        reason: why it failed; empty otherwise.
        score: on validation, of the weights that were kept; of a pruned one the best so far; None of a failed one.
        best_step: when they were reached.
        duration_s: of the training that finished it; a resumed one counts from where it was resumed.
        parameters: of the student.
        teacher_sha256: of the teacher's checkpoint; None where labels alone taught.
        student_sha256: of the student's checkpoint; None where there is none.
    """

    format_version: int = _FORMAT_VERSION
    trial: Trial
    state: State
    reason: str = ""
    score: float | None = None
    best_step: int | None = None
    duration_s: float
    parameters: int | None = None
    teacher_sha256: str | None = None
    student_sha256: str | None = None


class TeacherResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished teacher: its score on validation, its size, the hash of its checkpoint."""

    format_version: int = _FORMAT_VERSION
    teacher: TeacherChoice
    seed: int
    score: float
    duration_s: float
    parameters: int
    sha256: str


class GroupConfusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answers on the test windows of one group: K rows (truth) of K counts (answers)."""

    group: int
    confusion: tuple[tuple[int, ...], ...]


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished network on the test windows of its fold."""

    format_version: int = _FORMAT_VERSION
    scores: Scores
    by_group: tuple[GroupConfusion, ...]


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Where a study keeps what it trains, and what it trains on."""

    out: Path
    dataset: Dataset
    conditions: Conditions
    space: Space

    def of_trial(self, trial: Trial) -> Path:
        """Gives the folder of a trial."""
        return trial_folder(self.out, self.conditions, self.space, trial)

    def of_teacher(self, teacher: TeacherChoice, seed: int) -> Path:
        """Gives the folder of a teacher."""
        return teacher_folder(self.out, self.conditions, teacher, seed)

    def fold(self, seed: int) -> FoldData:
        """Gives the windows of a seed's fold, with the labels that training may see."""
        return fold_data(self.dataset, seed=seed, label_share=self.conditions.label_share)


def trial_result(folder: StudyFolder, trial: Trial) -> TrialResult | None:
    """Gives how a trial ended, or None where it has not."""
    return _read(folder.of_trial(trial) / TRIAL_FILE, TrialResult)


def teacher_result(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> TeacherResult | None:
    """Gives a finished teacher, or None where it is not."""
    return _read(folder.of_teacher(teacher, seed) / TEACHER_FILE, TeacherResult)


def run_teacher(folder: StudyFolder, teacher: TeacherChoice, seed: int, *, on_step: OnStep) -> TeacherResult:
    """Trains a teacher, or goes on where its training was; gives it at once where it is finished."""
    finished = teacher_result(folder, teacher, seed)
    if finished is not None:
        return finished
    began, path = time.monotonic(), folder.of_teacher(teacher, seed)
    data = folder.fold(seed).training.with_modalities(teacher.modalities)
    run = _run(folder.conditions.teacher_train, folder, path / "run", seed, on_step)
    checkpoint = train_teacher(data, teacher_config(teacher.preset), run)
    second = path / "run" / "second"
    if folder.conditions.self_training:
        checkpoint = self_train(data, checkpoint, replace(run, run_dir=second))
    write_teacher(path / TEACHER_CHECKPOINT, checkpoint)
    result = TeacherResult(
        teacher=teacher,
        seed=seed,
        score=checkpoint.facts.score,
        duration_s=time.monotonic() - began,
        parameters=_parameters(checkpoint.network()),
        sha256=file_sha256(path / TEACHER_CHECKPOINT),
    )
    _write(path / TEACHER_FILE, result)
    for folder_of_state in (path / "run", second):
        (folder_of_state / FILE_NAME).unlink(missing_ok=True)
    return result


def run_trial(folder: StudyFolder, trial: Trial, *, on_step: OnStep) -> TrialResult:
    """Trains a trial, or goes on where its training was; gives its result at once where there is one.

    A training that cannot be done (a loss that is no longer finite, say) is a result too: the trial failed.

    Raises:
        UsageError: the trial's teacher is not there.
    """
    ended = trial_result(folder, trial)
    if ended is not None:
        return ended
    _check_teacher_is_there(folder, trial)
    began, path = time.monotonic(), folder.of_trial(trial)
    try:
        checkpoint = _train_student(folder, trial, path / "run", on_step)
    except UsageError as error:
        return end_trial(folder, trial, state="failed", reason=str(error), duration_s=time.monotonic() - began)
    write_student(path / STUDENT_CHECKPOINT, checkpoint)
    result = TrialResult(
        trial=trial,
        state="finished",
        score=checkpoint.facts.score,
        best_step=checkpoint.facts.best_step,
        duration_s=time.monotonic() - began,
        parameters=_parameters(checkpoint.network()),
        teacher_sha256=checkpoint.facts.teacher_sha256,
        student_sha256=file_sha256(path / STUDENT_CHECKPOINT),
    )
    _end(path, result)
    return result


def _check_teacher_is_there(folder: StudyFolder, trial: Trial) -> None:
    name = trial.candidate.entry.teacher
    if name is not None and teacher_result(folder, folder.space.teacher(name), trial.seed) is None:
        raise UsageError(
            f"study {folder.out}: expected teacher {name} of seed {trial.seed}, found none; train it first"
        )


def end_trial(
    folder: StudyFolder,
    trial: Trial,
    *,
    state: State,
    duration_s: float,
    reason: str = "",
    score: float | None = None,
) -> TrialResult:
    """Writes down a trial that ends without a checkpoint: pruned or failed."""
    result = TrialResult(trial=trial, state=state, reason=reason, score=score, duration_s=duration_s)
    _end(folder.of_trial(trial), result)
    return result


def _end(path: Path, result: TrialResult) -> None:
    _write(path / TRIAL_FILE, result)
    (path / "run" / FILE_NAME).unlink(missing_ok=True)


def _train_student(folder: StudyFolder, trial: Trial, run_dir: Path, on_step: OnStep) -> StudentCheckpoint:
    entry, conditions = trial.candidate.entry, folder.conditions
    config, recipe = student_config(entry.student), folder.space.method(entry.method).recipe
    train = msgspec.structs.replace(conditions.student_train, learning_rate=trial.candidate.learning_rate)
    run = _run(train, folder, run_dir, trial.seed, on_step)
    data = folder.fold(trial.seed).training
    if entry.teacher is None or recipe is None:
        return train_baseline(data, conditions.modality, config, run)
    choice = folder.space.teacher(entry.teacher)
    path = folder.of_teacher(choice, trial.seed) / TEACHER_CHECKPOINT
    return distil(
        data.for_pair(choice.modalities, conditions.modality),
        conditions.modality,
        config,
        run,
        teacher=read_teacher(path),
        teacher_sha256=file_sha256(path),
        recipe=recipe,
    )


def _run(train: TrainConfig, folder: StudyFolder, run_dir: Path, seed: int, on_step: OnStep) -> Run:
    return Run(
        train=msgspec.structs.replace(train, seed=seed),
        augment=folder.conditions.augment,
        run_dir=run_dir,
        resume=True,
        embed_windows=False,
        answers=folder.out / "answers",
        on_step=on_step,
    )


def student_of(folder: StudyFolder, trial: Trial) -> StudentCheckpoint:
    """Gives a finished trial's student with the validation windows that an export calibrates and compares with."""
    checkpoint = read_student(folder.of_trial(trial) / STUDENT_CHECKPOINT)
    valid = folder.fold(trial.seed).training.valid
    return replace(checkpoint, carried=carried_windows(valid, folder.conditions.modality, seed=trial.seed))


def judged_trial(folder: StudyFolder, trial: Trial) -> Judged:
    """Judges a finished trial on the test windows of its fold, once; later calls read what was found."""
    path = folder.of_trial(trial)
    known = _read(path / TEST_FILE, Judged)
    if known is not None:
        return known
    network = read_student(path / STUDENT_CHECKPOINT).network()
    return _judge(network, folder.fold(trial.seed).test, folder.conditions.modality, path / TEST_FILE)


def judged_teacher(folder: StudyFolder, teacher: TeacherChoice, seed: int) -> Judged:
    """Judges a finished teacher as `judged_trial`."""
    path = folder.of_teacher(teacher, seed)
    known = _read(path / TEST_FILE, Judged)
    if known is not None:
        return known
    test = folder.fold(seed).test.with_modalities(teacher.modalities)
    return _judge(read_teacher(path / TEACHER_CHECKPOINT).network(), test, None, path / TEST_FILE)


def rival_on(folder: StudyFolder, seed: int) -> Scores:
    """Scores extra-trees on the same sensor and labels, once; later calls read what was found."""
    conditions = folder.conditions
    path = folder.out / "rivals" / f"extra_trees-{conditions.label_share:g}-seed{seed}.json"
    known = _read(path, Scores)
    if known is not None:
        return known
    fold = folder.fold(seed)
    scores = of_classes(extra_trees_scores(fold.training.train, fold.test, modality=conditions.modality, seed=seed))
    _write(path, scores)
    return scores


def _judge(network: Student | Teacher, test: Windows, modality: str | None, path: Path) -> Judged:
    answers = logits_of(network, test, modality=modality).argmax(1)
    classes = len(test.spec.task.labels)
    result = Judged(
        scores=scores_from_answers(test.labels, answers, classes),
        by_group=tuple(
            GroupConfusion(
                group=int(group),
                confusion=scores_from_answers(test.labels[rows], answers[rows], classes).confusion,
            )
            for group in np.unique(test.groups)
            for rows in [test.groups == group]
        ),
    )
    _write(path, result)
    return result


def _parameters(network: Student | Teacher) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


_Kind = TypeVar("_Kind", TrialResult, TeacherResult, Judged, Scores)


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise CheckpointError(
            f"{path}: expected a result of a study, got a damaged file ({error}); delete its folder to train it again"
        ) from error


def _write(path: Path, value: msgspec.Struct) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1))
