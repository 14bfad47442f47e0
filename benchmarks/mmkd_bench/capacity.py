"""How many streams a device carries at a rate and a deadline: found by search, judged in fresh processes.

Owns what `mmkd-bench capacity` does. How a load is offered and judged is in the room `load`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mmkd_bench.load.offering import MAX_STREAMS, Offered
from mmkd_bench.load.verdict import LAUNCHES, LoadVerdict, judge_load, settle, verdict_of
from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.interference import suspicions, worst
from mmkd_bench.machine.power import read_power_mode
from mmkd_bench.measuring.jobs import Demand, LoadJob, LoadOutcome
from mmkd_bench.measuring.opening import Choice, settle_backend
from mmkd_bench.measuring.percentiles import sample_floor
from mmkd_bench.measuring.process import START_LIMIT_S, Ended, Interrupted, Progress, run_job, unheard
from mmkd_bench.show.text import plural
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores
from mmkd_report.schema.bench_others import CapacityReport, Level

MAX_SERVERS = 256
SEARCH_LIMIT_S = 900.0
WARM_UP_LIMIT_S = 5.0
CONFIRM_S = 3.0
MAX_CONFIRM_S = 60.0
# Of the budget: the short trials, and one launch that judges. Three or more launches judge one load.
SEARCH_SHARE = 0.35
CONFIRM_SHARE = 0.1
MAX_LAUNCHES = 99


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the device.

    Attributes:
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response; None is the period of the rate.
        servers: threads that answer; None is one per usable core.
        launches: fresh processes that judge one load, most of which must carry it; an odd number.
        budget_s: how long finding the answer may take; a launch that would not end within it is not begun.
    """

    rate_hz: float
    deadline_ms: float | None = None
    servers: int | None = None
    launches: int = LAUNCHES
    budget_s: float = 120.0


def measure_capacity(choice: Choice, question: Question, *, progress: Progress = unheard) -> CapacityReport:
    """Find how many streams this machine carries, as far as the budget allows.

    Raises:
        UsageError: the question makes no sense.
        MmkdError: the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where a load was over.
    """
    session = _Session(_job(choice, question), question, progress)
    session.tell(f"searching for the largest load that is carried, for up to {session.job.search_s:.0f} s")
    searched = session.do_job(session.job, SEARCH_LIMIT_S)
    assert searched.outcome is not None
    estimate = searched.outcome.streams
    verdicts: list[LoadVerdict] = []

    def judge(streams: int) -> LoadVerdict:
        """Fresh processes."""
        session.tell(f"judging {plural(streams, 'stream')} in up to {plural(question.launches, 'launch', 'launches')}")
        verdicts.append(judge_load(session.offered, streams, launches=question.launches))
        return verdicts[-1]

    complete, settled = not searched.interrupted, False
    if complete:
        try:
            settle(estimate, judge)
            settled = True
        except _OutOfTimeError:
            settled = False
        except KeyboardInterrupt:
            complete = False
    best = max((one for one in verdicts if one.carried), key=_streams, default=None)
    least = min((one for one in verdicts if not one.carried), key=_streams, default=None)
    return session.finished(
        streams=best.streams if best else 0,
        shown=best,
        refused=least,
        estimate=estimate,
        complete=complete,
        settled=settled,
    )


def measure_load(choice: Choice, question: Question, streams: int, *, progress: Progress = unheard) -> CapacityReport:
    """Offer the load of so many streams; `streams` of the report is 0 where it is not carried.

    Raises:
        UsageError: the question makes no sense.
        MmkdError: the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where a load was over.
    """
    if not 1 <= streams <= MAX_STREAMS:
        raise UsageError(f"streams: expected a whole number from 1 to {MAX_STREAMS}, got {streams}")
    session = _Session(_job(choice, question), question, progress)
    session.tell(
        f"offering {plural(streams, 'stream')} for {session.confirm_s(streams):.3g} s "
        f"in up to {plural(question.launches, 'launch', 'launches')}"
    )
    done: list[Offered] = []

    def offer(count: int) -> Offered:
        """One launch."""
        done.append(session.offered(count))
        return done[-1]

    complete = settled = True
    try:
        verdict = judge_load(offer, streams, launches=question.launches)
    except (KeyboardInterrupt, _OutOfTimeError) as error:
        if not done:
            raise
        complete, settled = isinstance(error, _OutOfTimeError), False
        verdict = verdict_of(done, carried=False)
    return session.finished(
        streams=streams if verdict.carried else 0,
        shown=verdict,
        refused=None,
        estimate=None,
        complete=complete,
        settled=settled,
    )


class _OutOfTimeError(Exception):
    """The budget holds no further launch."""


class _Session:
    """The processes of one question, within its budget. Every load of the report goes through here."""

    def __init__(self, job: LoadJob, question: Question, progress: Progress) -> None:
        self.job = job
        self._question, self._progress = question, progress
        self._end_s = time.monotonic() + question.budget_s
        self._start_s = 0.0  # what a process takes beside its load
        self._has_judged = False
        self._outcomes: list[LoadOutcome] = []

    def tell(self, line: str) -> None:
        """Say what begins, and how long all of it may still take."""
        self._progress(f"{line}; at most {max(0.0, self._end_s - time.monotonic()):.0f} s left")

    def confirm_s(self, streams: int) -> float:
        """Length of a launch that judges."""
        longest_s = min(MAX_CONFIRM_S, self._question.budget_s * CONFIRM_SHARE)
        return confirm_s(streams, rate_hz=self.job.demand.rate_hz, longest_s=longest_s)

    def offered(self, streams: int) -> Offered:
        """One load in a process of its own.

        Raises:
            KeyboardInterrupt: Ctrl-C ended it.
            _OutOfTimeError: it would not end within the budget; the first load is always offered.
        """
        duration_s, begun_s = self.confirm_s(streams), time.monotonic()
        if self._has_judged and begun_s + self._start_s + duration_s > self._end_s:
            raise _OutOfTimeError
        job = msgspec.structs.replace(self.job, streams=streams, duration_s=duration_s)
        # A load gives up when its backlog is as long as itself.
        ended = self.do_job(job, START_LIMIT_S + 4 * duration_s)
        if ended.interrupted:
            raise KeyboardInterrupt
        self._has_judged = True
        self._start_s = max(self._start_s, time.monotonic() - begun_s - duration_s)
        samples = ended.samples
        return Offered(
            level=self._outcomes[-1].levels[0],
            response_ns=samples["response_ns"],
            service_ns=samples["service_ns"],
        )

    def do_job(self, job: LoadJob, limit_s: float) -> Ended[LoadOutcome]:
        """A job in a new process; Ctrl-C before it has anything is raised."""
        ended = run_job(job, LoadOutcome, limit_s=limit_s)
        if ended.outcome is None:
            raise KeyboardInterrupt
        self._outcomes.append(ended.outcome)
        return ended

    def finished(
        self,
        *,
        streams: int,
        shown: LoadVerdict | None,
        refused: LoadVerdict | None,
        estimate: int | None,
        complete: bool,
        settled: bool,
    ) -> CapacityReport:
        """The report.

        Raises:
            Interrupted: Ctrl-C had ended it; it has the report.
        """
        demand, opened = self.job.demand, self._outcomes[0].opened
        at_answer = None if shown is None else shown.together
        machine = read_machine(power_mode=read_power_mode())
        beside = worst([one.interference for one in self._outcomes])
        report = CapacityReport(
            complete=complete,
            settled=settled,
            budget_s=self._question.budget_s,
            estimate=estimate,
            **msgspec.structs.asdict(opened),
            **msgspec.structs.asdict(demand),
            streams=streams,
            at_answer=at_answer,
            launches=() if shown is None else shown.launches,
            p999_us=None if shown is None else _median_p999_us(shown.launches),
            refused=None if refused is None else refused.together,
            idle_cores=None if at_answer is None else max(0.0, usable_cores() - at_answer.cpu_share),
            trials=tuple(level for one in self._outcomes for level in one.levels),
            disturbances=suspicions(beside, machine),
            machine=machine,
        )
        if not complete:
            raise Interrupted(report)
        return report


def _streams(verdict: LoadVerdict) -> int:
    return verdict.streams


def confirm_s(streams: int, *, rate_hz: float, longest_s: float = MAX_CONFIRM_S) -> float:
    """Seconds that hold samples enough for the p99.9 that decides, unless that takes longer than `longest_s`."""
    needed_s = 1.05 * sample_floor(0.999) / (streams * rate_hz)
    return min(longest_s, max(CONFIRM_S, needed_s))


def _job(choice: Choice, question: Question) -> LoadJob:
    servers = usable_cores() if question.servers is None else question.servers
    deadline_ms = question.deadline_ms
    for name, value in (("rate", question.rate_hz), ("deadline-ms", deadline_ms)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: expected a number above 0, got {value:g}")
    if not 1 <= servers <= MAX_SERVERS:
        raise UsageError(f"servers: expected a whole number from 1 to {MAX_SERVERS}, got {servers}")
    if not (1 <= question.launches <= MAX_LAUNCHES and question.launches % 2):
        raise UsageError(f"launches: expected an odd number from 1 to {MAX_LAUNCHES}, got {question.launches}")
    if not (math.isfinite(question.budget_s) and question.budget_s > 0):
        raise UsageError(f"budget-s: expected seconds above 0, got {question.budget_s:g}")
    with Bundle.open(choice.bundle) as bundle:  # verified before the first process starts
        settle_backend(bundle, choice)
    return LoadJob(
        choice=choice,
        demand=Demand(
            rate_hz=question.rate_hz,
            deadline_ms=1e3 / question.rate_hz if deadline_ms is None else deadline_ms,
            servers=servers,
        ),
        streams=None,
        duration_s=CONFIRM_S,
        search_s=question.budget_s * SEARCH_SHARE,
        warm_up_limit_s=WARM_UP_LIMIT_S,
    )


def _median_p999_us(launches: Sequence[Level]) -> float | None:
    found = [level.response.value_us(0.999) for level in launches]
    known = [value for value in found if value is not None]
    return statistics.median(known) if len(known) == len(found) else None
