"""Figures over folds: spreads over seeds, gains with the interval of a bootstrap over groups, and the gap recovered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmkd_models.compare.fold_result import FoldResult, Spread
from mmkd_models.evaluate.by_group import Judged
from mmkd_models.evaluate.intervals import ROUNDING, gain_draws, gain_of_pairs, gain_per_seed, interval_of
from mmkd_models.metrics.measures import Measure, measure_named

_FEWEST_GROUPS_OF_A_GAP = 2  # the draws of one group are all the same


def spread(values: Sequence[float]) -> Spread:
    """Gives the spread of a figure over seeds.

    Example:
        >>> spread([0.25, 0.75]).mean
        0.5
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(mean=float(np.mean(values)), std=std, per_seed=tuple(values))


def gain_of_folds(
    folds: Sequence[FoldResult], modalities: Sequence[str], measure: Measure, *, seed: int = 0
) -> tuple[float, float, float]:
    """Gives the gain of students over baselines, over modalities and folds, as `gain_of_pairs` does."""
    pairs = [
        ([fold.students[name].student.test for fold in folds], [fold.students[name].baseline.test for fold in folds])
        for name in modalities
    ]
    return gain_of_pairs(pairs, measure.name, seed=seed)


def gap_recovered(
    students: Sequence[Judged], baselines: Sequence[Judged], teachers: Sequence[Judged], metric: str
) -> float | None:
    """Gives the share of the way from baseline to teacher that the student goes; None where that way is not measurable.

    It is where the whole interval of teacher minus baseline, of two groups or more, lies above 0.
    """
    if len({one.group for judged in teachers for one in judged.by_group}) < _FEWEST_GROUPS_OF_A_GAP:
        return None
    low, _ = interval_of(gain_draws(teachers, baselines, metric))
    scale = abs(measure_named(metric).gain_scale * np.mean([judged.scores.metric(metric) for judged in baselines]))
    if low <= ROUNDING * scale:
        return None
    gain, way = (np.mean(gain_per_seed(ours, baselines, metric)) for ours in (students, teachers))
    return float(gain / way)
