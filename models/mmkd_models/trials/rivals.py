"""Rivals of a study's students: what one sensor gives without a network, on the same labels and test windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mmkd_models.compare.fold_rivals import teach_with
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import Contestants, RivalName, Teach
from mmkd_models.evaluation.settled import Answers
from mmkd_models.training.checkpoint import TeacherCheckpoint
from mmkd_models.trials.folder import StudyFolder, read_result, write_result
from mmkd_models.trials.space import TeacherChoice
from mmkd_models.trials.teachers import is_here, taught_by


class StudyRival(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rival on the test windows of a seed's fold, or the reason why there are no answers of it.

    Attributes:
        teacher: name of what taught it; unset of those that nobody teaches.
        valid_score: what validation maximises; None also in files of earlier releases.
    """

    rival: RivalName
    seed: int
    test: TestedNetwork | None
    reason: str = ""
    valid_score: float | None = None
    teacher: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def name(self) -> str:
        """Gives what it is called, and by whom it is taught."""
        return f"{self.rival} {self.teacher}" if self.teacher else self.rival


def rival_file(folder: StudyFolder, rival: RivalName, seed: int, teacher: str | None = None) -> Path:
    """Gives where a study keeps what a rival found."""
    by = "" if teacher is None else f"-{hashlib.sha256(teacher.encode()).hexdigest()[:10]}"
    return folder.out / "rivals" / f"{rival}{by}-{folder.conditions.labelled.file_part}-seed{seed}.json"


def rivals_on_seed(folder: StudyFolder, rivals: Sequence[RivalName], seed: int) -> tuple[StudyRival, ...]:
    """Trains and judges rivals on the student's sensor and labels, once; later calls read what was found.

    The taught one learns from the first teacher of the study that is a single network, or several that answer
    together, and here. What cannot be run here is told and not kept, so that it is tried again where it can.
    """
    choice = _teacher(folder)
    by: dict[RivalName, str | None] = {
        rival: choice.name if rival == "taught_rocket" and choice is not None else None for rival in rivals
    }
    known = {rival: read_result(rival_file(folder, rival, seed, by[rival]), StudyRival) for rival in rivals}
    if all(known.values()):
        return tuple(one for one in known.values() if one is not None)
    fold, conditions = folder.fold(seed), folder.conditions
    contestants = Contestants(
        train=fold.training.train,
        parts=(fold.training.valid, fold.test),
        modality=conditions.modality,
        seed=seed,
        metric=conditions.student_train.metric,
        teach=None if choice is None or not is_here(folder, choice, seed) else _teach(folder, choice, seed),
    )
    found = []
    for rival, kept in known.items():
        one = kept or _judged(contestants, rival, conditions.student_train.metric, by[rival])
        if kept is None and one.test is not None:
            write_result(rival_file(folder, rival, seed, by[rival]), one)
        found.append(one)
    return tuple(found)


def rivals_on(folder: StudyFolder, rivals: Sequence[RivalName], seeds: Sequence[int]) -> tuple[StudyRival, ...]:
    """Gives every rival on every seed."""
    return tuple(one for seed in seeds for one in rivals_on_seed(folder, rivals, seed))


def _judged(contestants: Contestants, rival: RivalName, metric: str, teacher: str | None) -> StudyRival:
    result = StudyRival(
        rival=rival, seed=contestants.seed, test=None, teacher=msgspec.UNSET if teacher is None else teacher
    )
    found = contestants.judged(rival)
    if isinstance(found, str):
        return msgspec.structs.replace(result, reason=found)
    valid, test = found
    return msgspec.structs.replace(result, test=test, valid_score=valid.scores.metric(metric))


def _teacher(folder: StudyFolder) -> TeacherChoice | None:
    """The first teacher that is not out of fold: those know which window each of them may answer to."""
    choices = (one for one in folder.space.teachers if not any(member.out_of_fold for member in one.members))
    return next(choices, None)


def _teach(folder: StudyFolder, choice: TeacherChoice, seed: int) -> Teach:
    """The mean of what the members say."""
    checkpoints = [one.checkpoint for one in taught_by(folder, choice, seed)]
    members = [one for one in checkpoints if isinstance(one, TeacherCheckpoint)]

    def teach(windows: Windows) -> Answers:
        seen = [windows.with_modalities([spec.name for spec in one.modalities]) for one in members]
        said = [teach_with(one.network())(part) for one, part in zip(members, seen, strict=True)]
        return np.asarray(np.mean(said, axis=0))

    return teach
