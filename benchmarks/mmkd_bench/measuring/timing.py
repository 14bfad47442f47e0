"""The latency of every call, and steadiness: garbage is collected as in an application, and no sample is dropped."""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_documents.bench import LatencySummary, Percentile, TimeWindow, WarmUp

STABLE_WITHIN = 0.10  # relative distance from the mean (perf_analyzer's stability criterion)
WARM_UP_LIMIT_S = 5.0
_WARM_SLICE_S = 0.05
_WARM_SLICE_CALLS = 20
Call = Callable[[Any], object]
Arrays = dict[str, NDArray[np.int64]]
CONFIDENCE = 0.99  # one-sided confidence of floors and bounds; the value of the MLPerf rules
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True)
class CallTimes:
    """Calls in order; arrays are (N,)."""

    start_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    elapsed_ns: int


def call_loop(call: Call, windows: Sequence[Any], *, duration_s: float, stop: Event) -> CallTimes:
    """Call back to back until the time is over or `stop` is set; at least once."""
    starts, latencies = array("q"), array("q")
    clock = time.perf_counter_ns
    begin = clock()
    limit = begin + round(duration_s * 1e9)
    for window in itertools.cycle(windows):
        before = clock()
        call(window)
        after = clock()
        starts.append(before - begin)
        latencies.append(after - before)
        if after >= limit or stop.is_set():
            break
    return CallTimes(
        start_ns=np.array(starts, dtype=np.int64),
        latency_ns=np.array(latencies, dtype=np.int64),
        elapsed_ns=clock() - begin,
    )


def warm_up(call: Call, windows: Sequence[Any], *, stop: Event, limit_s: float = WARM_UP_LIMIT_S) -> WarmUp:
    """Call until medians of three slices agree, or the limit is reached."""
    medians: list[float] = []
    slice_ns: list[int] = []
    calls, begin = 0, time.perf_counter_ns()
    limit, slice_begin = begin + round(limit_s * 1e9), begin
    for window in itertools.cycle(windows):
        before = time.perf_counter_ns()
        call(window)
        after = time.perf_counter_ns()
        calls += 1
        slice_ns.append(after - before)
        if len(slice_ns) >= _WARM_SLICE_CALLS and after - slice_begin >= _WARM_SLICE_S * 1e9:
            medians.append(float(np.median(slice_ns)))
            slice_ns, slice_begin = [], after
            if len(medians) >= 3 and is_steady(medians[-3:]):
                return WarmUp(calls=calls, seconds=(after - begin) / 1e9, stable=True)
        if after >= limit or stop.is_set():
            break
    return WarmUp(calls=calls, seconds=(time.perf_counter_ns() - begin) / 1e9, stable=False)


def is_steady(values: Sequence[float]) -> bool:
    """Return whether all values lie within `STABLE_WITHIN` of the mean."""
    mean = math.fsum(values) / len(values)
    return all(abs(value - mean) <= STABLE_WITHIN * mean for value in values)


def time_windows(samples: CallTimes, *, parts: int) -> tuple[TimeWindow, ...]:
    """Cut a loop into `parts` equal windows, without empty ones."""
    length_ns = samples.elapsed_ns / parts
    part = np.minimum((samples.start_ns / length_ns).astype(np.int64), parts - 1)
    cuts = (samples.latency_ns[part == number] for number in range(parts))
    return tuple(
        TimeWindow(count=len(cut), p50_us=float(np.median(cut)) / 1e3, p90_us=float(np.quantile(cut, 0.9)) / 1e3)
        for cut in cuts
        if len(cut)
    )


@cache
def sample_floor(quantile: float) -> int:
    """Return the smallest n with P(binomial(n, 1 - quantile) <= 1) <= 1 - CONFIDENCE.

    >>> [sample_floor(quantile) for quantile in QUANTILES]
    [11, 64, 130, 662, 6636]
    """
    rest = 1 - quantile
    return next(n for n in count(2) if quantile**n + n * rest * quantile ** (n - 1) <= 1 - CONFIDENCE)


def upper_bound_rank(samples: int, quantile: float) -> int | None:
    """Return the largest rank with P(binomial(samples, 1 - quantile) <= rank) <= 1 - CONFIDENCE; None without one."""
    # Beyond mean + 1 every binomial's cumulative probability exceeds one half: end the search.
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
    """Summarise at least one sample (N,), without clipping."""
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
