"""Alarms of scores of normal running: thresholds by p-value, rates by group, AUROC within strata."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_models.metrics.scores import normal_scores

Floats = NDArray[np.float64]


def threshold(scores: Floats, level: float) -> float:
    """Return the least score whose p-value among normal `scores` (N,) is at most `level`; infinite if there is none.

    A p-value is (1 + scores at or above) / (N + 1) (Vovk et al., Algorithmic Learning in a Random World, 2005, ch. 2).
    """
    above = int(np.floor(level * (len(scores) + 1) + 1e-9)) - 1
    return float("inf") if above < 0 else float(np.nextafter(np.sort(scores)[len(scores) - above - 1], np.inf))


def alarm_rates(scores: Floats, groups: NDArray[Any], level: float) -> Floats:
    """Return each group's fraction (G,) of windows above the threshold of the other groups."""
    own = [groups == group for group in np.unique(groups)]
    return np.array([(scores[here] >= threshold(scores[~here], level)).mean() for here in own])


def within_auroc(faulty: NDArray[np.bool_], scores: Floats, strata: NDArray[Any]) -> float | None:
    """Return the AUROC over pairs of windows (N,) of one stratum; None without such a pair."""
    pairs, won = 0.0, 0.0
    for stratum in np.unique(strata):
        here = strata == stratum
        count = float(faulty[here].sum() * (~faulty[here]).sum())
        pairs += count
        won += count * normal_scores(faulty[here], scores[here]).auroc
    return won / pairs if pairs else None
