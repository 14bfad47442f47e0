"""Measured calls: a window, a batch of windows, or one hop of a stream."""

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

from mmkd_bench.measuring.opening import predict_argument
from mmkd_bench.measuring.timing import Call, call_loop
from mmkd_edge.predict.postprocess import interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import ModalitySpec
from mmkd_edge.stream.stream import Stream
from mmkd_report.schema.bench import GATHER, STAGES, Stage

Window = NDArray[Any]
MAX_HOP = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`calls`, one per client, take `arguments` in turn; `stages` measures their steps for some seconds."""

    calls: tuple[Call, ...]
    arguments: Sequence[Any]
    predictions: int
    stages: Callable[[float, Event], tuple[Stage, ...]]


def window_workload(
    predictor: EdgePredictor, windows: Sequence[Window], *, batch: int = 1, clients: int = 1
) -> Workload:
    """Measure `predict`, or `predict_batch` with `batch` windows a call."""

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        return step_stages(predictor, windows, repeats=batch, duration_s=duration_s, stop=stop)

    arguments: list[Any] = [predict_argument(predictor, window) for window in windows]
    call: Call = predictor.predict
    if batch > 1:
        count, call = len(windows), predictor.predict_batch
        arguments = [[arguments[(first + n) % count] for n in range(batch)] for first in range(min(count, 8))]
        if len(predictor.entries) == 1:
            arguments = [np.stack(one) for one in arguments]
    return Workload(calls=(call,) * clients, arguments=arguments, predictions=batch, stages=stages)


def stream_workload(predictor: EdgePredictor, windows: Sequence[Window], *, hop: int, clients: int = 1) -> Workload:
    """Measure `Stream.push`, one hop a call, from the first full window on; each client is a sensor."""
    modality = predictor.modality
    hops = _hops(windows, modality, hop=hop)

    def feed(stream: Stream) -> Call:
        for _, samples in zip(range(modality.samples // hop + 2), itertools.cycle(hops), strict=False):
            stream.push(samples)
        return stream.push

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        """Measure gathering, in a stream whose predictions are there already, and the four steps."""
        empty = np.zeros(modality.shape, dtype=modality.dtype)
        answer = predictor.predict(predict_argument(predictor, empty))
        silent = Stream(
            modality=modality,
            task=predictor.task,
            ask=lambda _window, _fault, _age_s: answer,
            deliver=list,
            hop=hop,
            gap_s=None,
            reorder=0,
            stale_s=None,
        )
        gathered = call_loop(feed(silent), hops, duration_s=duration_s / 4, stop=stop)
        steps = step_stages(predictor, windows, repeats=1, duration_s=duration_s, stop=stop)
        return (stage(GATHER, gathered.latency_ns), *steps)

    calls = tuple(feed(predictor.stream(hop=hop)) for _ in range(clients))
    return Workload(calls=calls, arguments=hops, predictions=1, stages=stages)


def _hops(windows: Sequence[Window], modality: ModalitySpec, *, hop: int) -> list[Window]:
    join = np.ma.concatenate if modality.kind == "video" else np.concatenate
    samples: Window = join([join(windows)] * -(-hop // sum(map(len, windows))))
    return [samples[begin : begin + hop].copy() for begin in range(0, len(samples) - hop + 1, hop)]


def step_stages(
    predictor: EdgePredictor, windows: Sequence[Window], *, repeats: int, duration_s: float, stop: Event
) -> tuple[Stage, ...]:
    """Time the runtime's four steps from outside; with `repeats` windows, their sums."""
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
    """Yield the moments between the four steps of one window after another, without an end."""
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
    """Return the figures of one step."""
    p50_us, p90_us = (np.quantile(lengths_ns, [0.5, 0.9]) / 1e3).tolist()
    return Stage(name=name, p50_us=p50_us, p90_us=p90_us)
