"""Loads of many streams at one rate and random phases."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.interference import interference, read_counters
from mmkd_bench.measuring.jobs import Demand, LoadJob, LoadOutcome
from mmkd_bench.measuring.opening import describe, open_predictor, predict_argument, raw_windows
from mmkd_bench.measuring.timing import Arrays, Call, summarise, warm_up
from mmkd_documents.bench import Level

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


def do_load_job(job: LoadJob) -> tuple[LoadOutcome, Arrays]:
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
