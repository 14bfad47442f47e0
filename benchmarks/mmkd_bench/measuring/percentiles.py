"""Percentiles of latency samples with the sample count they need and a one-sided bound. Reads no clock.

A percentile of n samples is an estimate. Two things keep it honest: a floor (the fewest samples from which it may be
quoted) and an upper confidence bound. Both follow from order statistics: the number of samples above the true
p-quantile is binomial(n, 1 - p), whatever the distribution of the latency.
Source: MLPerf inference rules, "early stopping" (github.com/mlcommons/inference_policies, appendix "Early stopping
criterion"); David and Nagaraja, Order Statistics, 3rd ed., section 7.1.
The formula takes samples as independent. Neighbouring latencies are not quite that, so the launches of a run are the
stronger evidence, and `mmkd_bench.compare` resamples those.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mmkd_report.schema.bench import LatencySummary, Percentile

CONFIDENCE = 0.99
"""One-sided confidence of floors and bounds; the value of the MLPerf rules."""

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
"""What every report lists, together with the largest sample."""


def quantile_name(quantile: float) -> str:
    """The usual name of a quantile.

    >>> quantile_name(0.5), quantile_name(0.999)
    ('p50', 'p99.9')
    """
    return f"p{100 * quantile:.10g}"


def sample_floor(quantile: float) -> int:
    """The fewest samples from which a percentile is quoted: the second-largest is still an upper bound of it.

    The smallest n with P(binomial(n, 1 - quantile) <= 1) <= 1 - CONFIDENCE.

    >>> [sample_floor(quantile) for quantile in QUANTILES]
    [11, 64, 130, 662, 6636]
    """
    low, high = 1, 2
    while not _one_above_is_rare(high, quantile):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _one_above_is_rare(middle, quantile) else (middle, high)
    return high


def _one_above_is_rare(count: int, quantile: float) -> bool:
    probability = quantile**count + count * (1 - quantile) * quantile ** (count - 1)
    return probability <= 1 - CONFIDENCE


def upper_bound_rank(count: int, quantile: float) -> int | None:
    """How many of the largest samples lie above the upper confidence bound of a percentile.

    With the samples in rising order the bound is the sample at index `count - 1 - rank`: the largest rank with
    P(binomial(count, 1 - quantile) <= rank) <= 1 - CONFIDENCE.

    Returns:
        The rank, or None where even the largest sample is no bound.
    """
    # Beyond mean + 1 the cumulative probability exceeds one half for every binomial: the search may end there.
    last = min(count, math.ceil(count * (1 - quantile)) + 1)
    above = np.arange(last + 1, dtype=np.float64)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(count - above[1:] + 1) - np.log(above[1:]))])
    log_mass = log_choose + above * math.log(1 - quantile) + (count - above) * math.log(quantile)
    log_cumulative = np.logaddexp.accumulate(log_mass)
    rare = int(np.searchsorted(log_cumulative, math.log(1 - CONFIDENCE), side="right"))
    return rare - 1 if rare else None


def percentile(latencies_ns: NDArray[np.int64], quantile: float, *, rising: bool = False) -> Percentile:
    """One percentile with its floor and bound."""
    ordered = latencies_ns if rising else np.sort(latencies_ns)
    floor = sample_floor(quantile)
    if len(ordered) < floor:
        return Percentile(quantile=quantile, value_us=None, upper_us=None, floor=floor)
    rank = upper_bound_rank(len(ordered), quantile)
    upper_us = None if rank is None else float(ordered[len(ordered) - 1 - rank]) / 1e3
    value_us = float(np.quantile(ordered, quantile)) / 1e3
    return Percentile(quantile=quantile, value_us=value_us, upper_us=upper_us, floor=floor)


def summarise(latencies_ns: NDArray[np.int64]) -> LatencySummary:
    """Summary of at least one sample (N,) in nanoseconds; nothing is clipped."""
    if len(latencies_ns) == 0:
        raise ValueError("latencies_ns: expected at least one sample, got none")
    ordered = np.sort(latencies_ns)
    return LatencySummary(
        count=len(ordered),
        mean_us=float(ordered.mean()) / 1e3,
        std_us=float(ordered.std()) / 1e3,
        min_us=float(ordered[0]) / 1e3,
        max_us=float(ordered[-1]) / 1e3,
        percentiles=tuple(percentile(ordered, quantile, rising=True) for quantile in QUANTILES),
    )
