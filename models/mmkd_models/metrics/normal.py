"""Alarms of scores of normal running: thresholds by p-value, AUROC within strata."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.predict.novelty import largest_normal
from mmkd_models.metrics.scores import normal_scores

Floats = NDArray[np.float64]


def threshold(scores: Floats, level: float) -> float:
    """Return the least score whose p-value among normal `scores` (N,) is at most `level`; infinite if there is none."""
    return float(np.nextafter(largest_normal(np.sort(scores), level), np.inf))


def within_auroc(faulty: NDArray[np.bool_], scores: Floats, strata: NDArray[Any]) -> float | None:
    """Return the AUROC over pairs of windows (N,) of one stratum; None without such a pair."""
    pairs, won = 0.0, 0.0
    for stratum in np.unique(strata):
        here = strata == stratum
        count = float(faulty[here].sum() * (~faulty[here]).sum())
        pairs += count
        won += count * normal_scores(faulty[here], scores[here]).auroc
    return won / pairs if pairs else None
