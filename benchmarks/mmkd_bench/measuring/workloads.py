"""What one measured call is: a window, a batch of windows, or the samples of one hop of a stream.

Owns how a predictor is asked in each of these ways, as an application asks it, and how a call is taken apart into the
runtime's own steps. Knows nothing of processes, pacing or reports.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_bench.measuring.opening import asked
from mmkd_bench.measuring.session import open_session
from mmkd_bench.measuring.timing import Call, closed_loop
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.predict.postprocess import Prediction, interpret
from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.stream.stream import Stream
from mmkd_report.schema.bench import AT_ONCE, GATHER, STAGES, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Window = NDArray[Any]

SEED = 0
MAX_HOP = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One way to ask, as calls to be measured.

    Attributes:
        calls: what is measured, one per client; they may be called at the same time.
        arguments: taken in turn.
        predictions: that one call gives.
        stages: measures the steps of a call for some seconds.
    """

    calls: tuple[Call, ...]
    arguments: Sequence[Any]
    predictions: int
    stages: Callable[[float, Event], tuple[Stage, ...]]


def window_workload(predictor: EdgePredictor, windows: Sequence[Window], *, clients: int = 1) -> Workload:
    """`predict`, one window a call."""

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        """The four steps."""
        return step_stages(predictor, windows, repeats=1, duration_s=duration_s, stop=stop)

    arguments = [asked(predictor, window) for window in windows]
    return Workload(calls=(predictor.predict,) * clients, arguments=arguments, predictions=1, stages=stages)


def batch_workload(predictor: EdgePredictor, windows: Sequence[Window], batch: int, *, clients: int = 1) -> Workload:
    """`predict_batch`, so many windows a call.

    Where the graph itself takes as many at once, a stage more tells what its engine needs for all of them together.
    """
    count = len(windows)
    batches = [
        np.stack([windows[(begin + number) % count] for number in range(batch)]) for begin in range(min(count, 8))
    ]
    several = len(predictor.entries) > 1
    arguments = [[asked(predictor, window) for window in one] for one in batches] if several else batches

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        """The four steps of every window, and the engine's own batch."""
        steps = step_stages(predictor, windows, repeats=batch, duration_s=duration_s, stop=stop)
        at_once = _at_once_run(predictor, batches)
        if at_once is None or stop.is_set():
            return steps
        samples = closed_loop(at_once, range(len(batches)), duration_s=duration_s / 2, stop=stop)
        return (*steps, stage(AT_ONCE, samples.latency_ns))

    calls = (predictor.predict_batch,) * clients
    return Workload(calls=calls, arguments=arguments, predictions=batch, stages=stages)


def _at_once_run(predictor: EdgePredictor, batches: Sequence[NDArray[Any]]) -> Callable[[int], object] | None:
    """Runs the engine on the batch of that number; None where the graph takes one window at a time."""
    info, entry = predictor.info(), predictor.entry
    artifact = next((one for one in entry.artifacts if one.file == info.artifact), None)
    batch = None if artifact is None else artifact.batch
    if info.backend != OrtBackend.name or predictor.bundle is None or batch is None or len(batches[0]) > batch.maximum:
        return None
    session = open_session(predictor.bundle.read(info.artifact), threads=info.threads)
    names = [tensor.name for tensor in entry.inputs]
    feeds = [dict(zip(names, prepare_batch(windows, entry.modality), strict=True)) for windows in batches]
    outputs = [tensor.name for tensor in entry.outputs]
    return lambda number: session.run(outputs, feeds[number])


class StreamFeed:
    """Pushes the samples of one hop a call into a stream, as one sensor would, without an end."""

    def __init__(self, stream: Stream, *, period_s: float | None, begin_s: float) -> None:
        self._push = stream.push
        self._period_s = period_s
        self._begin_s = begin_s

    def __call__(self, hop: tuple[Window, NDArray[np.float64]]) -> list[Prediction]:
        """Push samples (hop, C), taken at these times after the first of them, (hop,) seconds."""
        samples, offsets_s = hop
        if self._period_s is None:
            return self._push(samples)
        begin_s = self._begin_s
        self._begin_s = begin_s + self._period_s
        return self._push(samples, begin_s + offsets_s)


def stream_workload(
    predictor: EdgePredictor, windows: Sequence[Window], *, hop: int, jitter: float | None, clients: int = 1
) -> Workload:
    """`Stream.push`, the samples of one hop a call, from the first full window on.

    Args:
        predictor: answers.
        windows: real recordings; their samples follow each other without an end.
        hop: samples from one prediction to the next.
        jitter: samples come with times that stray by up to this share of the sampling period, so that they are
            resampled; None pushes them without times.
        clients: sensors, each with a stream of its own on the one predictor.
    """
    modality = predictor.modality
    hops = _hops(windows, modality, hop=hop, jitter=jitter)

    def feed(stream: Stream) -> StreamFeed:
        """Fill the first window, in hops whose last ends where a prediction is due."""
        period_s = None if jitter is None else hop / modality.rate_hz
        filled = StreamFeed(stream, period_s=period_s, begin_s=0.0)
        for _, one in zip(range(modality.samples // hop + 2), itertools.cycle(hops), strict=False):
            filled(one)
        return filled

    calls = tuple(feed(predictor.stream(hop=hop)) for _ in range(clients))

    def stages(duration_s: float, stop: Event) -> tuple[Stage, ...]:
        """Gathering, in a stream whose predictions cost nothing, and the four steps."""
        gathering = feed(_silent_stream(predictor, hop=hop))
        gathered = closed_loop(gathering, hops, duration_s=duration_s / 4, stop=stop)
        steps = step_stages(predictor, windows, repeats=1, duration_s=duration_s, stop=stop)
        return (stage(GATHER, gathered.latency_ns), *steps)

    return Workload(calls=calls, arguments=hops, predictions=1, stages=stages)


def _hops(
    windows: Sequence[Window], modality: ModalitySpec, *, hop: int, jitter: float | None
) -> list[tuple[Window, NDArray[np.float64]]]:
    """The samples of all windows in hops, (hop, C) each, and when each was taken after the first, (hop,) seconds."""
    join = np.ma.concatenate if modality.kind == "video" else np.concatenate
    samples: Window = join([join(windows)] * -(-hop // sum(map(len, windows))))
    random = np.random.default_rng(SEED)
    found = []
    for begin in range(0, len(samples) - hop + 1, hop):
        strays = random.uniform(-1, 1, hop) * (jitter or 0.0)
        found.append((samples[begin : begin + hop].copy(), (np.arange(hop) + strays) / modality.rate_hz))
    return found


def _silent_stream(predictor: EdgePredictor, *, hop: int) -> Stream:
    """A stream of the same samples whose predictions are there already: what is left is gathering."""
    answer = predictor.predict(asked(predictor, np.zeros(predictor.modality.shape, dtype=predictor.modality.dtype)))
    return plain_stream(predictor.modality, predictor.task, lambda _window, _fault, _age_s: answer, hop=hop)


def plain_stream(modality: ModalitySpec, task: TaskSpec, ask: Callable[..., Prediction], *, hop: int) -> Stream:
    """A stream without checks of gaps, order or age that asks `ask` for its predictions."""
    return Stream(modality=modality, task=task, ask=ask, deliver=list, hop=hop, gap_s=None, reorder=0, stale_s=None)


def step_stages(
    predictor: EdgePredictor, windows: Sequence[Window], *, repeats: int, duration_s: float, stop: Event
) -> tuple[Stage, ...]:
    """The runtime's four steps one after another, timed from outside; with `repeats` windows, their sums."""
    lengths = tuple(array("q") for _ in STAGES)
    steps = _timed_steps(predictor, windows)
    end = time.perf_counter_ns() + round(duration_s * 1e9)
    while True:
        sums = [0] * len(STAGES)
        for moments in itertools.islice(steps, repeats):
            for number, (earlier, later) in enumerate(itertools.pairwise(moments)):
                sums[number] += later - earlier
        for length, total in zip(lengths, sums, strict=True):
            length.append(total)
        if time.perf_counter_ns() >= end or stop.is_set():
            break
    return tuple(stage(name, np.array(length, dtype=np.int64)) for name, length in zip(STAGES, lengths, strict=True))


def _timed_steps(predictor: EdgePredictor, windows: Sequence[Window]) -> Iterator[tuple[int, ...]]:
    """The moments between the four steps of one window after another, without an end."""
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
    """The figures of one step."""
    p50_ns, p90_ns = np.quantile(lengths_ns, [0.5, 0.9])
    return Stage(
        name=name,
        count=len(lengths_ns),
        mean_us=float(lengths_ns.mean()) / 1e3,
        p50_us=float(p50_ns) / 1e3,
        p90_us=float(p90_ns) / 1e3,
    )
