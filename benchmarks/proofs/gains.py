"""Balanced accuracy, and gains in points with the middle 95 % over draws of cases or with their range, for adapting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def gained(gains: Floats) -> str:
    """Gives the mean of gains (N,) in points, with its interval."""
    return _with_interval(lambda rows: 100 * float(gains[rows].mean()), len(gains))


def ranged(gains: Floats) -> str:
    """Gives the mean of gains (N,) in points, with the least and the most, of cases that are not drawn apart."""
    mean, *ends = (f"{100 * found:+.1f}" for found in (gains.mean(), gains.min(), gains.max()))
    return mean if len(gains) == 1 else f"{mean} ({' to '.join(ends)})"


def mean_where(gains: Floats, counts: Sequence[bool]) -> str:
    """Gives the mean in points of those gains (N,) that count; nothing where none does."""
    mine = gains[np.array(counts)]
    return f"{100 * mine.mean():+.1f}" if len(mine) else ""


def recovered(gains: Floats, drops: Floats) -> str:
    """Gives the share of drops (N,) that gains (N,) win back, in percent, with its interval."""
    return _with_interval(lambda rows: 100 * float(gains[rows].sum() / drops[rows].sum()), len(gains))


def balanced_accuracy(truth: Sequence[int], said: Sequence[int]) -> float:
    """Gives the mean share of each class of the truth that was answered so."""
    wanted, got = np.array(truth), np.array(said)
    return float(np.mean([np.mean(got[wanted == number] == number) for number in np.unique(wanted)]))


def _with_interval(figure: Callable[[NDArray[np.int64]], float], count: int) -> str:
    """A figure of cases with the middle 95 % of it over 2,000 draws of cases."""
    if count < 2:
        return ""
    rng = np.random.default_rng(0)
    drawn = [figure(rng.integers(0, count, count)) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{figure(np.arange(count)):+.1f} [{low:+.1f}, {high:+.1f}]"
