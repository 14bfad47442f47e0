"""Many streams on one device, inside the measuring process: windows come due at fixed times, a few threads answer them.

Each stream asks at the same rate, with a phase of its own drawn by a fixed seed: sensors do not agree on when to begin,
and evenly spread phases would flatter the device. A window waits until a thread is free; its response counts from the
moment it came due. The schedule is absolute, so an answer that comes late delays nobody's schedule, only their answer.
"""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_bench.measuring.jobs import Demand
from mmkd_bench.measuring.percentiles import summarise
from mmkd_bench.measuring.timing import Call, phases_s
from mmkd_report.schema.bench_others import Level

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSED_SHARE = 0.001
"""A load is carried when p99.9 of the response is within the deadline: at most this share is answered later."""

GROWTH_SHARE = 0.02
"""A backlog that grows by more than this share of the time is a load beyond the device."""

MAX_STREAMS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Offered:
    """One load, offered once.

    Attributes:
        level: how it was carried.
        response_ns: from due to answered, (N,), in the order in which windows came due.
        service_ns: the calls alone, (N,).
    """

    level: Level
    response_ns: NDArray[np.int64]
    service_ns: NDArray[np.int64]


def schedule_ns(streams: int, *, rate_hz: float, duration_s: float) -> NDArray[np.int64]:
    """When windows come due, counted from the begin, in rising order; at least one."""
    phases = np.sort(phases_s(streams, rate_hz=rate_hz))
    rounds = max(1, int(np.ceil(duration_s * rate_hz)))
    due_s = (np.arange(rounds)[:, None] / rate_hz + phases[None, :]).ravel()
    inside = due_s[due_s < duration_s]
    return np.asarray((inside if len(inside) else due_s[:1]) * 1e9).astype(np.int64)


def offer_load(
    call: Call, windows: Sequence[Any], *, streams: int, demand: Demand, duration_s: float, stop: Event
) -> Offered:
    """Offer the load of so many streams for some time; when the backlog is as long again, the rest is given up.

    Raises:
        Exception: whatever `call` raised first in any of the threads.
    """
    due = schedule_ns(streams, rate_hz=demand.rate_hz, duration_s=duration_s)
    crew = _Crew(call=call, windows=windows, due_ns=due.tolist(), give_up_ns=round(2e9 * duration_s), stop=stop)
    cpu_before, begin_s = time.process_time(), time.monotonic()
    crew.work(demand.servers)
    wall_s = time.monotonic() - begin_s
    cpu_share = (time.process_time() - cpu_before) / wall_s
    response_ns, service_ns = crew.answers()
    unanswered = 0 if stop.is_set() else len(due) - len(response_ns)
    level = judged_level(
        streams=streams,
        demand=demand,
        duration_s=duration_s,
        due=len(due),
        response_ns=response_ns,
        service_ns=service_ns,
        unanswered=unanswered,
        cpu_share=cpu_share,
    )
    return Offered(level=level, response_ns=response_ns, service_ns=service_ns)


def judged_level(
    *,
    streams: int,
    demand: Demand,
    duration_s: float,
    due: int,
    response_ns: NDArray[np.int64],
    service_ns: NDArray[np.int64],
    unanswered: int,
    cpu_share: float,
) -> Level:
    """Whether one load was carried, from what became of its windows.

    Times of answers are in the order in which windows came due, each (N,); `unanswered` came due and were given up.
    """
    sustained = backlog_growth_ns(response_ns - service_ns) <= GROWTH_SHARE * 1e9 * duration_s
    missed = int((response_ns > demand.deadline_ms * 1e6).sum()) + unanswered
    return Level(
        streams=streams,
        offered_hz=streams * demand.rate_hz,
        due=due,
        answered=len(response_ns),
        response=summarise(response_ns),
        service=summarise(service_ns),
        missed=missed,
        cpu_share=cpu_share,
        carried=sustained and missed <= MISSED_SHARE * due,
    )


def backlog_growth_ns(wait_ns: NDArray[np.int64]) -> float:
    """How much longer windows waited at the end of a load than at its begin: medians of its last and first tenth.

    A load that exceeds the device by a share grows its backlog by that share of its length, whatever the deadline.

    Args:
        wait_ns: time from due to begin of each window, in the order in which they came due, (N,).
    """
    tenth = max(1, len(wait_ns) // 10)
    return float(np.median(wait_ns[-tenth:]) - np.median(wait_ns[:tenth]))


class _Crew:
    """Threads that take windows in the order in which they come due."""

    def __init__(self, *, call: Call, windows: Sequence[Any], due_ns: list[int], give_up_ns: int, stop: Event) -> None:
        self._call, self._windows, self._due_ns = call, windows, due_ns
        self._give_up_ns, self._stop = give_up_ns, stop
        self._numbers = itertools.count()  # next() is one step of the interpreter: no two threads get the same number
        self._answers: list[tuple[array[int], array[int], array[int]]] = []
        self._errors: list[Exception] = []

    def work(self, servers: int) -> None:
        """Answer all windows; back when every thread is done."""
        # The first windows come due when the threads are up.
        begin_ns = time.perf_counter_ns() + 5_000_000
        threads = [threading.Thread(target=self._serve, args=(begin_ns,)) for _ in range(servers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def answers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Response and service time of every answer in ns, in the order in which windows came due, each (N,)."""
        numbers, responses, services = (
            np.concatenate([np.array(kept, dtype=np.int64) for kept in column])
            for column in zip(*self._answers, strict=True)
        )
        order = np.argsort(numbers)
        return responses[order], services[order]

    def _serve(self, begin_ns: int) -> None:
        numbers, responses, services = array("q"), array("q"), array("q")
        self._answers.append((numbers, responses, services))
        clock, call, windows, count = time.perf_counter_ns, self._call, self._windows, len(self._windows)
        try:
            for number in iter(self._next_number, None):
                due_ns = begin_ns + self._due_ns[number]
                wait_ns = due_ns - clock()
                if wait_ns > 0:
                    time.sleep(wait_ns / 1e9)
                before = clock()
                call(windows[number % count])
                after = clock()
                numbers.append(number)
                responses.append(after - due_ns)
                services.append(after - before)
                if after - begin_ns > self._give_up_ns or self._stop.is_set():
                    return
        except Exception as error:
            self._errors.append(error)

    def _next_number(self) -> int | None:
        number = next(self._numbers)
        return number if number < len(self._due_ns) and not self._errors else None
