"""Percentiles of latency samples, the number of samples they need, and a one-sided upper bound.

Both are order statistics: the number of samples above the true p-quantile is binomial(n, 1 - p). Source: MLPerf
inference rules, appendix "Early stopping criterion"; David and Nagaraja, Order Statistics, 3rd ed., section 7.1. It
takes samples as independent; neighbouring latencies are not quite that, so `mmkd_bench.compare` resamples launches.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from mmkd_report.schema.bench import LatencySummary, Percentile

CONFIDENCE = 0.99
"""One-sided confidence of floors and bounds; the value of the MLPerf rules."""

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@cache
def sample_floor(quantile: float) -> int:
    """Return the smallest n with P(binomial(n, 1 - quantile) <= 1) <= 1 - CONFIDENCE.

    >>> [sample_floor(quantile) for quantile in QUANTILES]
    [11, 64, 130, 662, 6636]
    """
    rest = 1 - quantile
    return next(n for n in count(2) if quantile**n + n * rest * quantile ** (n - 1) <= 1 - CONFIDENCE)


def upper_bound_rank(samples: int, quantile: float) -> int | None:
    """Return the largest rank with P(binomial(samples, 1 - quantile) <= rank) <= 1 - CONFIDENCE.

    The sample at index `samples - 1 - rank`, in rising order, is the bound; None if even the largest is none.
    """
    # Beyond mean + 1 the cumulative probability exceeds one half for every binomial: the search may end there.
    last = min(samples, math.ceil(samples * (1 - quantile)) + 1)
    above = np.arange(last + 1, dtype=np.float64)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(samples - above[1:] + 1) - np.log(above[1:]))])
    log_mass = log_choose + above * math.log(1 - quantile) + (samples - above) * math.log(quantile)
    log_cumulative = np.logaddexp.accumulate(log_mass)
    rare = int(np.searchsorted(log_cumulative, math.log(1 - CONFIDENCE), side="right"))
    return rare - 1 if rare else None


def percentile(latencies_ns: NDArray[np.int64], quantile: float) -> Percentile:
    """Return one percentile with its floor and bound."""
    floor, rising_ns = sample_floor(quantile), np.sort(latencies_ns)
    if len(rising_ns) < floor:
        return Percentile(quantile=quantile, value_us=None, upper_us=None, floor=floor)
    rank = upper_bound_rank(len(rising_ns), quantile)
    upper_us = None if rank is None else float(rising_ns[len(rising_ns) - 1 - rank]) / 1e3
    value_us = float(np.quantile(rising_ns, quantile)) / 1e3
    return Percentile(quantile=quantile, value_us=value_us, upper_us=upper_us, floor=floor)


def summarise(latencies_ns: NDArray[np.int64]) -> LatencySummary:
    """Summarise at least one sample (N,); nothing is clipped."""
    if len(latencies_ns) == 0:
        raise ValueError("latencies_ns: expected at least one sample, got none")
    rising_ns = np.sort(latencies_ns)
    return LatencySummary(
        count=len(rising_ns),
        mean_us=float(rising_ns.mean()) / 1e3,
        min_us=float(rising_ns[0]) / 1e3,
        max_us=float(rising_ns[-1]) / 1e3,
        percentiles=tuple(percentile(rising_ns, quantile) for quantile in QUANTILES),
    )
