"""Trials of a study on disk: trained once, resumed where they were, judged on the test windows when they are finished.

The test windows are read by `trial_outcome` here, `judged_teacher` and `rivals_on_seed` alone, which keep what they
find.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.carried import carried_windows
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.networks.config import student_config
from mmkd_models.train_config import OnStep
from mmkd_models.training.checkpoint import StudentCheckpoint, file_sha256, read_student, write_student
from mmkd_models.training.choosing.race import labelled_race, taught_race
from mmkd_models.training.closed_form.students import labelled_student, taught_student
from mmkd_models.training.predict import logits_of
from mmkd_models.training.resume import FILE_NAME
from mmkd_models.trials.folder import FORMAT_VERSION, TEST_FILE, StudyFolder, read_result, run_in, write_result
from mmkd_models.trials.space import Trial
from mmkd_models.trials.teachers import is_here, taught_by

TRIAL_FILE, STUDENT_CHECKPOINT = "trial.json", "student.ckpt"

State = Literal["finished", "pruned", "failed"]


class TrialResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trial ended.

    Attributes:
        state: finished, or pruned by the search as hopeless, or failed.
        score: on validation, of the weights that were kept; of a pruned one the best so far; None of a failed one.
        best_step: when they were reached.
        duration_s: of the training that finished it; a resumed one counts from where it was resumed.
        teacher_sha256: of the teacher's checkpoint; None where labels alone taught.
        student_sha256: of the student's checkpoint; None where there is none.
    """

    format_version: int = FORMAT_VERSION
    trial: Trial
    state: State
    reason: str = ""
    score: float | None = None
    best_step: int | None = None
    duration_s: float
    parameters: int | None = None
    teacher_sha256: str | None = None
    student_sha256: str | None = None


def trial_result(folder: StudyFolder, trial: Trial) -> TrialResult | None:
    """Gives how a trial ended, or None where it has not."""
    return read_result(folder.of_trial(trial) / TRIAL_FILE, TrialResult)


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
        parameters=sum(parameter.numel() for parameter in checkpoint.network().parameters()),
        teacher_sha256=checkpoint.facts.teacher_sha256,
        student_sha256=file_sha256(path / STUDENT_CHECKPOINT),
    )
    _end(path, result)
    return result


def _check_teacher_is_there(folder: StudyFolder, trial: Trial) -> None:
    name = trial.candidate.entry.teacher
    if name is not None and not is_here(folder, folder.space.teacher(name), trial.seed):
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
    write_result(path / TRIAL_FILE, result)
    (path / "run" / FILE_NAME).unlink(missing_ok=True)


def _train_student(folder: StudyFolder, trial: Trial, run_dir: Path, on_step: OnStep) -> StudentCheckpoint:
    entry, conditions, modality = trial.candidate.entry, folder.conditions, folder.conditions.modality
    config, recipe = student_config(entry.student), folder.space.method(entry.method).recipe
    train = msgspec.structs.replace(conditions.student_train, learning_rate=trial.candidate.learning_rate)
    run = run_in(train, folder, run_dir, trial.seed, on_step)
    data = folder.fold(trial.seed).training
    if entry.teacher is None or recipe is None:
        alone = labelled_race if conditions.choose else labelled_student
        return alone(data, modality, config, run)
    teachers = taught_by(folder, folder.space.teacher(entry.teacher), trial.seed)
    data = data.for_pair([spec.name for one in teachers for spec in one.checkpoint.modalities], modality)
    # Labels alone are an entry of their own, which the study compares with this one.
    taught = partial(taught_race, labelled=None) if conditions.choose else taught_student
    return taught(data, modality, config, run, teachers=teachers, recipe=recipe)


def student_of(folder: StudyFolder, trial: Trial) -> StudentCheckpoint:
    """Gives a finished trial's student with the validation windows that an export calibrates and compares with."""
    checkpoint = read_student(folder.of_trial(trial) / STUDENT_CHECKPOINT)
    valid = folder.fold(trial.seed).training.valid
    return replace(checkpoint, carried=carried_windows(valid, folder.conditions.modality, seed=trial.seed))


def trial_outcome(folder: StudyFolder, trial: Trial) -> TestedNetwork:
    """Judges a finished trial on the test windows of its fold, once; later calls read what was found."""
    path = folder.of_trial(trial)
    known = read_result(path / TEST_FILE, TestedNetwork)
    if known is not None:
        return known
    network = read_student(path / STUDENT_CHECKPOINT).network()
    test = folder.fold(trial.seed).test
    found = outcome_on(test, logits_of(network, test, modality=folder.conditions.modality))
    write_result(path / TEST_FILE, found)
    return found
