"""Figures over folds: spreads over seeds, gains with the interval of a bootstrap over groups, and the gap recovered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluate.judged import Judged, drawn_figures
from mmkd_models.evaluate.measures import Measure, measure_named
from mmkd_models.fold_result import FoldResult, Spread

DRAWS = 2000
_DRAWS_OF_FOLDS = 4000
_LEAST_GAP = 0.01  # a teacher less than one point above the baseline leaves no gap to speak of


def spread(values: Sequence[float]) -> Spread:
    """Gives the spread of a figure over seeds.

    Example:
        >>> spread([0.25, 0.75]).mean
        0.5
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(mean=float(np.mean(values)), std=std, per_seed=tuple(values))


def gain_per_seed(ours: Sequence[Judged], theirs: Sequence[Judged], metric: str) -> tuple[float, ...]:
    """Gives how much better ours are on each seed, in the metric's `gain_unit`."""
    scale = measure_named(metric).gain_scale
    return tuple(
        scale * (our.scores.metric(metric) - their.scores.metric(metric))
        for our, their in zip(ours, theirs, strict=True)
    )


def gain_draws(
    ours: Sequence[Judged], theirs: Sequence[Judged], metric: str, *, seed: int = 0, draws: int = DRAWS
) -> NDArray[np.float64]:
    """Gives the gain under each draw of groups, (draws,); NaN where a draw has no window of any seed.

    A draw takes as many whole groups (people, machines, sessions) as there are, with replacement, the same ones for all
    seeds and both networks: a percentile bootstrap over clusters (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapters 8 and 13). With as many groups the same seed draws the same groups. Of a dataset without
    groups it takes recordings, or blocks of consecutive windows (`block_length`).

    Args:
        ours: one result per seed.
        theirs: of the same seeds, in the same order.
        metric: what is compared. Gains are in its `gain_unit`, and above 0 where ours are better.
        seed: of the draws.
        draws: how many.
    """
    groups = sorted({one.group for result in ours for one in result.by_group})
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)  # (draws, groups)
    drawn = np.stack(
        [
            drawn_figures(our, groups, weights, metric) - drawn_figures(their, groups, weights, metric)
            for our, their in zip(ours, theirs, strict=True)
        ]
    )  # (seeds, draws)
    known = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, drawn, 0.0).sum(axis=0) / known.sum(axis=0)
    return np.asarray(measure_named(metric).gain_scale * mean)


def interval_of(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Gives the ends of the 95 % interval of draws (D,), by percentiles; draws that are NaN do not count."""
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def gain_of_folds(
    folds: Sequence[FoldResult], modalities: Sequence[str], measure: Measure, *, seed: int = 0
) -> tuple[float, float, float]:
    """Gives the gain of students over baselines in the measure's `gain_unit`: mean, and a 95 % interval.

    The mean is over modalities and folds of what the student is better by; the interval is of `gain_draws`, the same
    draws for all modalities.
    """
    pairs = [
        ([fold.students[name].student.test for fold in folds], [fold.students[name].baseline.test for fold in folds])
        for name in modalities
    ]
    gains = [gain_per_seed(ours, theirs, measure.name) for ours, theirs in pairs]
    drawn = [gain_draws(ours, theirs, measure.name, seed=seed, draws=_DRAWS_OF_FOLDS) for ours, theirs in pairs]
    return float(np.mean(gains)), *interval_of(np.mean(drawn, axis=0))


def gap_recovered(student: float, baseline: float, teacher: float, measure: Measure) -> float | None:
    """Gives the share of the way from baseline to teacher that the student goes; None where there is no such way.

    There is none where the teacher is not a point better, or of an error not by a hundredth of the baseline's.
    """
    sign = -1 if measure.lower_is_better else 1
    way, least = sign * (teacher - baseline), _LEAST_GAP * (abs(baseline) if measure.lower_is_better else 1)
    return sign * (student - baseline) / way if way >= least and way > 0 else None
