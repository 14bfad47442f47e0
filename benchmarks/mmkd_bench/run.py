"""A bundle's latency, memory, start and energy: launches of one configuration, joined into a report.

Percentiles are of all samples. A launch opens, warms up, measures, then times the stages from outside.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from threading import Event
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import read_machine, resident_mb, resident_peak_mb
from mmkd_bench.machine.interference import interference, read_counters, suspicions, worst
from mmkd_bench.machine.power import IDLE_S, MeasuredEnergy, PowerLog, compute_energy, no_energy, power_sensor
from mmkd_bench.measuring.opening import (
    Choice,
    OpenedBundle,
    describe,
    open_predictor,
    predict_argument,
    raw_windows,
    settle_backend,
)
from mmkd_bench.measuring.process import (
    START_LIMIT_S,
    Interrupted,
    Launched,
    MeasuringProcess,
    Progress,
    ignore_progress,
    run_launches,
)
from mmkd_bench.measuring.timing import (
    WARM_UP_LIMIT_S,
    Arrays,
    Call,
    call_loop,
    is_steady,
    sample_floor,
    summarise,
    time_windows,
    warm_up,
)
from mmkd_documents import bench
from mmkd_documents.bench import GATHER, STAGES, ProcessStart, Stage
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.predict.postprocess import interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.stream.stream import Stream


class RunJob(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of `mmkd-bench run`."""

    choice: Choice
    settings: bench.Settings


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One launch, with monotonic times."""

    opened: OpenedBundle
    begin_s: float
    end_s: float
    launch: ProcessStart


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
            measure_launch,
            job,
            RunOutcome,
            launches=settings.launches,
            limit_s=START_LIMIT_S + 2 * (WARM_UP_LIMIT_S + (1 + STAGE_FRACTION) * duration_s),
            doing=f"warm-up, then {duration_s:.3g} s",
            progress=progress,
            is_partial=True,
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


Window = NDArray[Any]
MAX_HOP = 1_000_000
_MAX_TIME_WINDOWS = 20
STAGE_FRACTION = 0.2  # time for stages over that of end-to-end calls


def measure_launch(job: RunJob, process: MeasuringProcess) -> tuple[RunOutcome, Arrays] | None:
    """Do one job in this process; None if it was to stop before the measured time."""
    settings, stop = job.settings, process.stop
    duration_s = settings.duration_s / settings.launches
    begin = time.perf_counter_ns()
    with open_predictor(job.choice) as predictor:
        loaded = time.perf_counter_ns()
        windows = raw_windows(predictor)
        before_first = time.perf_counter_ns()
        predictor.predict(predict_argument(predictor, windows[0]))
        after_first = time.perf_counter_ns()
        if settings.hop is None:
            workload = window_workload(predictor, windows)
        else:
            workload = stream_workload(predictor, windows, hop=settings.hop)
        warm = warm_up(workload.call, workload.arguments, stop=stop)
        if stop.is_set():
            return None
        rss_mb, before = resident_mb(), read_counters()
        times = call_loop(workload.call, workload.arguments, duration_s=duration_s, stop=stop)
        after = read_counters()
        complete = not stop.is_set()
        stages = workload.stages(STAGE_FRACTION * duration_s, stop)
        calls = len(times.latency_ns)
        parts = max(1, min(_MAX_TIME_WINDOWS, calls // sample_floor(0.9)))  # each has calls enough for a p90
        launch = ProcessStart(
            complete=complete,
            import_ms=process.import_ms,
            load_ms=(loaded - begin) / 1e6,
            first_call_ms=(after_first - before_first) / 1e6,
            warm_up=warm,
            latency=summarise(times.latency_ns),
            windows=time_windows(times, parts=parts),
            thirds_p50_us=tuple(window.p50_us for window in time_windows(times, parts=3)),
            stages=stages,
            throughput_hz=calls / times.elapsed_ns * 1e9,
            cpu_cores=(after.own_s - before.own_s) / (after.time_s - before.time_s),
            rss_mb=rss_mb,
            rss_peak_mb=resident_peak_mb(),
            interference=interference(before, after),
        )
        opened = describe(predictor, job.choice.bundle)
        outcome = RunOutcome(opened=opened, begin_s=before.time_s, end_s=after.time_s, launch=launch)
        return outcome, {"latency_ns": times.latency_ns}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`call` takes `arguments` in turn; `stages` times its steps."""

    call: Call
    arguments: Sequence[Any]
    stages: Callable[[float, Event], tuple[Stage, ...]]


def window_workload(predictor: EdgePredictor, windows: Sequence[Window]) -> Workload:
    """Measure `predict`."""
    return Workload(
        call=predictor.predict,
        arguments=[predict_argument(predictor, window) for window in windows],
        stages=lambda duration_s, stop: _step_stages(predictor, windows, duration_s=duration_s, stop=stop),
    )


def stream_workload(predictor: EdgePredictor, windows: Sequence[Window], *, hop: int) -> Workload:
    """Measure `Stream.push`, one hop per call, from the first full window on."""
    modality = predictor.modality
    join = np.ma.concatenate if modality.kind == "video" else np.concatenate
    recording: Window = join([join(windows)] * -(-hop // sum(map(len, windows))))
    hops = [recording[begin : begin + hop].copy() for begin in range(0, len(recording) - hop + 1, hop)]

    def feed(stream: Stream) -> Call:
        for _, samples in zip(range(modality.samples // hop + 2), itertools.cycle(hops), strict=False):
            stream.push(samples)
        return stream.push

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        """Time gathering, without new predictions, and the four steps."""
        empty = np.zeros(modality.shape, dtype=modality.dtype)
        answer = predictor.predict(predict_argument(predictor, empty))
        silent = Stream(
            modality=modality,
            task=predictor.task,
            ask=lambda _window, _conditions, _stepped: answer,
            deliver=list,
            hop=hop,
            gap_s=None,
            stale_s=None,
        )
        gathered = call_loop(feed(silent), hops, duration_s=duration_s / 4, stop=stop)
        steps = _step_stages(predictor, windows, duration_s=duration_s, stop=stop)
        return (stage(GATHER, gathered.latency_ns), *steps)

    return Workload(call=feed(predictor.stream(hop=hop)), arguments=hops, stages=stages)


def _step_stages(
    predictor: EdgePredictor, windows: Sequence[Window], *, duration_s: float, stop: Event
) -> tuple[Stage, ...]:
    modality, task, reference = predictor.modality, predictor.task, predictor.reference
    values_name, present_name = (tensor.name for tensor in predictor.entry.inputs)
    run, clock = predictor.backend.run, time.perf_counter_ns
    moments: list[tuple[int, ...]] = []
    presences = [prepare(check_window(window, modality), modality, reference)[1] for window in windows]
    gaps = [None if presence.all() else presence for presence in presences]  # as `predict` passes them
    end = clock() + round(duration_s * 1e9)
    for window, gap in itertools.cycle(zip(windows, gaps, strict=True)):
        begin = clock()
        checked = check_window(window, modality)
        after_check = clock()
        values, present = prepare(checked, modality, reference)
        after_prepare = clock()
        _, probabilities, *_ = run({values_name: values, present_name: present})
        after_run = clock()
        interpret(probabilities, gap, modality=modality, task=task)
        moments.append((begin, after_check, after_prepare, after_run, clock()))
        if moments[-1][-1] >= end or stop.is_set():
            break
    lengths_ns = np.diff(np.array(moments, dtype=np.int64), axis=1)  # (N, stages)
    return tuple(stage(name, lengths_ns[:, number]) for number, name in enumerate(STAGES))


def stage(name: str, lengths_ns: NDArray[np.int64]) -> Stage:
    """Return a step's figures."""
    p50_us, p90_us = (np.quantile(lengths_ns, [0.5, 0.9]) / 1e3).tolist()
    return Stage(name=name, p50_us=p50_us, p90_us=p90_us)
