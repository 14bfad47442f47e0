"""How many streams a device carries at a rate and a deadline; a majority decides: one pause may decide a launch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.interference import suspicions, worst
from mmkd_bench.measuring.jobs import Demand, LoadJob, LoadOutcome
from mmkd_bench.measuring.load import Offered
from mmkd_bench.measuring.opening import Choice, settle_backend
from mmkd_bench.measuring.process import START_LIMIT_S, Progress, ignore_progress, run_launches
from mmkd_bench.measuring.timing import sample_floor, summarise
from mmkd_documents.bench import CapacityReport, Level
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores

LAUNCHES = 5  # launches per load, unless most agree before
RESOLUTION = 0.05  # largest gap, or one stream, from the carried load to one that was not
_GROWTH_STEP = 0.1
MAX_STREAMS = 1_000_000
MIN_LAUNCH_S, MAX_LAUNCH_S = 3.0, 12.0


@dataclass(frozen=True, kw_only=True)
class LoadVerdict:
    """One load, judged by most launches; `together` joins them."""

    carried: bool
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
    return LoadVerdict(carried=votes >= needed, launches=levels, together=together)


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
        launched = run_launches(job, LoadOutcome, limit_s=START_LIMIT_S + 4 * duration_s)
        outcomes.extend(launched.outcomes)
        return Offered(level=outcomes[-1].level, response_ns=launched.samples[0]["response_ns"])

    def is_carried(streams: int) -> bool:
        verdicts.append(judge_load(offer, streams))
        return verdicts[-1].carried

    if streams is None:
        alone = offer(1).level
        first_guess = int(demand.servers * 1e6 / alone.response.mean_us / demand.rate_hz)
        largest_carried(is_carried, first_guess=first_guess if alone.carried else 1)
    else:
        is_carried(streams)
    by_load = sorted(verdicts, key=lambda verdict: verdict.together.streams)
    best = next((verdict for verdict in reversed(by_load) if verdict.carried), None)
    refused = next((verdict for verdict in by_load if not verdict.carried), None)
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
