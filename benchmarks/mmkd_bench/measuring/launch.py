"""One launch, inside the measuring process: open a bundle, warm up, measure, take it apart into stages.

Uses the runtime as an application would: `EdgePredictor.open`, then the calls of a workload. Stages are the runtime's
own steps, called one after another and timed from outside, after the end-to-end calls, so that those run undisturbed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_bench.machine.facts import resident_mb, resident_peak_mb
from mmkd_bench.machine.gpu import process_memory_mb
from mmkd_bench.machine.interference import Counters, interference, read_counters
from mmkd_bench.measuring.clients import ClientCalls, call_together, intervals_ns
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.opening import Choice, asked, describe, open_predictor, raw_windows
from mmkd_bench.measuring.percentiles import sample_floor, summarise
from mmkd_bench.measuring.timing import PacedSamples, clock_cost_ns, time_windows, warm_up
from mmkd_bench.measuring.workloads import Workload, batch_workload, stream_workload, window_workload
from mmkd_edge.predictor import EdgePredictor
from mmkd_report.schema.bench import Pace, ProcessStart, Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Window = NDArray[Any]

MAX_TIME_WINDOWS = 20
STAGE_SHARE = 0.2
"""Time for the stages as a share of the time for the end-to-end calls."""


@dataclass(frozen=True, kw_only=True)
class _Warm:
    """A predictor that has answered once, and what that took."""

    predictor: EdgePredictor
    windows: Sequence[Window]
    load_ms: float
    first_call_ms: float


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The measured time: calls, counters at both ends, resident memory before."""

    called: ClientCalls
    before: Counters
    after: Counters
    rss_mb: float


def measure_launch(
    job: RunJob, *, import_ms: float, stop: Event
) -> tuple[RunOutcome, dict[str, NDArray[np.int64]]] | None:
    """Carry out one job in this process.

    Returns:
        The outcome and its samples (`client`, `start_ns`, `latency_ns` and, where paced, `lateness_ns`, each int64
        (N,)); None where `stop` came before the measured time.

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    settings = job.settings
    duration_s = settings.duration_s / settings.launches
    opened = _open(job.choice)
    with opened.predictor as predictor:
        workload = _workload(settings, predictor, opened.windows)
        warm = warm_up(workload.calls[0], workload.arguments, limit_s=settings.warm_up_limit_s, stop=stop)
        if stop.is_set():
            return None
        measured = _measure(workload, settings.rate_hz, duration_s, stop)
        complete = not stop.is_set()
        stages = workload.stages(STAGE_SHARE * duration_s, stop)
        gpu_memory_mb, gpu_note = process_memory_mb()
        samples, arrays = measured.called.samples, measured.called.arrays()
        launch = ProcessStart(
            complete=complete,
            import_ms=import_ms,
            load_ms=opened.load_ms,
            first_call_ms=opened.first_call_ms,
            warm_up=warm,
            latency=summarise(samples.latency_ns),
            windows=time_windows(samples, parts=_parts(len(samples))),
            thirds_p50_us=tuple(window.p50_us for window in time_windows(samples, parts=3)),
            stages=stages,
            pace=pace(measured.called.paced, intervals_ns(arrays), deadline_ms=settings.deadline_ms),
            throughput_hz=workload.predictions * len(samples) / samples.elapsed_ns * 1e9,
            cpu_share=(measured.after.own_s - measured.before.own_s) / (measured.after.time_s - measured.before.time_s),
            rss_mb=measured.rss_mb,
            rss_peak_mb=resident_peak_mb(),
            clock_cost_ns=clock_cost_ns(),
            interference=interference(measured.before, measured.after),
            gpu_memory_mb=gpu_memory_mb,
        )
        outcome = RunOutcome(
            opened=describe(predictor, job.choice.bundle),
            begin_s=measured.before.time_s,
            end_s=measured.after.time_s,
            launch=launch,
            predictions=workload.predictions,
            gpu_note=gpu_note,
        )
    return outcome, arrays


def pace(paced: PacedSamples | None, intervals: NDArray[np.int64], *, deadline_ms: float | None) -> Pace | None:
    """How well a schedule was kept; None where there was none, and without a deadline none is missed."""
    if paced is None:
        return None
    deadline_ns = np.inf if deadline_ms is None else deadline_ms * 1e6
    return Pace(
        lateness=summarise(paced.lateness_ns),
        response=summarise(paced.response_ns),
        interval_std_us=float(intervals.std()) / 1e3 if len(intervals) else None,
        missed=int((paced.response_ns > deadline_ns).sum()),
        overloaded=paced.overloaded,
    )


def _open(choice: Choice) -> _Warm:
    begin = time.perf_counter_ns()
    predictor = open_predictor(choice)
    loaded = time.perf_counter_ns()
    windows = raw_windows(predictor)
    before = time.perf_counter_ns()
    predictor.predict(asked(predictor, windows[0]))
    after = time.perf_counter_ns()
    return _Warm(
        predictor=predictor, windows=windows, load_ms=(loaded - begin) / 1e6, first_call_ms=(after - before) / 1e6
    )


def _workload(settings: Settings, predictor: EdgePredictor, windows: Sequence[Window]) -> Workload:
    clients = settings.clients
    if settings.hop is not None:
        return stream_workload(predictor, windows, hop=settings.hop, jitter=settings.jitter, clients=clients)
    if settings.batch > 1:
        return batch_workload(predictor, windows, settings.batch, clients=clients)
    return window_workload(predictor, windows, clients=clients)


def _measure(workload: Workload, rate_hz: float | None, duration_s: float, stop: Event) -> _Measured:
    rss_mb = resident_mb()
    before = read_counters()
    called = call_together(workload.calls, workload.arguments, rate_hz=rate_hz, duration_s=duration_s, stop=stop)
    return _Measured(called=called, before=before, after=read_counters(), rss_mb=rss_mb)


def _parts(count: int) -> int:
    """How many time windows a loop is cut into: each has calls enough for a p90."""
    return max(1, min(MAX_TIME_WINDOWS, count // sample_floor(0.9)))
