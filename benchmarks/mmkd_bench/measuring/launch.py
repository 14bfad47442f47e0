"""One launch of `mmkd-bench run`: open, warm up, measure, then time the stages from outside."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import process_memory_mb, resident_mb, resident_peak_mb
from mmkd_bench.machine.interference import interference, read_counters
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.opening import describe, open_predictor, predict_argument, raw_windows
from mmkd_bench.measuring.timing import (
    Arrays,
    Call,
    call_loop,
    call_together,
    sample_floor,
    summarise,
    time_windows,
    warm_up,
)
from mmkd_edge.predict.postprocess import interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import ModalitySpec
from mmkd_edge.stream.stream import Stream
from mmkd_report.schema.bench import GATHER, STAGES, Pace, ProcessStart, Stage

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
        parts = max(1, min(_MAX_TIME_WINDOWS, len(times) // sample_floor(0.9)))  # each has calls enough for a p90
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
            pace=measure_pace(times.arrays(), deadline_ms=settings.deadline_ms, overloaded=times.overloaded),
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


def measure_pace(samples: Arrays, *, deadline_ms: float | None, overloaded: bool) -> Pace | None:
    """Return how well a schedule was kept, if any."""
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


Window = NDArray[Any]
MAX_HOP = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`calls`, one per client, take `arguments` in turn; `stages` times their steps."""

    calls: tuple[Call, ...]
    arguments: Sequence[Any]
    predictions: int
    stages: Callable[[float, Event], tuple[Stage, ...]]


def window_workload(
    predictor: EdgePredictor, windows: Sequence[Window], *, batch: int = 1, clients: int = 1
) -> Workload:
    """Measure `predict`, or `predict_batch` of `batch` windows."""

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        return _step_stages(predictor, windows, repeats=batch, duration_s=duration_s, stop=stop)

    arguments: list[Any] = [predict_argument(predictor, window) for window in windows]
    call: Call = predictor.predict
    if batch > 1:
        count, call = len(windows), predictor.predict_batch
        arguments = [[arguments[(first + n) % count] for n in range(batch)] for first in range(min(count, 8))]
        if len(predictor.entries) == 1:
            arguments = [np.stack(one) for one in arguments]
    return Workload(calls=(call,) * clients, arguments=arguments, predictions=batch, stages=stages)


def stream_workload(predictor: EdgePredictor, windows: Sequence[Window], *, hop: int, clients: int = 1) -> Workload:
    """Measure `Stream.push`, one hop per call, from the first full window on; a client is a sensor."""
    modality = predictor.modality
    hops = _hops(windows, modality, hop=hop)

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
            ask=lambda _window, _fault, _age_s: answer,
            deliver=list,
            hop=hop,
            gap_s=None,
            stale_s=None,
        )
        gathered = call_loop(feed(silent), hops, duration_s=duration_s / 4, stop=stop)
        steps = _step_stages(predictor, windows, repeats=1, duration_s=duration_s, stop=stop)
        return (stage(GATHER, gathered.latency_ns), *steps)

    calls = tuple(feed(predictor.stream(hop=hop)) for _ in range(clients))
    return Workload(calls=calls, arguments=hops, predictions=1, stages=stages)


def _hops(windows: Sequence[Window], modality: ModalitySpec, *, hop: int) -> list[Window]:
    join = np.ma.concatenate if modality.kind == "video" else np.concatenate
    samples: Window = join([join(windows)] * -(-hop // sum(map(len, windows))))
    return [samples[begin : begin + hop].copy() for begin in range(0, len(samples) - hop + 1, hop)]


def _step_stages(
    predictor: EdgePredictor, windows: Sequence[Window], *, repeats: int, duration_s: float, stop: Event
) -> tuple[Stage, ...]:
    lengths = tuple(array("q") for _ in STAGES)
    steps = _timed_steps(predictor, windows)
    end = time.perf_counter_ns() + round(duration_s * 1e9)
    while True:
        sums = np.sum([np.diff(moments) for moments in itertools.islice(steps, repeats)], axis=0).tolist()
        for length, total in zip(lengths, sums, strict=True):
            length.append(total)
        if time.perf_counter_ns() >= end or stop.is_set():
            break
    return tuple(stage(name, np.array(length, dtype=np.int64)) for name, length in zip(STAGES, lengths, strict=True))


def _timed_steps(predictor: EdgePredictor, windows: Sequence[Window]) -> Iterator[tuple[int, ...]]:
    modality, task, reference = predictor.modality, predictor.task, predictor.reference
    values_name, present_name = (tensor.name for tensor in predictor.entry.inputs)
    run, clock = predictor.backend.run, time.perf_counter_ns
    for window in itertools.cycle(windows):
        begin = clock()
        checked = check_window(window, modality)
        after_check = clock()
        values, present = prepare(checked, modality, reference)
        after_prepare = clock()
        _, probabilities, *_ = run({values_name: values, present_name: present})
        after_run = clock()
        interpret(probabilities, present, modality=modality, task=task)
        yield begin, after_check, after_prepare, after_run, clock()


def stage(name: str, lengths_ns: NDArray[np.int64]) -> Stage:
    """Return a step's figures."""
    p50_us, p90_us = (np.quantile(lengths_ns, [0.5, 0.9]) / 1e3).tolist()
    return Stage(name=name, p50_us=p50_us, p90_us=p90_us)
