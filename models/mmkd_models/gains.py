"""Figures over folds: spreads over seeds, and the gain of distillation with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_models.fold_result import FoldResult, Spread


def spread(values: Sequence[float]) -> Spread:
    """Gives the spread of a figure over seeds.

    Example:
        >>> spread([0.25, 0.75]).mean
        0.5
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(mean=float(np.mean(values)), std=std, per_seed=tuple(values))


def gain_points(folds: Sequence[FoldResult], modalities: Sequence[str], *, seed: int = 0) -> tuple[float, float, float]:
    """Gives the gain of students over baselines in points of accuracy: mean, and a 95 % interval.

    The mean is over modalities and folds of (student - baseline). The interval resamples whole groups (people,
    machines, sessions) with replacement, the same draw for all modalities: a percentile bootstrap over clusters (Efron
    and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13), 4,000 draws.
    """
    groups = sorted(
        {count.group for fold in folds for name in modalities for count in fold.students[name].student.by_group}
    )
    position = {group: number for number, group in enumerate(groups)}
    gains = np.zeros((len(folds), len(groups)))  # right answers more, summed over modalities
    sizes = np.zeros((len(folds), len(groups)))
    for row, fold in enumerate(folds):
        for name in modalities:
            result = fold.students[name]
            for ours, theirs in zip(result.student.by_group, result.baseline.by_group, strict=True):
                gains[row, position[ours.group]] += ours.right - theirs.right
                sizes[row, position[ours.group]] += ours.windows

    def points(weights: NDArray[np.float64]) -> float:
        size = sizes @ weights
        inside = size > 0
        return float(100 * np.mean((gains @ weights)[inside] / size[inside]))

    rng = np.random.default_rng(seed)
    draws = [
        points(rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups))).astype(float)) for _ in range(4000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return points(np.ones(len(groups))), float(low), float(high)
