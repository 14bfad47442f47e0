"""How many streams a device carries at a rate and a deadline; a majority decides: one pause may decide a launch."""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.interference import interference, read_counters, suspicions, worst
from mmkd_bench.measuring.opening import (
    Choice,
    OpenedBundle,
    describe,
    open_predictor,
    predict_argument,
    raw_windows,
    settle_backend,
)
from mmkd_bench.measuring.process import START_LIMIT_S, Progress, ignore_progress, run_launches
from mmkd_bench.measuring.timing import Arrays, Call, sample_floor, summarise, warm_up
from mmkd_documents.bench import CapacityReport, Interference, Level
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Windows per second and stream, longest response, answering threads."""

    rate_hz: float
    deadline_ms: float
    servers: int


class LoadJob(msgspec.Struct, frozen=True, kw_only=True):
    """Many streams on one predictor."""

    choice: Choice
    demand: Demand
    streams: int
    duration_s: float


class LoadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a load."""

    opened: OpenedBundle
    level: Level
    interference: Interference


LAUNCHES = 5  # launches per load, unless most agree before
RESOLUTION = 0.05  # largest gap, or one stream, from the carried load to one that was not
_GROWTH_STEP = 0.1
MAX_STREAMS = 1_000_000
MIN_LAUNCH_S, MAX_LAUNCH_S = 3.0, 12.0


@dataclass(frozen=True, kw_only=True)
class LoadVerdict:
    """One load, judged by most launches; `together` joins them."""

    launches: tuple[Level, ...]
    together: Level


def judge_load(offer: Callable[[int], Offered], streams: int) -> LoadVerdict:
    """Repeat a load until a majority of the launches agrees."""
    needed = LAUNCHES // 2 + 1
    offered: list[Offered] = []
    votes = 0
    while votes < needed and len(offered) - votes < needed:
        offered.append(offer(streams))
        votes += offered[-1].level.carried
    levels = tuple(offer.level for offer in offered)
    together = Level(
        streams=streams,
        due=sum(level.due for level in levels),
        answered=sum(level.answered for level in levels),
        response=summarise(np.concatenate([offer.response_ns for offer in offered])),
        missed=sum(level.missed for level in levels),
        cpu_cores=statistics.median(level.cpu_cores for level in levels),
        carried=votes >= needed,
    )
    return LoadVerdict(launches=levels, together=together)


def measure_capacity(
    choice: Choice,
    *,
    rate_hz: float,
    deadline_ms: float | None = None,
    streams: int | None = None,
    progress: Progress = ignore_progress,
) -> CapacityReport:
    """Find how many streams this machine carries, or whether `streams`; the deadline is the period by default."""
    demand = _demand(rate_hz, deadline_ms, streams)
    with Bundle.open(choice.bundle) as bundle:  # verified before the first process starts
        settle_backend(bundle, choice)
    outcomes: list[LoadOutcome] = []
    verdicts: list[LoadVerdict] = []

    def offer(streams: int) -> Offered:
        duration_s = launch_s(streams, rate_hz=demand.rate_hz)
        progress(f"{streams} {'stream' if streams == 1 else 'streams'} for {duration_s:.3g} s")
        job = LoadJob(choice=choice, demand=demand, streams=streams, duration_s=duration_s)
        # A load gives up if its backlog is as long.
        launched = run_launches(do_load_job, job, LoadOutcome, limit_s=START_LIMIT_S + 4 * duration_s)
        outcomes.extend(launched.outcomes)
        return Offered(level=outcomes[-1].level, response_ns=launched.samples[0]["response_ns"])

    def is_carried(streams: int) -> bool:
        verdicts.append(judge_load(offer, streams))
        return verdicts[-1].together.carried

    if streams is None:
        alone = offer(1).level
        first_guess = int(demand.servers * 1e6 / alone.response.mean_us / demand.rate_hz)
        largest_carried(is_carried, first_guess=first_guess if alone.carried else 1)
    else:
        is_carried(streams)
    by_load = sorted(verdicts, key=lambda verdict: verdict.together.streams)
    best = next((verdict for verdict in reversed(by_load) if verdict.together.carried), None)
    refused = next((verdict for verdict in by_load if not verdict.together.carried), None)
    shown = best if streams is None else verdicts[0]
    launches = shown.launches if shown else ()
    p999_us = [value for level in launches if (value := level.response.value_us(0.999)) is not None]
    machine = read_machine()
    return CapacityReport(
        **msgspec.structs.asdict(outcomes[0].opened),
        **msgspec.structs.asdict(demand),
        streams=best.together.streams if best else 0,
        at_answer=shown.together if shown else None,
        launches=launches,
        p999_us=statistics.median(p999_us) if launches and len(p999_us) == len(launches) else None,
        refused=refused.together if refused and streams is None else None,
        idle_cores=max(0.0, usable_cores() - shown.together.cpu_cores) if shown else None,
        disturbances=suspicions(worst([outcome.interference for outcome in outcomes]), machine),
        machine=machine,
    )


def largest_carried(is_carried: Callable[[int], bool], *, first_guess: int) -> int:
    """Return the most streams carried, within `RESOLUTION`; 0 for none."""
    low, high, step = 0, MAX_STREAMS + 1, _GROWTH_STEP
    guess = min(max(1, first_guess), MAX_STREAMS)
    while high - low > max(1.0, RESOLUTION * low):
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


def launch_s(streams: int, *, rate_hz: float) -> float:
    """Return seconds of a launch: enough samples of p99.9, within limits."""
    return min(MAX_LAUNCH_S, max(MIN_LAUNCH_S, 1.05 * sample_floor(0.999) / (streams * rate_hz)))


def _demand(rate_hz: float, deadline_ms: float | None, streams: int | None) -> Demand:
    if deadline_ms is None and rate_hz:
        deadline_ms = 1e3 / rate_hz
    for name, value in (("rate", rate_hz), ("deadline-ms", deadline_ms)):
        if value is None or not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{name}: expected a number above 0, got {value:g}")
    if streams is not None and not 1 <= streams <= MAX_STREAMS:
        raise UsageError(f"--streams: expected a whole number from 1 to {MAX_STREAMS}, got {streams}")
    assert deadline_ms is not None
    return Demand(rate_hz=rate_hz, deadline_ms=deadline_ms, servers=usable_cores())


# A load is carried if p99.9 is within the deadline: at most this fraction is later
MISSED_FRACTION = 0.001

_GROWTH_FRACTION = 0.02  # A backlog that grows faster, as a fraction of time, is too much
_SEED = 0
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Offered:
    """A load, offered once; `response_ns` (N,) is from due to answered, in due order."""

    level: Level
    response_ns: NDArray[np.int64]


def do_load_job(job: LoadJob, _: object = None) -> tuple[LoadOutcome, Arrays]:
    """Do one job in this process."""
    with open_predictor(job.choice) as predictor:
        before, call = read_counters(), predictor.predict
        windows = [predict_argument(predictor, window) for window in raw_windows(predictor)]
        warm_up(call, windows, stop=Event())
        offered = offer_load(call, windows, streams=job.streams, demand=job.demand, duration_s=job.duration_s)
        outcome = LoadOutcome(
            opened=describe(predictor, job.choice.bundle),
            level=offered.level,
            interference=interference(before, read_counters()),
        )
    return outcome, {"response_ns": offered.response_ns}


def schedule_ns(streams: int, *, rate_hz: float, duration_s: float) -> NDArray[np.int64]:
    """Return rising due times from the load's start; at least one."""
    phases = np.sort(np.random.default_rng(_SEED).random(streams) / rate_hz)
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
