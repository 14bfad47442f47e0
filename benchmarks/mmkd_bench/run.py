"""A whole run: several launches of one configuration, one after another, gathered into a report.

Owns what `mmkd-bench run` does. A run is several launches, since the variation between processes is the larger part of
the noise; its percentiles come from all samples of all launches together.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_bench.interference import Interference, suspicions
from mmkd_bench.jobs import RunJob, RunOutcome
from mmkd_bench.launch import STAGE_SHARE, pace
from mmkd_bench.machine import MachineFacts, read_machine
from mmkd_bench.percentiles import summarise
from mmkd_bench.process import Ended, run_job
from mmkd_bench.report import BenchReport, Configuration, Launch, Pace, Result, Stability, Stage
from mmkd_bench.subject import Choice
from mmkd_bench.timing import PacedSamples, Samples, is_steady
from mmkd_edge.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.files import write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.int64]]

MAX_CLIENTS = 256
MAX_LAUNCHES = 1000
START_LIMIT_S = 120.0
"""How long a launch may take beyond its measured times: libraries, session, a slow card."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and in which manner to measure.

    Attributes:
        launches: processes, one after another.
        duration_s: measured time over all launches together.
        clients: threads that call at the same time.
        rate_hz: calls per second; None calls again at once.
        deadline_ms: longest acceptable response; None is the period of `rate_hz`.
        warm_up_limit_s: longest warm-up of one launch.
    """

    launches: int = 5
    duration_s: float = 10.0
    clients: int = 1
    rate_hz: float | None = None
    deadline_ms: float | None = None
    warm_up_limit_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished or interrupted run.

    Attributes:
        report: everything that was found.
        samples: raw samples, each int64 (N,): `launch`, `start_ns`, `latency_ns` and, where paced, `lateness_ns`.
        interrupted: Ctrl-C ended it; the report holds what there was.
    """

    report: BenchReport
    samples: Arrays
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class _Launched:
    outcomes: list[RunOutcome] = field(default_factory=list)
    samples: list[Arrays] = field(default_factory=list)


def _silent(_line: str) -> None:
    """Progress that nobody wants to see."""


def measure_bundle(choice: Choice, settings: Settings, *, progress: Callable[[str], None] = _silent) -> Run:
    """Measure a bundle on this machine.

    Args:
        choice: what to open and how.
        settings: how long and in which manner.
        progress: gets one line when a launch begins.

    Raises:
        UsageError: the settings make no sense.
        MmkdError: the bundle cannot be opened or run; a damaged one is never timed.
        KeyboardInterrupt: Ctrl-C came before anything was measured.
    """
    check_settings(settings)
    with Bundle.open(choice.bundle):
        pass  # verified before the first process starts
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = read_machine()
    job = _job(choice, settings)
    launched = _Launched()
    interrupted = False
    for number in range(settings.launches):
        progress(f"launch {number + 1} of {settings.launches}: warm-up, then {job.duration_s:.3g} s")
        ended = _launch(job)
        if ended.outcome is not None:
            launched.outcomes.append(ended.outcome)
            launched.samples.append(ended.samples)
        if ended.interrupted:
            interrupted = True
            break
    if not launched.outcomes:
        raise KeyboardInterrupt
    report = _report(launched, settings=settings, machine=machine, created=created)
    return Run(report=report, samples=_joined(launched.samples), interrupted=interrupted)


def check_settings(settings: Settings) -> None:
    """Refuse settings that make no sense.

    Raises:
        UsageError: names the setting, what it may be and what it was.
    """
    _check_count("launches", settings.launches, MAX_LAUNCHES)
    _check_count("clients", settings.clients, MAX_CLIENTS)
    for name, value in (
        ("duration-s", settings.duration_s),
        ("warm-up-s", settings.warm_up_limit_s),
        ("rate", settings.rate_hz),
        ("deadline-ms", settings.deadline_ms),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: expected a number above 0, got {value:g}")
    if settings.rate_hz is not None and settings.clients > 1:
        raise UsageError(
            f"rate: expected one client, got {settings.clients}; several streams at a rate are mmkd-bench capacity"
        )
    if settings.deadline_ms is not None and settings.rate_hz is None:
        raise UsageError("deadline-ms: expected a rate as well: a deadline counts from a scheduled time; add --rate")


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


def demo_document(report: BenchReport) -> dict[str, Any]:
    """The figures of a report that the demo's page shows, as plain JSON values.

    Percentiles that had too few samples are None.
    """
    result = report.result
    latency_ms: dict[str, Any] = {
        name: None if (value_us := result.latency.value_us(quantile)) is None else value_us / 1e3
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
    machine = report.machine
    return {
        "bundle": report.subject.bundle,
        "backend": report.configuration.backend,
        "precision": report.configuration.precision,
        "threads": report.configuration.threads,
        "launches": len(report.launches),
        "latency_ms": {**latency_ms, "samples": result.latency.count},
        "stages_us": {stage.name: stage.p50_us for stage in result.stages},
        "load_ms": result.load_ms,
        "first_call_ms": result.first_call_ms,
        "rss_mb": result.rss_mb,
        "stable": report.stability.stable,
        "machine": {
            "cpu": machine.board or machine.cpu,
            "architecture": machine.architecture,
            "cores": machine.usable_cores,
            "memory_mb": round(machine.memory_mb),
            "os": machine.os,
            "python": machine.python,
            "governor": ", ".join(machine.governors) or None,
            "virtual": machine.virtual,
            "container": machine.container,
        },
    }


def _job(choice: Choice, settings: Settings) -> RunJob:
    deadline_ms = settings.deadline_ms
    if deadline_ms is None and settings.rate_hz is not None:
        deadline_ms = 1e3 / settings.rate_hz
    return RunJob(
        bundle=choice.bundle,
        backend=choice.backend,
        precision=choice.precision,
        threads=choice.threads,
        clients=settings.clients,
        mode="closed" if settings.rate_hz is None else "paced",
        rate_hz=settings.rate_hz,
        deadline_ms=deadline_ms,
        duration_s=settings.duration_s / settings.launches,
        warm_up_limit_s=settings.warm_up_limit_s,
        reference=choice.reference,
    )


def _launch(job: RunJob) -> Ended[RunOutcome]:
    # A paced loop gives up after twice its length.
    busy_s = job.warm_up_limit_s + (2 + STAGE_SHARE) * job.duration_s
    return run_job(job, RunOutcome, limit_s=START_LIMIT_S + 2 * busy_s)


def _report(launched: _Launched, *, settings: Settings, machine: MachineFacts, created: str) -> BenchReport:
    first = launched.outcomes[0]
    launches = tuple(outcome.launch for outcome in launched.outcomes)
    job_deadline_ms = settings.deadline_ms
    if job_deadline_ms is None and settings.rate_hz is not None:
        job_deadline_ms = 1e3 / settings.rate_hz
    return BenchReport(
        created_utc=created,
        complete=len(launches) == settings.launches and all(launch.complete for launch in launches),
        subject=first.subject,
        configuration=Configuration(
            backend=first.backend,
            precision=first.precision,
            threads=first.threads,
            clients=settings.clients,
            mode="closed" if settings.rate_hz is None else "paced",
            rate_hz=settings.rate_hz,
            deadline_ms=job_deadline_ms,
            launches=settings.launches,
            duration_s=settings.duration_s,
            warm_up_limit_s=settings.warm_up_limit_s,
        ),
        machine=machine,
        result=_result(launches, launched.samples, job_deadline_ms),
        stability=judge_stability(launches, machine),
        energy=None,
        energy_note="",
        launches=launches,
    )


def _result(launches: Sequence[Launch], samples: Sequence[Arrays], deadline_ms: float | None) -> Result:
    def median(values: Sequence[float]) -> float:
        return float(np.median(values))

    return Result(
        latency=summarise(np.concatenate([arrays["latency_ns"] for arrays in samples])),
        stages=_median_stages(launches),
        pace=_joined_pace(launches, samples, deadline_ms),
        import_ms=median([launch.import_ms for launch in launches]),
        load_ms=median([launch.load_ms for launch in launches]),
        first_call_ms=median([launch.first_call_ms for launch in launches]),
        throughput_hz=median([launch.throughput_hz for launch in launches]),
        cpu_share=median([launch.cpu_share for launch in launches]),
        rss_mb=median([launch.rss_mb for launch in launches]),
        rss_peak_mb=max(launch.rss_peak_mb for launch in launches),
    )


def _median_stages(launches: Sequence[Launch]) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            name=stages[0].name,
            count=sum(stage.count for stage in stages),
            mean_us=float(np.median([stage.mean_us for stage in stages])),
            p50_us=float(np.median([stage.p50_us for stage in stages])),
            p90_us=float(np.median([stage.p90_us for stage in stages])),
        )
        for stages in zip(*(launch.stages for launch in launches), strict=True)
    )


def _joined_pace(launches: Sequence[Launch], samples: Sequence[Arrays], deadline_ms: float | None) -> Pace | None:
    if launches[0].pace is None:
        return None
    joined = _joined(samples)
    paced = PacedSamples(
        samples=Samples(start_ns=joined["start_ns"], latency_ns=joined["latency_ns"], elapsed_ns=0),
        lateness_ns=joined["lateness_ns"],
        overloaded=any(launch.pace is not None and launch.pace.overloaded for launch in launches),
    )
    found = pace(paced, deadline_ms=deadline_ms)
    # The step from one launch to the next is no interval of the schedule.
    intervals = np.concatenate([np.diff(arrays["start_ns"]) for arrays in samples])
    interval_std_us = float(intervals.std()) / 1e3 if len(intervals) else None
    return Pace(
        lateness=found.lateness,
        response=found.response,
        interval_std_us=interval_std_us,
        missed=found.missed,
        overloaded=found.overloaded,
    )


def _joined(samples: Sequence[Arrays]) -> Arrays:
    numbers = [np.full(len(arrays["latency_ns"]), number, dtype=np.int64) for number, arrays in enumerate(samples)]
    names = samples[0].keys()
    return {
        "launch": np.concatenate(numbers),
        **{name: np.concatenate([one[name] for one in samples]) for name in names},
    }


def judge_stability(launches: Sequence[Launch], machine: MachineFacts) -> Stability:
    """Whether thirds of launches, and launches among themselves, agree within 10 %; and who disturbed them."""
    findings = []
    for number, launch in enumerate(launches, start=1):
        if not launch.warm_up.stable:
            findings.append(f"launch {number} was not steady after {launch.warm_up.seconds:.1f} s of warm-up")
        if not is_steady(launch.thirds_p50_us):
            medians = ", ".join(f"{value:.4g}" for value in launch.thirds_p50_us)
            findings.append(f"launch {number}: medians of its thirds were {medians} µs")
        if launch.pace is not None and launch.pace.overloaded:
            findings.append(f"launch {number} could not keep up with the rate")
    medians_us = [float(np.median([window.p50_us for window in launch.windows])) for launch in launches]
    if not is_steady(medians_us):
        findings.append(f"medians of launches ran from {min(medians_us):.4g} to {max(medians_us):.4g} µs")
    return Stability(
        stable=not findings,
        findings=tuple(findings),
        disturbances=suspicions(_worst([launch.interference for launch in launches]), machine),
    )


def _worst(found: Sequence[Interference]) -> Interference:
    """For each field the largest value over the launches."""

    def largest(name: str) -> Any:
        values = [value for one in found if (value := getattr(one, name)) is not None]
        return max(values, default=None)

    return Interference(**{name: largest(name) for name in Interference.__struct_fields__})
