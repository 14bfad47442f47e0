"""Loads of many streams at one rate and random phases, and a search for the largest."""

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

from mmkd_bench.machine.interference import interference, read_counters
from mmkd_bench.measuring.jobs import Demand, LoadJob, LoadOutcome
from mmkd_bench.measuring.opening import describe, open_predictor, predict_argument, raw_windows
from mmkd_bench.measuring.timing import Arrays, Call, call_loop, phases_s, run_threads, summarise, warm_up
from mmkd_report.schema.bench import Level

# A load is carried if p99.9 is within the deadline: at most this fraction is later
MISSED_FRACTION = 0.001

_GROWTH_FRACTION = 0.02  # A backlog that grows faster, as a fraction of time, is too much
MAX_STREAMS = 1_000_000
PROBE_S = 1.0  # a short load, unless too few windows come due
MIN_PROBE_ARRIVALS = 200
_MAX_PROBE_S = 10.0
GROWTH_STEP = 0.25
RESOLUTION = 0.02  # relative gap of carried and refused loads that ends the search


@dataclass(frozen=True, kw_only=True)
class Offered:
    """A load, offered once; `response_ns` (N,) is from due to answered, in due order."""

    level: Level
    response_ns: NDArray[np.int64]


def do_load_job(job: LoadJob) -> tuple[LoadOutcome, Arrays]:
    """Do one job in this process."""
    end_s = time.monotonic() + job.search_s
    with open_predictor(job.choice) as predictor:
        before, call = read_counters(), predictor.predict
        windows = [predict_argument(predictor, window) for window in raw_windows(predictor)]
        warm_up(call, windows, limit_s=job.warm_up_limit_s, stop=Event())
        samples: Arrays = {}
        if job.streams is None:
            streams, levels = find_capacity(call, windows, demand=job.demand, end_s=end_s)
        else:
            streams = job.streams
            offered = offer_load(call, windows, streams=streams, demand=job.demand, duration_s=job.duration_s)
            levels = (offered.level,)
            samples = {"response_ns": offered.response_ns}
        beside = interference(before, read_counters())
        opened = describe(predictor, job.choice.bundle)
    return LoadOutcome(opened=opened, streams=streams, levels=levels, interference=beside), samples


def schedule_ns(streams: int, *, rate_hz: float, duration_s: float) -> NDArray[np.int64]:
    """Return rising due times from the load's start; at least one."""
    phases = np.sort(phases_s(streams, rate_hz=rate_hz))
    rounds = max(1, int(np.ceil(duration_s * rate_hz)))
    due_s = (np.arange(rounds)[:, None] / rate_hz + phases[None, :]).ravel()
    inside = due_s[due_s < duration_s]
    return np.asarray((inside if len(inside) else due_s[:1]) * 1e9).astype(np.int64)


def offer_load(call: Call, windows: Sequence[Any], *, streams: int, demand: Demand, duration_s: float) -> Offered:
    """Offer a load; give up the rest when the backlog is as long again."""
    due = schedule_ns(streams, rate_hz=demand.rate_hz, duration_s=duration_s)
    due_ns, numbers, clock = due.tolist(), itertools.count(), time.perf_counter_ns
    begin_ns = clock() + 5_000_000  # first windows come due when threads are up
    give_up_ns = begin_ns + round(2e9 * duration_s)
    stop = Event()  # set by a call that raises

    def serve(_: int) -> tuple[array[int], array[int], array[int]]:
        answers = array("q"), array("q"), array("q")
        # next() is atomic: no two threads get the same number.
        while (number := next(numbers)) < len(due_ns):
            moment_ns = begin_ns + due_ns[number]
            if (wait_ns := moment_ns - clock()) > 0:
                time.sleep(wait_ns / 1e9)
            before = clock()
            call(windows[number % len(windows)])
            after = clock()
            for values, value in zip(answers, (number, after - moment_ns, after - before), strict=True):
                values.append(value)
            if after > give_up_ns or stop.is_set():
                break
        return answers

    cpu_before, begin_s = time.process_time(), time.monotonic()
    answers = run_threads(serve, demand.servers, stop=stop)
    cpu_cores = (time.process_time() - cpu_before) / (time.monotonic() - begin_s)
    order, response_ns, service_ns = (
        np.concatenate([np.array(part, dtype=np.int64) for part in column]) for column in zip(*answers, strict=True)
    )
    order = np.argsort(order)
    response_ns = response_ns[order]
    level = judge_level(
        streams=streams,
        demand=demand,
        duration_s=duration_s,
        due=len(due),
        response_ns=response_ns,
        wait_ns=response_ns - service_ns[order],
        unanswered=len(due) - len(response_ns),
        cpu_cores=cpu_cores,
    )
    return Offered(level=level, response_ns=response_ns)


def judge_level(
    *,
    streams: int,
    demand: Demand,
    duration_s: float,
    due: int,
    response_ns: NDArray[np.int64],
    wait_ns: NDArray[np.int64],
    unanswered: int,
    cpu_cores: float,
) -> Level:
    """Decide whether a load was carried; `wait_ns` (N,) is from due to called, in due order."""
    sustained = backlog_growth_ns(wait_ns) <= _GROWTH_FRACTION * 1e9 * duration_s
    missed = int((response_ns > demand.deadline_ms * 1e6).sum()) + unanswered
    return Level(
        streams=streams,
        due=due,
        answered=len(response_ns),
        response=summarise(response_ns),
        missed=missed,
        cpu_cores=cpu_cores,
        carried=sustained and missed <= MISSED_FRACTION * due,
    )


def backlog_growth_ns(wait_ns: NDArray[np.int64]) -> float:
    """Return the rise of the wait from the first to the last tenth."""
    tenth = max(1, len(wait_ns) // 10)
    return float(np.median(wait_ns[-tenth:]) - np.median(wait_ns[:tenth]))


def find_capacity(
    call: Call, windows: Sequence[Any], *, demand: Demand, end_s: float = math.inf
) -> tuple[int, tuple[Level, ...]]:
    """Return the most streams carried, and all short loads; only the first starts after `end_s`."""
    alone_ns = float(np.median(call_loop(call, windows, duration_s=PROBE_S, stop=Event()).latency_ns))
    first_guess = max(1, int(0.5 * demand.servers * 1e9 / alone_ns / demand.rate_hz))

    def probe(streams: int) -> Level:
        duration_s = probe_s(streams, rate_hz=demand.rate_hz)
        return offer_load(call, windows, streams=streams, demand=demand, duration_s=duration_s).level

    return search_load(probe, first_guess=first_guess, end_s=end_s)


def probe_s(streams: int, *, rate_hz: float) -> float:
    """Return a short load's length."""
    return min(_MAX_PROBE_S, max(PROBE_S, MIN_PROBE_ARRIVALS / (streams * rate_hz)))


def search_load(
    probe: Callable[[int], Level], *, first_guess: int, end_s: float = math.inf
) -> tuple[int, tuple[Level, ...]]:
    """Search with short loads; two of three decide, since the machine may pause in one."""
    probes: list[Level] = []

    def is_carried(streams: int) -> bool:
        votes: list[bool] = []
        while max(votes.count(True), votes.count(False)) < 2:
            if probes and time.monotonic() >= end_s:
                return votes.count(True) > votes.count(False)
            probes.append(probe(streams))
            votes.append(probes[-1].carried)
        return votes.count(True) >= 2

    return largest_carried(is_carried, first_guess=first_guess, step=GROWTH_STEP, resolution=RESOLUTION), tuple(probes)


def largest_carried(is_carried: Callable[[int], bool], *, first_guess: int, step: float, resolution: float) -> int:
    """Return the most streams carried, within `resolution`; 0 for none.

    Step up from the guess, in growing fractions, until a load is not carried, or down until one is; then bisect.
    """
    low, high, guess = 0, MAX_STREAMS + 1, min(max(1, first_guess), MAX_STREAMS)
    while high - low > max(1.0, resolution * low):
        if is_carried(guess):
            low = guess
        else:
            high = guess
        if low and high <= MAX_STREAMS:
            guess = (low + high) // 2
            continue
        guess = (
            min(MAX_STREAMS, low + max(1, math.floor(step * low)))
            if low
            else max(1, math.floor(high * (1 - min(step, 0.5))))
        )
        step *= 2
    return low
