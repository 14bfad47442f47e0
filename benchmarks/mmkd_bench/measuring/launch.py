"""One launch of `mmkd-bench run`: open a bundle, warm up, measure, then time its stages from outside."""

from __future__ import annotations

import time
from threading import Event

import numpy as np

from mmkd_bench.machine.facts import resident_mb, resident_peak_mb
from mmkd_bench.machine.interference import interference, read_counters
from mmkd_bench.machine.programs import process_memory_mb
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.opening import describe, open_predictor, predict_argument, raw_windows
from mmkd_bench.measuring.percentiles import sample_floor, summarise
from mmkd_bench.measuring.timing import Arrays, call_together, time_windows, warm_up
from mmkd_bench.measuring.workloads import stream_workload, window_workload
from mmkd_report.schema.bench import Pace, ProcessStart

MAX_TIME_WINDOWS = 20
STAGE_FRACTION = 0.2
"""Time for the stages as a fraction of the time for the end-to-end calls."""


def measure_launch(job: RunJob, *, import_ms: float, stop: Event) -> tuple[RunOutcome, Arrays] | None:
    """Carry out one job in this process; None where `stop` came before the measured time."""
    settings = job.settings
    duration_s = settings.duration_s / settings.launches
    begin = time.perf_counter_ns()
    with open_predictor(job.choice) as predictor:
        loaded = time.perf_counter_ns()
        windows = raw_windows(predictor)
        before_first = time.perf_counter_ns()
        predictor.predict(predict_argument(predictor, windows[0]))
        after_first = time.perf_counter_ns()
        if settings.hop is not None:
            workload = stream_workload(predictor, windows, hop=settings.hop, clients=settings.clients)
        else:
            workload = window_workload(predictor, windows, batch=settings.batch, clients=settings.clients)
        warm = warm_up(workload.calls[0], workload.arguments, limit_s=settings.warm_up_limit_s, stop=stop)
        if stop.is_set():
            return None
        rss_mb, before = resident_mb(), read_counters()
        times = call_together(
            workload.calls, workload.arguments, rate_hz=settings.rate_hz, duration_s=duration_s, stop=stop
        )
        after = read_counters()
        complete = not stop.is_set()
        stages = workload.stages(STAGE_FRACTION * duration_s, stop)
        gpu_memory_mb, gpu_note = process_memory_mb()
        parts = max(1, min(MAX_TIME_WINDOWS, len(times) // sample_floor(0.9)))  # each has calls enough for a p90
        launch = ProcessStart(
            complete=complete,
            import_ms=import_ms,
            load_ms=(loaded - begin) / 1e6,
            first_call_ms=(after_first - before_first) / 1e6,
            warm_up=warm,
            latency=summarise(times.latency_ns),
            windows=time_windows(times, parts=parts),
            thirds_p50_us=tuple(window.p50_us for window in time_windows(times, parts=3)),
            stages=stages,
            pace=pace_of(times.arrays(), deadline_ms=settings.deadline_ms, overloaded=times.overloaded),
            throughput_hz=workload.predictions * len(times) / times.elapsed_ns * 1e9,
            cpu_cores=(after.own_s - before.own_s) / (after.time_s - before.time_s),
            rss_mb=rss_mb,
            rss_peak_mb=resident_peak_mb(),
            interference=interference(before, after),
            gpu_memory_mb=gpu_memory_mb,
        )
        outcome = RunOutcome(
            opened=describe(predictor, job.choice.bundle),
            begin_s=before.time_s,
            end_s=after.time_s,
            launch=launch,
            predictions=workload.predictions,
            gpu_note=gpu_note,
        )
    return outcome, times.arrays()


def pace_of(samples: Arrays, *, deadline_ms: float | None, overloaded: bool) -> Pace | None:
    """Return how well a schedule was kept; None without a schedule."""
    if "lateness_ns" not in samples:
        return None
    response_ns = samples["lateness_ns"] + samples["latency_ns"]
    deadline_ns = np.inf if deadline_ms is None else deadline_ms * 1e6
    return Pace(
        lateness=summarise(samples["lateness_ns"]),
        response=summarise(response_ns),
        missed=int((response_ns > deadline_ns).sum()),
        overloaded=overloaded,
    )
