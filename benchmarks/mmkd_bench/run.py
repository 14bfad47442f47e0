"""A whole run: several launches of one configuration, one after another, gathered into a report.

Owns what `mmkd-bench run` does. A run is several launches, since the variation between processes is the larger part of
the noise; its percentiles come from all samples of all launches together.
"""

from __future__ import annotations

import io
import math
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_bench.machine.clocks import read_clocks
from mmkd_bench.machine.energy import IDLE_S, PowerLog, Span, Spent, energy_of, nothing_spent, watch_idle
from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.gpu import gpu_names
from mmkd_bench.machine.power import power_sensor, read_power_mode
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.launch import STAGE_SHARE
from mmkd_bench.measuring.opening import Choice, settle_backend
from mmkd_bench.measuring.process import START_LIMIT_S, Launched, Progress, run_launches, unheard
from mmkd_bench.measuring.run_result import joined, judge_stability, result_of
from mmkd_bench.measuring.workloads import MAX_HOP
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_report.schema.bench import BenchReport, Configuration, MachineFacts, Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.int64]]

MAX_CLIENTS = 256
MAX_LAUNCHES = 1000
MAX_BATCH = 4096
MAX_JITTER = 0.5
"""Times of neighbouring samples that stray further would change places."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """A run.

    Attributes:
        report: everything that was found.
        samples: raw samples, each int64 (N,): `launch`, `client`, `start_ns`, `latency_ns` and, where paced,
            `lateness_ns`.
    """

    report: BenchReport
    samples: Arrays


def measure_bundle(
    choice: Choice, settings: Settings, *, energy: bool = True, idle_s: float = IDLE_S, progress: Progress = unheard
) -> BenchmarkRun:
    """Measure a bundle on this machine.

    Args:
        choice: what to open and how.
        settings: how calls are made and for how long; without a deadline a rate has that of its period.
        energy: also read a power sensor, where there is one.
        idle_s: how long a sensor watches the machine at rest before the first launch.
        progress: gets one line when a launch begins.

    Raises:
        UsageError: the settings make no sense.
        MmkdError: the bundle cannot be opened or run; a damaged one is never timed.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a `BenchmarkRun` where something was measured.
    """
    check_settings(settings)
    if settings.rate_hz is not None and settings.deadline_ms is None:
        settings = msgspec.structs.replace(settings, deadline_ms=1e3 / settings.rate_hz)
    with Bundle.open(choice.bundle) as bundle:  # verified before the first process starts
        settle_backend(bundle, choice)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = read_machine(power_mode=read_power_mode(), clocks=read_clocks(), gpus=gpu_names())
    launched, spent = _launch_with_power(RunJob(choice=choice, settings=settings), energy, idle_s, progress)
    report = _report(launched, spent, settings=settings, machine=machine, created=created)
    return launched.finish(BenchmarkRun(report=report, samples=joined(launched.samples)))


def _launch_with_power(
    job: RunJob, energy: bool, idle_s: float, progress: Progress
) -> tuple[Launched[RunOutcome], Spent]:
    def without(reason: str) -> tuple[Launched[RunOutcome], Spent]:
        """Launches alone."""
        launched = _launch_all(job, progress)
        return launched, nothing_spent(reason, launches=len(launched.outcomes))

    if not energy:
        return without("not asked for")
    with ExitStack() as stack:
        try:
            sensor = stack.enter_context(power_sensor())
        except UnavailableError as error:
            return without(str(error))
        log = stack.enter_context(PowerLog(sensor))
        progress(f"idle power: {idle_s:g} s with {sensor.name}")
        idle = watch_idle(idle_s)
        launched = _launch_all(job, progress)
    loaded = [Span(begin_s=outcome.begin_s, end_s=outcome.end_s) for outcome in launched.outcomes]
    predictions = [outcome.predictions * outcome.launch.latency.count for outcome in launched.outcomes]
    return launched, energy_of(log, idle=idle, loaded=loaded, predictions=predictions)


def _launch_all(job: RunJob, progress: Progress) -> Launched[RunOutcome]:
    settings = job.settings
    duration_s = settings.duration_s / settings.launches
    # A paced loop gives up after twice its length.
    busy_s = settings.warm_up_limit_s + (2 + STAGE_SHARE) * duration_s
    return run_launches(
        job,
        RunOutcome,
        launches=settings.launches,
        limit_s=START_LIMIT_S + 2 * busy_s,
        doing=f"warm-up, then {duration_s:.3g} s",
        progress=progress,
    )


def check_settings(settings: Settings) -> None:
    """Refuse settings that make no sense.

    Raises:
        UsageError: names the setting, what it may be and what it was.
    """
    _check_count("launches", settings.launches, MAX_LAUNCHES)
    _check_count("clients", settings.clients, MAX_CLIENTS)
    _check_count("batch", settings.batch, MAX_BATCH)
    _check_stream(settings)
    for name, value in (
        ("duration-s", settings.duration_s),
        ("warm-up-s", settings.warm_up_limit_s),
        ("rate", settings.rate_hz),
        ("deadline-ms", settings.deadline_ms),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: expected a number above 0, got {value:g}")
    if settings.deadline_ms is not None and settings.rate_hz is None:
        raise UsageError("deadline-ms: expected a rate as well: a deadline counts from a scheduled time; add --rate")


def _check_stream(settings: Settings) -> None:
    if settings.hop is None:
        if settings.jitter is not None:
            raise UsageError("jitter: expected a stream as well: windows have no times; add --stream")
        return
    _check_count("hop", settings.hop, MAX_HOP)
    if settings.jitter is not None and not 0 <= settings.jitter < MAX_JITTER:
        raise UsageError(f"jitter: expected a share from 0 to below {MAX_JITTER:g}, got {settings.jitter:g}")
    if settings.batch > 1:
        raise UsageError(f"batch: expected one window a call of a stream, got {settings.batch}; leave one of both out")


def _check_count(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UsageError(f"{name}: expected a whole number from 1 to {most}, got {value}")


def write_samples(path: Path, samples: Arrays) -> None:
    """Write raw samples as an uncompressed .npz, all or nothing.

    Raises:
        UsageError: the file cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {**samples}
    np.savez(buffer, **arrays)
    write_file(path, buffer.getvalue())


def _report(
    launched: Launched[RunOutcome], spent: Spent, *, settings: Settings, machine: MachineFacts, created: str
) -> BenchReport:
    first = launched.outcomes[0]
    launches = tuple(
        msgspec.structs.replace(outcome.launch, above_idle_mj=above_idle_mj)
        for outcome, above_idle_mj in zip(launched.outcomes, spent.launches_mj, strict=True)
    )
    return BenchReport(
        created_utc=created,
        complete=len(launches) == settings.launches and all(launch.complete for launch in launches),
        subject=first.opened.subject,
        configuration=Configuration(
            **msgspec.structs.asdict(settings),
            backend=first.opened.backend,
            precision=first.opened.precision,
            threads=first.opened.threads,
            mode="closed" if settings.rate_hz is None else "paced",
        ),
        machine=machine,
        result=result_of(launches, launched.samples, settings.deadline_ms, gpu_note=first.gpu_note),
        stability=judge_stability(launches, machine),
        energy=spent.energy,
        energy_note=spent.note,
        launches=launches,
    )
