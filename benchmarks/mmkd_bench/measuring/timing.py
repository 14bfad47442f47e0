"""Loops that record the latency of every call, and steadiness of samples.

Garbage collection stays as in an application; no sample is dropped.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from threading import Event
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmkd_report.schema.bench import LatencySummary, Percentile, TimeWindow, WarmUp

STABLE_WITHIN = 0.10  # relative distance from the mean (perf_analyzer's stability criterion)
SEED = 0
_WARM_SLICE_S = 0.05
_WARM_SLICE_CALLS = 20
Call = Callable[[Any], object]
Arrays = dict[str, NDArray[np.int64]]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class CallTimes:
    """Calls of one or several clients, ordered by start; arrays are (N,).

    `lateness_ns` is each start's delay against a schedule; an `overloaded` loop gave up.
    """

    start_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    lateness_ns: NDArray[np.int64] | None
    client: NDArray[np.int64]
    elapsed_ns: int
    overloaded: bool = False

    def __len__(self) -> int:
        return len(self.latency_ns)

    def arrays(self) -> Arrays:
        """Return raw samples by name."""
        arrays = {"client": self.client, "start_ns": self.start_ns, "latency_ns": self.latency_ns}
        return arrays if self.lateness_ns is None else {**arrays, "lateness_ns": self.lateness_ns}


def call_loop(
    call: Call,
    windows: Sequence[Any],
    *,
    duration_s: float,
    stop: Event,
    rate_hz: float | None = None,
    phase_s: float = 0.0,
) -> CallTimes:
    """Call back to back, or on a schedule, until the time is over or `stop` is set; at least once.

    The schedule is absolute: no call is moved or skipped, so a stall shows in every delayed call ("coordinated
    omission" cannot hide it). A loop that falls behind by its own length gives up.
    """
    starts, latencies, lateness = array("q"), array("q"), array("q")
    clock = time.perf_counter_ns
    after = begin = clock()
    first = begin + round(phase_s * 1e9)
    limit = begin + round(duration_s * 1e9) if rate_hz is None else first + round(2e9 * duration_s)
    numbers = itertools.count() if rate_hz is None else range(max(1, math.floor(duration_s * rate_hz)))
    for number, window in zip(numbers, itertools.cycle(windows), strict=False):
        if rate_hz is not None:
            scheduled = first + round(number * 1e9 / rate_hz)
            if (wait := scheduled - clock()) > 0:
                time.sleep(wait / 1e9)
        before = clock()
        call(window)
        after = clock()
        starts.append(before - begin)
        latencies.append(after - before)
        if rate_hz is not None:
            lateness.append(before - scheduled)
        if after >= limit or stop.is_set():
            break
    return CallTimes(
        start_ns=np.array(starts, dtype=np.int64),
        latency_ns=np.array(latencies, dtype=np.int64),
        lateness_ns=None if rate_hz is None else np.array(lateness, dtype=np.int64),
        client=np.zeros(len(starts), dtype=np.int64),
        elapsed_ns=clock() - begin,
        overloaded=rate_hz is not None and after >= limit,
    )


def call_together(
    calls: Sequence[Call], windows: Sequence[Any], *, rate_hz: float | None, duration_s: float, stop: Event
) -> CallTimes:
    """Run a loop per client at once, each with its first window and phase; raise the first error."""
    count = len(calls)
    phases = phases_s(count, rate_hz=rate_hz) if count > 1 and rate_hz is not None else np.zeros(count)

    def loop(client: int) -> CallTimes:
        first = client % len(windows)
        turned = (*windows[first:], *windows[:first]) if first else windows
        phase_s = float(phases[client])
        return call_loop(calls[client], turned, duration_s=duration_s, stop=stop, rate_hz=rate_hz, phase_s=phase_s)

    loops = run_threads(loop, count, stop=stop)
    if count == 1:
        return loops[0]
    loops = [replace(loop, client=loop.client + number) for number, loop in enumerate(loops)]
    joined = {name: np.concatenate([loop.arrays()[name] for loop in loops]) for name in loops[0].arrays()}
    order = np.argsort(joined["start_ns"], kind="stable")
    return CallTimes(
        start_ns=joined["start_ns"][order],
        latency_ns=joined["latency_ns"][order],
        lateness_ns=joined["lateness_ns"][order] if rate_hz is not None else None,
        client=joined["client"][order],
        elapsed_ns=max(loop.elapsed_ns for loop in loops),
        overloaded=any(loop.overloaded for loop in loops),
    )


def run_threads(work: Callable[[int], ResultT], count: int, *, stop: Event) -> list[ResultT]:
    """Return results of `work(0)`, `work(1)`... in threads; the first exception sets `stop` and is raised."""
    if count == 1:
        return [work(0)]
    barrier = threading.Barrier(count)
    results: dict[int, ResultT] = {}
    errors: list[Exception] = []

    def thread(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(count)]


def warm_up(call: Call, windows: Sequence[Any], *, limit_s: float, stop: Event) -> WarmUp:
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


def phases_s(count: int, *, rate_hz: float) -> NDArray[np.float64]:
    """Return random phases of sources of one rate, in seconds, (N,)."""
    return np.random.default_rng(SEED).random(count) / rate_hz


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


CONFIDENCE = 0.99  # one-sided confidence of floors and bounds; the value of the MLPerf rules
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

    The rising sample `samples - 1 - rank` is the bound; None without one.
    """
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
