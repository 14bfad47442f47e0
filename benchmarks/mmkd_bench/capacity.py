"""How many streams a device carries at a rate and a deadline: found by search, judged in fresh processes.

Owns what `mmkd-bench capacity` does. How a load is offered is in `load`, how it is judged in `judge`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mmkd_bench.jobs import LoadJob, LoadOutcome
from mmkd_bench.judge import LAUNCHES, Offered, Verdict, judge_load, settle, verdict_of
from mmkd_bench.load import MAX_STREAMS, Level
from mmkd_bench.machine import MachineFacts, read_machine
from mmkd_bench.percentiles import sample_floor
from mmkd_bench.power import read_power_mode
from mmkd_bench.process import Interrupted, Progress, run_job, unheard
from mmkd_bench.report import Subject
from mmkd_bench.run import START_LIMIT_S
from mmkd_bench.subject import Choice
from mmkd_edge.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 1
MAX_SERVERS = 256
SEARCH_LIMIT_S = 900.0
WARM_UP_LIMIT_S = 5.0
CONFIRM_S = 3.0
MAX_CONFIRM_S = 60.0
MAX_LAUNCHES = 99


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the device.

    Attributes:
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response; None is the period of the rate.
        servers: threads that answer; None is one per usable core.
        launches: fresh processes that judge one load, most of which must carry it; an odd number.
    """

    rate_hz: float
    deadline_ms: float | None = None
    servers: int | None = None
    launches: int = LAUNCHES


class CapacityReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer, and how it was found.

    Attributes:
        format_version: of this document.
        complete: False where Ctrl-C ended it: then `streams` is the most that was judged to be carried until then.
        subject: the bundle.
        backend: what executed the artifact.
        precision: of the artifact.
        threads: of the backend, for one call.
        servers: threads that answered.
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response.
        streams: how many the device carries; 0 where not even one, or not those that were asked for.
        at_answer: the load of that many streams, all launches together; None when not even one is carried. Where
            streams were asked for, their load, carried or not.
        launches: each process of that load by itself; most of them carried it.
        p999_us: p99.9 of the response in the median launch, which the answer rests on; that of all launches together is
            larger where a pause of the machine fell into one of them. None where samples were too few.
        refused: the smallest load that most launches did not carry, all of them together; None where all were carried,
            or where streams were asked for.
        idle_cores: cores' worth of time that was left at that load, of those this process may use.
        trials: every load that was tried, in order.
        machine: what it ran on.
    """

    format_version: int = FORMAT_VERSION
    complete: bool = True
    subject: Subject
    backend: str
    precision: str
    threads: int
    servers: int
    rate_hz: float
    deadline_ms: float
    streams: int
    at_answer: Level | None
    launches: tuple[Level, ...]
    p999_us: float | None
    refused: Level | None
    idle_cores: float | None
    trials: tuple[Level, ...]
    machine: MachineFacts


def measure_capacity(choice: Choice, question: Question, *, progress: Progress = unheard) -> CapacityReport:
    """Find how many streams this machine carries.

    Raises:
        UsageError: the question makes no sense.
        MmkdError: the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where a load was over.
    """
    job = _job(choice, question)
    progress("searching for the largest load that is carried")
    searched = _ended(job, SEARCH_LIMIT_S)
    outcome = searched.outcome
    trials = list(outcome.levels)
    verdicts: list[Verdict] = []

    def offer(streams: int) -> Offered:
        """One launch."""
        offered = _offered(job, streams)
        trials.append(offered.level)
        return offered

    def judge(streams: int) -> Verdict:
        """Fresh processes."""
        progress(f"judging {streams} streams in up to {question.launches} launches")
        verdicts.append(judge_load(offer, streams, launches=question.launches))
        return verdicts[-1]

    complete = not searched.interrupted
    if complete:
        try:
            settle(outcome.streams, judge)
        except KeyboardInterrupt:
            complete = False
    best = max((one for one in verdicts if one.carried), key=_streams, default=None)
    worst = min((one for one in verdicts if not one.carried), key=_streams, default=None)
    streams = best.streams if best else 0
    return _finished(
        _report(job, outcome, streams=streams, shown=best, refused=worst, trials=trials, complete=complete)
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
    job = _job(choice, question)
    progress(
        f"offering {streams} streams for {confirm_s(streams, rate_hz=job.rate_hz):.3g} s "
        f"in up to {question.launches} launches"
    )
    done: list[_Done] = []

    def offer(count: int) -> Offered:
        """One launch."""
        done.append(_load(job, count))
        return done[-1].offered()

    try:
        verdict = judge_load(offer, streams, launches=question.launches)
        complete = True
    except KeyboardInterrupt:
        if not done:
            raise
        verdict = verdict_of([one.offered() for one in done], carried=False)
        complete = False
    carried = streams if verdict.carried else 0
    levels = list(verdict.launches)
    return _finished(
        _report(job, done[0].outcome, streams=carried, shown=verdict, refused=None, trials=levels, complete=complete)
    )


def _streams(verdict: Verdict) -> int:
    return verdict.streams


def _finished(report: CapacityReport) -> CapacityReport:
    if not report.complete:
        raise Interrupted(report)
    return report


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What a process found, and its samples."""

    outcome: LoadOutcome
    samples: dict[str, NDArray[np.int64]]
    interrupted: bool

    def offered(self) -> Offered:
        """The one load that it offered."""
        return Offered(
            level=self.outcome.levels[0],
            response_ns=self.samples["response_ns"],
            service_ns=self.samples["service_ns"],
        )


def _offered(job: LoadJob, streams: int) -> Offered:
    return _load(job, streams).offered()


def _load(job: LoadJob, streams: int) -> _Done:
    done = _ended(_loaded(job, streams), _limit_s(job, streams))
    if done.interrupted:
        raise KeyboardInterrupt
    return done


def confirm_s(streams: int, *, rate_hz: float) -> float:
    """Seconds that hold samples enough for the p99.9 that decides, unless that takes more than a minute."""
    needed_s = 1.05 * sample_floor(0.999) / (streams * rate_hz)
    return min(MAX_CONFIRM_S, max(CONFIRM_S, needed_s))


def _loaded(job: LoadJob, streams: int) -> LoadJob:
    return msgspec.structs.replace(job, streams=streams, duration_s=confirm_s(streams, rate_hz=job.rate_hz))


def _limit_s(job: LoadJob, streams: int) -> float:
    # A load gives up when its backlog is as long as itself.
    return START_LIMIT_S + 4 * confirm_s(streams, rate_hz=job.rate_hz)


def _ended(job: LoadJob, limit_s: float) -> _Done:
    ended = run_job(job, LoadOutcome, limit_s=limit_s)
    if ended.outcome is None:
        raise KeyboardInterrupt
    return _Done(outcome=ended.outcome, samples=ended.samples, interrupted=ended.interrupted)


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
    with Bundle.open(choice.bundle):
        pass  # verified before the first process starts
    return LoadJob(
        bundle=choice.bundle,
        backend=choice.backend,
        precision=choice.precision,
        threads=choice.threads,
        reference=choice.reference,
        streams=None,
        rate_hz=question.rate_hz,
        deadline_ms=1e3 / question.rate_hz if deadline_ms is None else deadline_ms,
        servers=servers,
        duration_s=CONFIRM_S,
        warm_up_limit_s=WARM_UP_LIMIT_S,
    )


def _report(
    job: LoadJob,
    outcome: LoadOutcome,
    *,
    streams: int,
    shown: Verdict | None,
    refused: Verdict | None,
    trials: list[Level],
    complete: bool,
) -> CapacityReport:
    at_answer = None if shown is None else shown.together
    return CapacityReport(
        complete=complete,
        subject=outcome.subject,
        backend=outcome.backend,
        precision=outcome.precision,
        threads=outcome.threads,
        servers=job.servers,
        rate_hz=job.rate_hz,
        deadline_ms=job.deadline_ms,
        streams=streams,
        at_answer=at_answer,
        launches=() if shown is None else shown.launches,
        p999_us=None if shown is None else _median_p999_us(shown.launches),
        refused=None if refused is None else refused.together,
        idle_cores=None if at_answer is None else max(0.0, usable_cores() - at_answer.cpu_share),
        trials=tuple(trials),
        machine=read_machine(power_mode=read_power_mode()),
    )


def _median_p999_us(launches: Sequence[Level]) -> float | None:
    found = [level.response.value_us(0.999) for level in launches]
    known = [value for value in found if value is not None]
    return statistics.median(known) if len(known) == len(found) else None
