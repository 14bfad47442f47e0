"""Rivals of a study's students: what one sensor gives without a network, on the same labels and test windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluate.rivals import extra_trees_answers, mini_rocket_answers
from mmkd_models.study_folder import Judged, StudyFolder, judged_on, read_result, write_result

RivalName = Literal["extra_trees", "mini_rocket"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)


class RivalResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rival on the test windows of a seed's fold, or the reason why there are no answers of it."""

    rival: RivalName
    seed: int
    test: Judged | None
    reason: str = ""


def rival_file(folder: StudyFolder, rival: RivalName, seed: int) -> Path:
    """Gives where a study keeps what a rival found."""
    return folder.out / "rivals" / f"{rival}-{folder.conditions.label_share:g}-seed{seed}.json"


def rival_on(folder: StudyFolder, rival: RivalName, seed: int) -> RivalResult:
    """Trains and judges a rival on the student's sensor and labels, once; later calls read what was found.

    What cannot be run here is told and not kept, so that it is tried again where it can.
    """
    path = rival_file(folder, rival, seed)
    known = read_result(path, RivalResult)
    if known is not None:
        return known
    try:
        answers = _answers(folder, rival, seed)
    except ImportError:
        return RivalResult(
            rival=rival, seed=seed, test=None, reason="aeon is not installed; run: pip install 'mmkd-edge[rivals]'"
        )
    except ValueError as error:  # aeon refuses windows that are too short for its kernels
        return RivalResult(rival=rival, seed=seed, test=None, reason=f"refused these windows: {error}")
    result = RivalResult(rival=rival, seed=seed, test=judged_on(folder.fold(seed).test, answers))
    write_result(path, result)
    return result


def _answers(folder: StudyFolder, rival: RivalName, seed: int) -> NDArray[np.int64]:
    fold, modality = folder.fold(seed), folder.conditions.modality
    if rival == "extra_trees":
        return extra_trees_answers(fold.training.train, fold.test, modality=modality, seed=seed).astype(np.int64)
    return mini_rocket_answers(fold.training.train, fold.test, modality=modality, seed=seed).astype(np.int64)


def rivals_on(folder: StudyFolder, rivals: Sequence[RivalName], seeds: Sequence[int]) -> tuple[RivalResult, ...]:
    """Gives every rival on every seed."""
    return tuple(rival_on(folder, rival, seed) for rival in rivals for seed in seeds)
