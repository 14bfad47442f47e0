"""Rivals of a study's students: what one sensor gives without a network, on the same labels and test windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_models.evaluate.outcome import Outcome
from mmkd_models.evaluate.rivals import RivalName, rival_outcomes
from mmkd_models.trials.folder import StudyFolder, read_result, write_result


class StudyRival(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rival on the test windows of a seed's fold, or the reason why there are no answers of it.

    `valid_score` is what validation maximises; None also in files of earlier releases.
    """

    rival: RivalName
    seed: int
    test: Outcome | None
    reason: str = ""
    valid_score: float | None = None

    @property
    def name(self) -> str:
        """Gives what it is called."""
        return self.rival


def rival_file(folder: StudyFolder, rival: RivalName, seed: int) -> Path:
    """Gives where a study keeps what a rival found."""
    return folder.out / "rivals" / f"{rival}-{folder.conditions.label_share:g}-seed{seed}.json"


def rival_on(folder: StudyFolder, rival: RivalName, seed: int) -> StudyRival:
    """Trains and judges a rival on the student's sensor and labels, once; later calls read what was found.

    What cannot be run here is told and not kept, so that it is tried again where it can.
    """
    path = rival_file(folder, rival, seed)
    known = read_result(path, StudyRival)
    if known is not None:
        return known
    fold = folder.fold(seed)
    parts = (fold.training.valid, fold.test)
    found = rival_outcomes(rival, fold.training.train, parts, modality=folder.conditions.modality, seed=seed)
    if isinstance(found, str):
        return StudyRival(rival=rival, seed=seed, test=None, reason=found)
    valid, test = found
    score = valid.scores.metric(folder.conditions.student_train.metric)
    result = StudyRival(rival=rival, seed=seed, test=test, valid_score=score)
    write_result(path, result)
    return result


def rivals_on(folder: StudyFolder, rivals: Sequence[RivalName], seeds: Sequence[int]) -> tuple[StudyRival, ...]:
    """Gives every rival on every seed."""
    return tuple(rival_on(folder, rival, seed) for rival in rivals for seed in seeds)
