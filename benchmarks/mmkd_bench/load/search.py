"""The largest load of streams that is carried, looked for with short loads in one process.

Owns the search alone: how a load is offered is in `offering`, and what fresh processes make of the answer in `verdict`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import numpy as np

from mmkd_bench.load.offering import MAX_STREAMS, offer_load
from mmkd_bench.measuring.jobs import Demand
from mmkd_bench.measuring.timing import Call, closed_loop
from mmkd_report.schema.bench_others import Level

PROBE_S = 1.0
"""Length of a short load, unless too few windows come due in it."""

MIN_PROBE_ARRIVALS = 200
MAX_PROBE_S = 10.0
RESOLUTION = 0.02
"""The search ends when the largest load that was carried and the smallest that was not lie this close."""


def search_streams(carries: Callable[[int], bool], *, first_guess: int) -> int:
    """The largest number of streams that is carried, within `RESOLUTION`; 0 when not even one is.

    Args:
        carries: whether so many streams are carried; taken as true below and false above one point.
        first_guess: where to begin, at least 1.
    """
    low, high, guess = 0, MAX_STREAMS + 1, first_guess
    while high > MAX_STREAMS and guess <= MAX_STREAMS:
        if carries(guess):
            low, guess = guess, max(guess + 1, guess * 5 // 4)
        else:
            high = guess
    while high - low > max(1.0, RESOLUTION * low):
        middle = (low + high) // 2
        if carries(middle):
            low = middle
        else:
            high = middle
    return low


def find_capacity(
    call: Call, windows: Sequence[Any], *, demand: Demand, stop: Event, end_s: float = math.inf
) -> tuple[int, tuple[Level, ...]]:
    """Search for the largest load that is carried, in short loads, none but the first begun after `end_s` (monotonic).

    Returns:
        The number of streams and every short load in order, none where `stop` came before the first was over. Where it
        came later, the number is the most that was carried until then.
    """
    alone_ns = float(np.median(closed_loop(call, windows, duration_s=PROBE_S, stop=stop).latency_ns))
    first_guess = max(1, int(0.5 * demand.servers * 1e9 / alone_ns / demand.rate_hz))

    def probe(streams: int) -> Level:
        """One short load."""
        duration_s = probe_s(streams, rate_hz=demand.rate_hz)
        return offer_load(call, windows, streams=streams, demand=demand, duration_s=duration_s, stop=stop).level

    return search_load(probe, first_guess=first_guess, stop=stop, end_s=end_s)


def probe_s(streams: int, *, rate_hz: float) -> float:
    """Length of a short load of so many streams."""
    return min(MAX_PROBE_S, max(PROBE_S, MIN_PROBE_ARRIVALS / (streams * rate_hz)))


def search_load(
    probe: Callable[[int], Level], *, first_guess: int, stop: Event, end_s: float = math.inf
) -> tuple[int, tuple[Level, ...]]:
    """Search with short loads, of which two of up to three decide: one that fails may have met a pause of the machine.

    Where `end_s` has come, those that there are decide.

    Returns:
        The number of streams and every short load in order; one that `stop` cuts short does not count.
    """
    probes: list[Level] = []

    def carries(streams: int) -> bool:
        """Two of three short loads."""
        votes: list[bool] = []
        while max(votes.count(True), votes.count(False)) < 2 and not stop.is_set():
            if probes and time.monotonic() >= end_s:
                return votes.count(True) > votes.count(False)
            level = probe(streams)
            if not stop.is_set():
                probes.append(level)
                votes.append(level.carried)
        return votes.count(True) >= 2

    return search_streams(carries, first_guess=min(first_guess, MAX_STREAMS)), tuple(probes)
