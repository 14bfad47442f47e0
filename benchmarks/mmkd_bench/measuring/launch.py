"""One launch of `mmkd-bench run`: open, warm up, measure, then time the stages from outside."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import resident_mb, resident_peak_mb
from mmkd_bench.machine.interference import interference, read_counters
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.opening import describe, open_predictor, predict_argument, raw_windows
from mmkd_bench.measuring.timing import Arrays, Call, call_loop, sample_floor, summarise, time_windows, warm_up
from mmkd_documents.bench import GATHER, STAGES, ProcessStart, Stage
from mmkd_edge.predict.postprocess import interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.stream.stream import Stream

Window = NDArray[Any]
MAX_HOP = 1_000_000
_MAX_TIME_WINDOWS = 20
STAGE_FRACTION = 0.2  # time for stages over that of end-to-end calls


def measure_launch(job: RunJob, *, import_ms: float, stop: Event) -> tuple[RunOutcome, Arrays] | None:
    """Do one job in this process; None if `stop` came before the measured time."""
    settings = job.settings
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
            import_ms=import_ms,
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
