"""Loops that call something and keep every latency, and the judgements on their samples: warm, stable.

Owns the clock. Knows nothing of bundles, backends or processes: a loop gets a callable and the windows to call it with.
Garbage collection stays as an application has it, nothing is pinned, no sample is dropped.
"""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_report.schema.bench import TimeWindow, WarmUp

STABLE_WITHIN = 0.10
"""Three windows are stable when each lies this close to their mean (perf_analyzer's stability criterion)."""

SEED = 0
WARM_SLICE_S = 0.05
WARM_SLICE_CALLS = 20

Call = Callable[[Any], object]


@dataclass(frozen=True, kw_only=True)
class CallTimes:
    """Every call of one loop, in order.

    Attributes:
        start_ns: when each call began, counted from the loop's begin, (N,).
        latency_ns: how long each call took, (N,).
        elapsed_ns: the whole loop.
    """

    start_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    elapsed_ns: int

    def __len__(self) -> int:
        return len(self.latency_ns)


@dataclass(frozen=True, kw_only=True)
class PacedSamples:
    """Every call of a loop on a fixed schedule, in order.

    Attributes:
        samples: start and length of each call.
        lateness_ns: how long after its scheduled time each call began, (N,): wake-up jitter plus backlog.
        overloaded: the backlog grew until the loop was given up.
    """

    samples: CallTimes
    lateness_ns: NDArray[np.int64]
    overloaded: bool

    @property
    def response_ns(self) -> NDArray[np.int64]:
        """From the scheduled time to the end of each call, (N,): what somebody who waits for the answer sees."""
        return self.lateness_ns + self.samples.latency_ns


def closed_loop(call: Call, windows: Sequence[Any], *, duration_s: float, stop: Event) -> CallTimes:
    """Call again as soon as the answer is there, until the time is over or `stop` is set. At least one call."""
    starts, latencies = array("q"), array("q")
    clock = time.perf_counter_ns
    begin = clock()
    end = begin + round(duration_s * 1e9)
    for window in itertools.cycle(windows):
        before = clock()
        call(window)
        after = clock()
        starts.append(before - begin)
        latencies.append(after - before)
        if after >= end or stop.is_set():
            break
    return CallTimes(start_ns=_int64(starts), latency_ns=_int64(latencies), elapsed_ns=clock() - begin)


def paced_loop(
    call: Call, windows: Sequence[Any], *, rate_hz: float, duration_s: float, phase_s: float = 0.0, stop: Event
) -> PacedSamples:
    """Call at fixed times, as a sensor would ask for it, until the time is over or `stop` is set.

    The schedule is absolute: a late call does not move the later ones, and none is skipped. So a stall shows in every
    call that it delayed ("coordinated omission" cannot hide it). A loop that falls behind by its own length gives up.

    Args:
        call: what is measured.
        windows: arguments, taken in turn.
        rate_hz: calls per second.
        duration_s: length of the schedule in seconds.
        phase_s: when the schedule begins, after the loop's begin.
        stop: ends the loop early, between two calls.
    """
    starts, latencies, lateness = array("q"), array("q"), array("q")
    clock, sleep = time.perf_counter_ns, time.sleep
    begin = clock()
    first = begin + round(phase_s * 1e9)
    give_up = first + round(2 * duration_s * 1e9)
    planned = max(1, math.floor(duration_s * rate_hz))
    after = begin
    for number, window in zip(range(planned), itertools.cycle(windows), strict=False):
        scheduled = first + round(number * 1e9 / rate_hz)
        wait = scheduled - clock()
        if wait > 0:
            sleep(wait / 1e9)
        before = clock()
        call(window)
        after = clock()
        starts.append(before - begin)
        latencies.append(after - before)
        lateness.append(before - scheduled)
        if after >= give_up or stop.is_set():
            break
    samples = CallTimes(start_ns=_int64(starts), latency_ns=_int64(latencies), elapsed_ns=clock() - begin)
    return PacedSamples(samples=samples, lateness_ns=_int64(lateness), overloaded=after >= give_up)


def warm_up(call: Call, windows: Sequence[Any], *, limit_s: float, stop: Event) -> WarmUp:
    """Call until the medians of three slices in a row agree, or the limit is reached."""
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
        if len(slice_ns) >= WARM_SLICE_CALLS and after - slice_begin >= WARM_SLICE_S * 1e9:
            medians.append(float(np.median(slice_ns)))
            slice_ns, slice_begin = [], after
            if len(medians) >= 3 and is_steady(medians[-3:]):
                return WarmUp(calls=calls, seconds=(after - begin) / 1e9, stable=True)
        if after >= limit or stop.is_set():
            break
    return WarmUp(calls=calls, seconds=(time.perf_counter_ns() - begin) / 1e9, stable=False)


def phases_s(count: int, *, rate_hz: float) -> NDArray[np.float64]:
    """When each of several sources of one rate asks first, in seconds, (N,)."""
    return np.random.default_rng(SEED).random(count) / rate_hz


def is_steady(values: Sequence[float]) -> bool:
    """Each value lies within `STABLE_WITHIN` of the mean of all.

    >>> is_steady([100.0, 104.0, 96.0]), is_steady([100.0, 100.0, 130.0])
    (True, False)
    """
    mean = math.fsum(values) / len(values)
    return all(abs(value - mean) <= STABLE_WITHIN * mean for value in values)


def time_windows(samples: CallTimes, *, parts: int) -> tuple[TimeWindow, ...]:
    """Cut a loop into `parts` windows of equal length; a window in which no call began is left out."""
    length_ns = samples.elapsed_ns / parts
    part = np.minimum((samples.start_ns / length_ns).astype(np.int64), parts - 1)
    cuts = (samples.latency_ns[part == number] for number in range(parts))
    return tuple(
        TimeWindow(count=len(cut), p50_us=float(np.median(cut)) / 1e3, p90_us=float(np.quantile(cut, 0.9)) / 1e3)
        for cut in cuts
        if len(cut)
    )


def clock_cost_ns(readings: int = 2001) -> float:
    """Median length of an empty measurement on this machine: every latency includes it."""
    clock = time.perf_counter_ns
    empty = array("q")
    for _ in range(readings):
        before = clock()
        empty.append(clock() - before)
    return float(np.median(_int64(empty)))


def _int64(values: array[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
