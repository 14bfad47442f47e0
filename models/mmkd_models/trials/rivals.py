"""Rivals of a study's students: what one sensor gives without a network, on the same labels and test windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from mmkd_models.evaluate.outcome import Outcome
from mmkd_models.evaluate.rivals import extra_trees_judged, mini_rocket_judged
from mmkd_models.trials.folder import StudyFolder, read_result, write_result

RivalName = Literal["extra_trees", "mini_rocket"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)


class StudyRival(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rival on the test windows of a seed's fold, or the reason why there are no answers of it.

    `valid_score` is what validation maximises; None also in files of earlier releases.
    """

    rival: RivalName
    seed: int
    test: Outcome | None
    reason: str = ""
    valid_score: float | None = None


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
    try:
        valid, test = _judged(folder, rival, seed)
    except ImportError:
        return StudyRival(
            rival=rival, seed=seed, test=None, reason="aeon is not installed; run: pip install 'mmkd-edge[rivals]'"
        )
    except ValueError as error:  # aeon refuses windows that are too short for its kernels
        return StudyRival(rival=rival, seed=seed, test=None, reason=f"refused these windows: {error}")
    score = valid.scores.metric(folder.conditions.student_train.metric)
    result = StudyRival(rival=rival, seed=seed, test=test, valid_score=score)
    write_result(path, result)
    return result


def _judged(folder: StudyFolder, rival: RivalName, seed: int) -> tuple[Outcome, ...]:
    """On the validation windows of the fold, and on its test windows."""
    fold = folder.fold(seed)
    judge = extra_trees_judged if rival == "extra_trees" else mini_rocket_judged
    parts = (fold.training.valid, fold.test)
    return judge(fold.training.train, parts, modality=folder.conditions.modality, seed=seed)


def rivals_on(folder: StudyFolder, rivals: Sequence[RivalName], seeds: Sequence[int]) -> tuple[StudyRival, ...]:
    """Gives every rival on every seed."""
    return tuple(rival_on(folder, rival, seed) for rival in rivals for seed in seeds)
