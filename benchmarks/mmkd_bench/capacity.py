"""How many streams a device carries at a rate and a deadline: found by search, confirmed in fresh processes.

Owns what `mmkd-bench capacity` does. How a load is offered is in `load`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from mmkd_bench.jobs import LoadJob, LoadOutcome
from mmkd_bench.load import MAX_STREAMS, Level
from mmkd_bench.machine import MachineFacts, read_machine, usable_cores
from mmkd_bench.percentiles import sample_floor
from mmkd_bench.power import read_power_mode
from mmkd_bench.process import Progress, run_job, unheard
from mmkd_bench.report import Subject
from mmkd_bench.run import START_LIMIT_S
from mmkd_bench.subject import Choice
from mmkd_edge.bundle import Bundle
from mmkd_edge.errors import UsageError

FORMAT_VERSION = 1
MAX_SERVERS = 256
SEARCH_LIMIT_S = 900.0
WARM_UP_LIMIT_S = 5.0
CONFIRM_S = 3.0
MAX_CONFIRM_S = 60.0
STEP_DOWN = 0.05
MAX_STEPS_DOWN = 10
"""An answer that fresh processes do not confirm is lowered by `STEP_DOWN` at most so often."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the device.

    Attributes:
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response; None is the period of the rate.
        servers: threads that answer; None is one per usable core.
    """

    rate_hz: float
    deadline_ms: float | None = None
    servers: int | None = None


class CapacityReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer, and how it was found.

    Attributes:
        format_version: of this document.
        subject: the bundle.
        backend: what executed the artifact.
        precision: of the artifact.
        threads: of the backend, for one call.
        servers: threads that answered.
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response.
        streams: how many the device carries.
        at_answer: the load of that many streams, in a process of its own; None when not even one is carried.
        idle_cores: cores' worth of time that was left at that load, of those this process may use.
        trials: every load that was tried, in order.
        machine: what it ran on.
    """

    format_version: int = FORMAT_VERSION
    subject: Subject
    backend: str
    precision: str
    threads: int
    servers: int
    rate_hz: float
    deadline_ms: float
    streams: int
    at_answer: Level | None
    idle_cores: float | None
    trials: tuple[Level, ...]
    machine: MachineFacts


def measure_capacity(choice: Choice, question: Question, *, progress: Progress = unheard) -> CapacityReport:
    """Find how many streams this machine carries.

    Raises:
        UsageError: the question makes no sense.
        MmkdError: the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C came before there was an answer.
    """
    job = _job(choice, question)
    progress("searching for the largest load that is carried")
    outcome = _outcome(job, SEARCH_LIMIT_S)
    trials = list(outcome.levels)
    streams, confirmed = outcome.streams, None
    for _ in range(MAX_STEPS_DOWN):
        if streams == 0:
            break
        progress(f"confirming {streams} streams")
        confirmed = _confirm(job, streams, trials)
        if confirmed is not None:
            break
        streams = math.floor(streams * (1 - STEP_DOWN))
    return _report(job, outcome, streams=streams if confirmed else 0, confirmed=confirmed, trials=trials)


def measure_load(choice: Choice, question: Question, streams: int, *, progress: Progress = unheard) -> CapacityReport:
    """Offer the load of so many streams; `streams` of the report is 0 where it is not carried.

    Raises:
        UsageError: the question makes no sense.
        MmkdError: the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C came before there was an answer.
    """
    if not 1 <= streams <= MAX_STREAMS:
        raise UsageError(f"streams: expected a whole number from 1 to {MAX_STREAMS}, got {streams}")
    job = _job(choice, question)
    progress(f"offering {streams} streams for {confirm_s(streams, rate_hz=job.rate_hz):.3g} s")
    outcome = _outcome(_loaded(job, streams), _limit_s(job, streams))
    level = outcome.levels[0]
    return _report(job, outcome, streams=streams if level.carried else 0, confirmed=level, trials=list(outcome.levels))


def _confirm(job: LoadJob, streams: int, trials: list[Level]) -> Level | None:
    """The first of up to three loads in fresh processes that is carried, where two of them are."""
    levels: list[Level] = []
    while sum(level.carried for level in levels) < 2 and sum(not level.carried for level in levels) < 2:
        levels += _outcome(_loaded(job, streams), _limit_s(job, streams)).levels
    trials += levels
    carried = [level for level in levels if level.carried]
    return carried[0] if len(carried) >= 2 else None


def confirm_s(streams: int, *, rate_hz: float) -> float:
    """Seconds that hold samples enough for the p99.9 that decides, unless that takes more than a minute."""
    needed_s = 1.05 * sample_floor(0.999) / (streams * rate_hz)
    return min(MAX_CONFIRM_S, max(CONFIRM_S, needed_s))


def _loaded(job: LoadJob, streams: int) -> LoadJob:
    return msgspec.structs.replace(job, streams=streams, duration_s=confirm_s(streams, rate_hz=job.rate_hz))


def _limit_s(job: LoadJob, streams: int) -> float:
    # A load gives up when its backlog is as long as itself.
    return START_LIMIT_S + 4 * confirm_s(streams, rate_hz=job.rate_hz)


def _outcome(job: LoadJob, limit_s: float) -> LoadOutcome:
    ended = run_job(job, LoadOutcome, limit_s=limit_s)
    if ended.outcome is None:
        raise KeyboardInterrupt
    return ended.outcome


def _job(choice: Choice, question: Question) -> LoadJob:
    servers = usable_cores() if question.servers is None else question.servers
    deadline_ms = question.deadline_ms
    for name, value in (("rate", question.rate_hz), ("deadline-ms", deadline_ms)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: expected a number above 0, got {value:g}")
    if not 1 <= servers <= MAX_SERVERS:
        raise UsageError(f"servers: expected a whole number from 1 to {MAX_SERVERS}, got {servers}")
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
    job: LoadJob, outcome: LoadOutcome, *, streams: int, confirmed: Level | None, trials: list[Level]
) -> CapacityReport:
    return CapacityReport(
        subject=outcome.subject,
        backend=outcome.backend,
        precision=outcome.precision,
        threads=outcome.threads,
        servers=job.servers,
        rate_hz=job.rate_hz,
        deadline_ms=job.deadline_ms,
        streams=streams,
        at_answer=confirmed,
        idle_cores=None if confirmed is None else max(0.0, usable_cores() - confirmed.cpu_share),
        trials=tuple(trials),
        machine=read_machine(power_mode=read_power_mode()),
    )
