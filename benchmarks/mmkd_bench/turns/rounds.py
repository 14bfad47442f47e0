"""Calls in turn in one process: clock speeds and neighbours are the same for all, so ratios hold.

The order alternates from round to round: the second finds the caches as the first left them.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.measuring.jobs import InTurnOutcome, Timed

WARM_UP_S = 0.5
MIN_ROUNDS = 20


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, duration_s: float, stop: Event, twice: bool = False
) -> InTurnOutcome | None:
    """Call all in turn and take percentiles per repeat of at least 20 rounds; None if `stop` cuts the first."""
    in_order = tuple(calls.values())
    take_turns(in_order, duration_s=min(WARM_UP_S, duration_s), stop=stop)
    percentiles: list[NDArray[np.float64]] = []
    differences_us, count = [], 0
    for _ in range(repeats):
        lengths = take_turns(in_order, duration_s=duration_s / repeats, stop=stop, twice=twice)
        if stop.is_set():
            break
        percentiles.append(np.quantile(lengths, (0.5, 0.9, 0.99), axis=1) / 1e3)  # (3, calls)
        differences_us.append(float(np.median(lengths[0] - lengths[-1])) / 1e3)
        count += len(lengths[0])
    if not percentiles:
        return None
    p50_us, p90_us, p99_us = np.stack(percentiles).transpose(1, 2, 0)  # each (calls, repeats)
    return InTurnOutcome(
        times=tuple(
            Timed(name=name, p50_us=tuple(p50.tolist()), p90_us=tuple(p90.tolist()), p99_us=tuple(p99.tolist()))
            for name, p50, p90, p99 in zip(calls, p50_us, p90_us, p99_us, strict=True)
        ),
        difference_us=tuple(differences_us),
        count=count,
    )


def take_turns(
    calls: Sequence[Callable[[], object]],
    *,
    duration_s: float,
    stop: Event,
    twice: bool = False,
    burst: int = 1,
    min_rounds: int = MIN_ROUNDS,
) -> tuple[NDArray[np.int64], ...]:
    """Call all again and again, in both orders; return the lengths of each one's calls in ns, (N,).

    With `twice` an extra call precedes the timed `burst`, so that each finds the caches as it left them itself.
    """
    clock = time.perf_counter_ns
    lengths = tuple(array("q") for _ in calls)
    end = clock() + round(duration_s * 1e9)
    order = tuple(zip(calls, lengths, strict=True))
    rounds = 0
    while not rounds or ((rounds < min_rounds or clock() < end) and not stop.is_set()):
        for call, times in order:
            if twice:
                call()
            for _ in range(burst):
                before = clock()
                call()
                times.append(clock() - before)
        order = order[::-1]
        rounds += 1
    return tuple(np.array(length, dtype=np.int64) for length in lengths)


def turning(call: Callable[[Any], object], arguments: Sequence[Any]) -> Callable[[], object]:
    """Return `call` without an argument: it takes the next of `arguments` each time."""
    following = itertools.cycle(arguments)
    return lambda: call(next(following))
