"""How many streams a device carries at a rate and a deadline: searched in one process, judged in fresh ones.

A pause that outlasts the deadline by d makes the windows of d / (1 - load) late, backlog included. One may decide a
short launch, so a majority of launches decides.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.interference import suspicions, worst
from mmkd_bench.measuring.jobs import Demand, LoadJob, LoadOutcome
from mmkd_bench.measuring.load import MAX_STREAMS, Offered, largest_carried
from mmkd_bench.measuring.opening import Choice, settle_backend
from mmkd_bench.measuring.process import START_LIMIT_S, Launched, Progress, ignore_progress, run_launches
from mmkd_bench.measuring.timing import sample_floor, summarise
from mmkd_bench.text import plural
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores
from mmkd_report.schema.bench import CapacityReport, Level

LAUNCHES = 5  # launches per load, unless most agree before
STEP = 0.05  # largest gap, or one stream, from the carried load to one that was not
_MAX_SERVERS = 256
MAX_LAUNCHES = 99
_SEARCH_LIMIT_S = 900.0
_WARM_UP_LIMIT_S = 5.0
CONFIRM_S = 3.0
MAX_CONFIRM_S = 60.0
# Fractions of the budget: search, one judging launch.
_SEARCH_FRACTION = 0.35
_CONFIRM_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class Question:
    """The load to carry.

    Attributes:
        deadline_ms: longest acceptable response; None is the period of the rate.
        streams: number to judge; None searches for the maximum.
        servers: answering threads; None is one per usable core.
        launches: processes that judge a load, an odd number.
    """

    rate_hz: float
    deadline_ms: float | None = None
    streams: int | None = None
    servers: int | None = None
    launches: int = LAUNCHES
    budget_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class LoadVerdict:
    """One load, judged by most launches; `together` joins them."""

    carried: bool
    launches: tuple[Level, ...]
    together: Level


def judge_load(offer: Callable[[int], Offered], streams: int, *, launches: int = LAUNCHES) -> LoadVerdict:
    """Repeat a load until a majority of `launches` agrees."""
    needed = launches // 2 + 1
    offered: list[Offered] = []
    while True:
        offered.append(offer(streams))
        votes = sum(offer.level.carried for offer in offered)
        if votes >= needed or len(offered) - votes > launches - needed:
            return _join_verdict(offered, carried=votes >= needed)


def _join_verdict(offered: Sequence[Offered], *, carried: bool) -> LoadVerdict:
    levels = tuple(offer.level for offer in offered)
    together = Level(
        streams=levels[0].streams,
        due=sum(level.due for level in levels),
        answered=sum(level.answered for level in levels),
        response=summarise(np.concatenate([offer.response_ns for offer in offered])),
        missed=sum(level.missed for level in levels),
        cpu_cores=statistics.median(level.cpu_cores for level in levels),
        carried=carried,
    )
    return LoadVerdict(carried=carried, launches=levels, together=together)


def measure_capacity(choice: Choice, question: Question, *, progress: Progress = ignore_progress) -> CapacityReport:
    """Find how many streams this machine carries, or judge the question's, within the budget.

    Raises MmkdError for a wrong question, or a bundle that fails.
    """
    session = _Session(_job(choice, question), question, progress)
    verdicts: list[LoadVerdict] = []

    def is_carried(streams: int) -> bool:
        many = f"{plural(streams, 'stream')} in up to {plural(question.launches, 'launch', 'launches')}"
        session.say(f"judging {many} of {session.confirm_s(streams):.3g} s")
        verdicts.append(judge_load(session.offer, streams, launches=question.launches))
        return verdicts[-1].carried

    settled = True
    try:
        if question.streams is None:
            estimate = session.search()
            largest_carried(is_carried, first_guess=estimate, step=STEP, resolution=STEP)
        else:
            is_carried(question.streams)
    except _OutOfTimeError:
        settled = False
    if question.streams is not None and not verdicts:
        verdicts.append(_join_verdict(session.offered, carried=False))
    best = max((verdict for verdict in verdicts if verdict.carried), key=lambda one: one.together.streams, default=None)
    least = min(
        (verdict for verdict in verdicts if not verdict.carried), key=lambda one: one.together.streams, default=None
    )
    shown = best if question.streams is None else verdicts[-1]
    at_answer, launches = (shown.together, shown.launches) if shown else (None, ())
    p999_us = [value for level in launches if (value := level.response.value_us(0.999)) is not None]
    machine = read_machine()
    return CapacityReport(
        settled=settled,
        budget_s=question.budget_s,
        estimate=None if question.streams is not None else session.outcomes[0].streams,
        **msgspec.structs.asdict(session.outcomes[0].opened),
        **msgspec.structs.asdict(session.job.demand),
        streams=best.together.streams if best else 0,
        at_answer=at_answer,
        launches=launches,
        p999_us=statistics.median(p999_us) if launches and len(p999_us) == len(launches) else None,
        refused=least.together if least and question.streams is None else None,
        idle_cores=None if at_answer is None else max(0.0, usable_cores() - at_answer.cpu_cores),
        trials=tuple(level for outcome in session.outcomes for level in outcome.levels),
        disturbances=suspicions(worst([outcome.interference for outcome in session.outcomes]), machine),
        machine=machine,
    )


class _OutOfTimeError(Exception):
    """The budget has no time for a further launch."""


class _Session:
    """Processes within the budget; `offered` are the judging loads."""

    def __init__(self, job: LoadJob, question: Question, progress: Progress) -> None:
        self.job = job
        self.outcomes: list[LoadOutcome] = []
        self.offered: list[Offered] = []
        self._question, self._progress = question, progress
        self._end_s = time.monotonic() + question.budget_s
        self._start_s = 0.0  # time of a process in addition to its load

    def say(self, line: str) -> None:
        self._progress(f"{line}; at most {max(0.0, self._end_s - time.monotonic()):.0f} s left")

    def confirm_s(self, streams: int) -> float:
        longest_s = min(MAX_CONFIRM_S, self._question.budget_s * _CONFIRM_FRACTION)
        return confirm_s(streams, rate_hz=self.job.demand.rate_hz, longest_s=longest_s)

    def search(self) -> int:
        self.say(f"searching for the largest load that is carried, for up to {self.job.search_s:.0f} s")
        self._launch(self.job, _SEARCH_LIMIT_S)
        return self.outcomes[0].streams

    def offer(self, streams: int) -> Offered:
        """Offer a load in a new process; the first ignores the budget, others raise _OutOfTimeError."""
        duration_s, begun_s = self.confirm_s(streams), time.monotonic()
        if self.offered and begun_s + self._start_s + duration_s > self._end_s:
            raise _OutOfTimeError
        job = msgspec.structs.replace(self.job, streams=streams, duration_s=duration_s)
        # A load gives up if its backlog is as long.
        samples = self._launch(job, START_LIMIT_S + 4 * duration_s).samples[0]
        self._start_s = max(self._start_s, time.monotonic() - begun_s - duration_s)
        self.offered.append(Offered(level=self.outcomes[-1].levels[0], response_ns=samples["response_ns"]))
        return self.offered[-1]

    def _launch(self, job: LoadJob, limit_s: float) -> Launched[LoadOutcome]:
        launched = run_launches(job, LoadOutcome, limit_s=limit_s)
        self.outcomes += launched.outcomes
        return launched


def confirm_s(streams: int, *, rate_hz: float, longest_s: float = MAX_CONFIRM_S) -> float:
    """Return seconds, at most `longest_s`, for enough samples of p99.9."""
    return min(longest_s, max(CONFIRM_S, 1.05 * sample_floor(0.999) / (streams * rate_hz)))


def _job(choice: Choice, question: Question) -> LoadJob:
    servers = usable_cores() if question.servers is None else question.servers
    deadline_ms = 1e3 / question.rate_hz if question.deadline_ms is None and question.rate_hz else question.deadline_ms
    for name, value in (("rate", question.rate_hz), ("deadline-ms", deadline_ms), ("budget-s", question.budget_s)):
        if value is None or not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: expected a number above 0, got {value:g}")
    if question.streams is not None and not 1 <= question.streams <= MAX_STREAMS:
        raise UsageError(f"streams: expected a whole number from 1 to {MAX_STREAMS}, got {question.streams}")
    if not 1 <= servers <= _MAX_SERVERS:
        raise UsageError(f"servers: expected a whole number from 1 to {_MAX_SERVERS}, got {servers}")
    if not (1 <= question.launches <= MAX_LAUNCHES and question.launches % 2):
        raise UsageError(f"launches: expected an odd number from 1 to {MAX_LAUNCHES}, got {question.launches}")
    with Bundle.open(choice.bundle) as bundle:  # verified before the first process starts
        settle_backend(bundle, choice)
    assert deadline_ms is not None
    return LoadJob(
        choice=choice,
        demand=Demand(rate_hz=question.rate_hz, deadline_ms=deadline_ms, servers=servers),
        streams=None,
        duration_s=CONFIRM_S,
        search_s=question.budget_s * _SEARCH_FRACTION,
        warm_up_limit_s=_WARM_UP_LIMIT_S,
    )
