"""Intervals of figures and of paired gains, by a bootstrap over groups.

Knows nothing of folds and their files: takes judged answers, one for each seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluate.by_group import Judged, drawn_figures
from mmkd_models.metrics.measures import measure_named

DRAWS = 2000
_DRAWS_OF_FOLDS = 4000
ROUNDING = 1e-9
"""A difference below this share of a figure is none: sums in another order differ by less."""


def gain_per_seed(ours: Sequence[Judged], theirs: Sequence[Judged], metric: str) -> tuple[float, ...]:
    """Gives how much better ours are on each seed, in the metric's `gain_unit`."""
    scale = measure_named(metric).gain_scale
    return tuple(
        scale * (our.scores.metric(metric) - their.scores.metric(metric))
        for our, their in zip(ours, theirs, strict=True)
    )


def figure_draws(tests: Sequence[Judged], metric: str, *, seed: int = 0, draws: int = DRAWS) -> NDArray[np.float64]:
    """Gives the mean over seeds of a figure under each draw of groups, (draws,); NaN where a draw has no window.

    A draw takes as many whole groups (people, machines, sessions) as there are, with replacement, the same ones for all
    seeds: a percentile bootstrap over clusters (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
    chapters 8 and 13). With as many groups the same seed draws the same groups. Of a dataset without groups it takes
    recordings, or blocks of consecutive windows (`block_length`).

    Args:
        tests: one result per seed.
        metric: whose figure.
        seed: of the draws.
        draws: how many.
    """
    return _mean_over_seeds(_drawn(tests, metric, seed=seed, draws=draws))


def gain_draws(
    ours: Sequence[Judged], theirs: Sequence[Judged], metric: str, *, seed: int = 0, draws: int = DRAWS
) -> NDArray[np.float64]:
    """Gives the gain under each draw of `figure_draws`, the same groups for both, in the metric's `gain_unit`.

    It is above 0 where ours are better.
    """
    more = _drawn(ours, metric, seed=seed, draws=draws) - _drawn(theirs, metric, seed=seed, draws=draws)
    return measure_named(metric).gain_scale * _mean_over_seeds(more)


def _drawn(tests: Sequence[Judged], metric: str, *, seed: int, draws: int) -> NDArray[np.float64]:
    """The figure of every seed under each draw, (seeds, draws)."""
    groups = sorted({one.group for judged in tests for one in judged.by_group})
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)  # (draws, groups)
    return np.stack([drawn_figures(judged, groups, weights, metric) for judged in tests])


def _mean_over_seeds(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, drawn, 0.0).sum(axis=0) / known.sum(axis=0))


def interval_of(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Gives the ends of the 95 % interval of draws (D,), by percentiles; draws that are NaN do not count."""
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def gain_of_pairs(
    pairs: Sequence[tuple[Sequence[Judged], Sequence[Judged]]], metric: str, *, seed: int = 0
) -> tuple[float, float, float]:
    """Gives what the first of each pair are better by, in the metric's `gain_unit`: mean, and a 95 % interval.

    The mean is over pairs and their seeds; the interval is of `gain_draws`, the same draws for all pairs.
    """
    gains = [gain_per_seed(ours, theirs, metric) for ours, theirs in pairs]
    drawn = [gain_draws(ours, theirs, metric, seed=seed, draws=_DRAWS_OF_FOLDS) for ours, theirs in pairs]
    return float(np.mean(gains)), *interval_of(np.mean(drawn, axis=0))
