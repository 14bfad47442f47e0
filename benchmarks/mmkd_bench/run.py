"""Launches of one configuration, joined into a report; percentiles are of all samples."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.interference import suspicions, worst
from mmkd_bench.machine.power import IDLE_S, MeasuredEnergy, PowerLog, compute_energy, no_energy, power_sensor
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.launch import MAX_HOP, STAGE_FRACTION
from mmkd_bench.measuring.opening import Choice, settle_backend
from mmkd_bench.measuring.process import START_LIMIT_S, Interrupted, Launched, Progress, ignore_progress, run_launches
from mmkd_bench.measuring.timing import WARM_UP_LIMIT_S, is_steady, summarise
from mmkd_documents import bench
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UnavailableError, UsageError

MAX_LAUNCHES = 1000
_HISTOGRAM_BINS = 60


def measure_bundle(
    choice: Choice,
    settings: bench.Settings,
    *,
    energy: bool = True,
    idle_s: float = IDLE_S,
    progress: Progress = ignore_progress,
) -> bench.BenchReport:
    """Measure a bundle, after idle power for `idle_s`. Ctrl-C raises `Interrupted` with a report if there is any."""
    check_settings(settings)
    with Bundle.open(choice.bundle) as bundle:  # verified before the first process starts
        settle_backend(bundle, choice)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = read_machine()
    launched, measured = _launch_with_power(RunJob(choice=choice, settings=settings), energy, idle_s, progress)
    opened = launched.outcomes[0].opened
    launches = tuple(
        msgspec.structs.replace(outcome.launch, above_idle_mj=above_idle_mj)
        for outcome, above_idle_mj in zip(launched.outcomes, measured.launches_mj, strict=True)
    )
    latency_ns = np.concatenate([samples["latency_ns"] for samples in launched.samples])
    report = bench.BenchReport(
        created_utc=created,
        complete=len(launches) == settings.launches and all(launch.complete for launch in launches),
        subject=opened.subject,
        configuration=bench.Configuration(
            **msgspec.structs.asdict(settings),
            backend=opened.backend,
            precision=opened.precision,
            threads=opened.threads,
        ),
        machine=machine,
        result=join_launches(launches, latency_ns),
        stability=judge_stability(launches, machine),
        energy=measured.energy,
        energy_note=measured.note,
        launches=launches,
    )
    if launched.interrupted:
        raise Interrupted(report)
    return report


def _launch_with_power(
    job: RunJob, energy: bool, idle_s: float, progress: Progress
) -> tuple[Launched[RunOutcome], MeasuredEnergy]:
    settings = job.settings
    duration_s = settings.duration_s / settings.launches

    def launch_all() -> Launched[RunOutcome]:
        return run_launches(
            job,
            RunOutcome,
            launches=settings.launches,
            limit_s=START_LIMIT_S + 2 * (WARM_UP_LIMIT_S + (1 + STAGE_FRACTION) * duration_s),
            doing=f"warm-up, then {duration_s:.3g} s",
            progress=progress,
        )

    with ExitStack() as stack:
        reason, log = "not asked for", None
        if energy:
            try:
                log = stack.enter_context(PowerLog(power_sensor()))
            except UnavailableError as error:
                reason = str(error)
        if log is None:
            launched = launch_all()
            return launched, no_energy(reason, launches=len(launched.outcomes))
        progress(f"idle power: {idle_s:g} s with {log.sensor.name}")
        begin_s = time.monotonic()
        time.sleep(idle_s)
        idle = (begin_s, time.monotonic())
        launched = launch_all()
    loaded = [(outcome.begin_s, outcome.end_s) for outcome in launched.outcomes]
    predictions = [outcome.launch.latency.count for outcome in launched.outcomes]
    return launched, compute_energy(log, idle=idle, loaded=loaded, predictions=predictions)


def check_settings(settings: bench.Settings) -> None:
    """Raise UsageError for settings that make no sense."""
    for name, value, most in (("launches", settings.launches, MAX_LAUNCHES), ("hop", settings.hop, MAX_HOP)):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name}: expected a whole number from 1 to {most}, got {value}")
    if not (math.isfinite(settings.duration_s) and settings.duration_s > 0):
        raise UsageError(f"--duration-s: expected a number above 0, got {settings.duration_s:g}")


def join_launches(launches: Sequence[bench.ProcessStart], latency_ns: NDArray[np.int64]) -> bench.Result:
    """Return figures over all launches, and their calls (N,)."""

    def median(name: str) -> float:
        return float(np.median([getattr(launch, name) for launch in launches]))

    return bench.Result(
        latency=summarise(latency_ns),
        stages=tuple(
            bench.Stage(
                name=stages[0].name,
                p50_us=float(np.median([stage.p50_us for stage in stages])),
                p90_us=float(np.median([stage.p90_us for stage in stages])),
            )
            for stages in zip(*(launch.stages for launch in launches), strict=True)
        ),
        **{
            name: median(name)
            for name in ("import_ms", "load_ms", "first_call_ms", "throughput_hz", "cpu_cores", "rss_mb")
        },
        rss_peak_mb=max(launch.rss_peak_mb for launch in launches),
        histogram=histogram(latency_ns),
    )


def histogram(latency_ns: NDArray[np.int64]) -> bench.LatencyHistogram:
    """Return a distribution of samples (N,) in geometric bins."""
    low_ns = max(1.0, float(latency_ns.min()))
    high_ns = max(float(latency_ns.max()), 1.001 * low_ns)
    edges_ns = np.geomspace(low_ns, high_ns, _HISTOGRAM_BINS + 1)
    edges_ns[0], edges_ns[-1] = min(low_ns, float(latency_ns.min())), high_ns  # rounding must not lose the extremes
    counts, _ = np.histogram(latency_ns, edges_ns)
    return bench.LatencyHistogram(edges_us=tuple((edges_ns / 1e3).tolist()), counts=tuple(counts.tolist()))


def judge_stability(launches: Sequence[bench.ProcessStart], machine: bench.MachineFacts) -> bench.Stability:
    """Decide whether thirds of launches, and launches, agree within 10 %."""
    findings = []
    for number, launch in enumerate(launches, start=1):
        if not launch.warm_up.stable:
            findings.append(f"launch {number} was not steady after {launch.warm_up.seconds:.1f} s of warm-up")
        if not is_steady(launch.thirds_p50_us):
            medians = ", ".join(f"{value:.4g}" for value in launch.thirds_p50_us)
            findings.append(f"launch {number}: medians of its thirds were {medians} µs")
    medians_us = [float(np.median([window.p50_us for window in launch.windows])) for launch in launches]
    if not is_steady(medians_us):
        findings.append(f"medians of launches ran from {min(medians_us):.4g} to {max(medians_us):.4g} µs")
    return bench.Stability(
        stable=not findings,
        findings=tuple(findings),
        disturbances=suspicions(worst([launch.interference for launch in launches]), machine),
    )
