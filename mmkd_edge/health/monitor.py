"""The counters behind `EdgePredictor.health`, and a predictor whose calls are timed from outside."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.health.running import ModelHealth, RunningStatistics
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predict.sensors import Status
from mmkd_edge.stream.stream import Stream

# Edges in seconds, 12 per decade: percentiles are within a tenth of the truth.
_PER_DECADE = 12
_FROM, _TO = -5, 4
_EDGES_APART = 4  # per bucket in reports
EDGES = tuple(10 ** (_FROM + step / _PER_DECADE) for step in range((_TO - _FROM) * _PER_DECADE + 1))
# Recent counts are halved here, so that old calls fade.
_MAX_RECENT = 65536


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements in seconds; percentiles are of recent ones, `counts` cumulative, per edge of `EDGES`."""

    count: int
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    sum_s: float
    counts: tuple[int, ...]

    @property
    def buckets(self) -> list[tuple[float, int]]:
        """Upper edges, three per decade and infinity, with cumulative counts."""
        return [*list(zip(EDGES, self.counts, strict=True))[::_EDGES_APART], (math.inf, self.count)]


class SecondsHistogram:
    """Counts seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._all = [0] * (len(EDGES) + 1)
        self._recent = [0.0] * (len(EDGES) + 1)
        self._weight = 0.0
        self._sum_s = 0.0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a measurement; a negative one, of clocks that disagree, as 0."""
        seconds = max(seconds, 0.0)
        place = bisect_left(EDGES, seconds)
        self._all[place] += 1
        self._recent[place] += 1
        self._weight += 1
        self._sum_s += seconds
        self._max_s = max(self._max_s, seconds)
        if self._weight >= _MAX_RECENT:
            self._recent = [count / 2 for count in self._recent]
            self._weight /= 2

    def timing(self) -> Timing | None:
        """Summarise the measurements; None without any."""
        count = sum(self._all)
        if count == 0:
            return None
        below, counts = 0, []
        for bucket in self._all[:-1]:
            below += bucket
            counts.append(below)
        return Timing(
            count=count,
            p50_s=self._quantile(0.5),
            p90_s=self._quantile(0.9),
            p99_s=self._quantile(0.99),
            max_s=self._max_s,
            sum_s=self._sum_s,
            counts=tuple(counts),
        )

    def _quantile(self, fraction: float) -> float:
        rank, below, place = fraction * self._weight, 0.0, 0
        for place, count in enumerate(self._recent):  # noqa: B007 # used below
            below += count
            if count and below >= rank:
                break
        if place == 0:
            return min(EDGES[0], self._max_s)
        return self._max_s if place == len(EDGES) else min(math.sqrt(EDGES[place - 1] * EDGES[place]), self._max_s)


Event = Literal["backend_failures", "reopens", "swaps", "rollbacks"]
_LATEST = 100


class LatestAnswers:
    """Warns if most of the last hundred windows were unlike the training."""

    def __init__(self) -> None:
        self._unknown: deque[bool] = deque(maxlen=_LATEST)
        self._answers = 0

    def add(self, status: str) -> None:
        """Count an answer."""
        if status not in ("warming_up", "invalid"):
            self._unknown.append(status == "unknown")
            self._answers += 1

    def warning(self, modalities: Iterable[str]) -> str:
        """Return what to check if more than half were unknown; else empty."""
        unknown, count = sum(self._unknown), len(self._unknown)
        if 2 * unknown <= count:
            return ""
        of = f"{count}" if self._answers == count else f"the last {count}"
        names = " and ".join(modalities)
        return f"{unknown} of {of} windows are far from the training data; check unit and scale of {names}"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What `EdgePredictor.health` returns.

    Attributes:
        latency: calls of a `Watched` predictor.
        input_age: from a window's newest sample to its answer.
        returned: why an older bundle answers and not the newest, or empty.
        unlike_training: what to check if most of the last hundred windows were `unknown`, or empty.
    """

    predictions: dict[str, int]
    backend_failures: int
    reopens: int
    swaps: int
    rollbacks: int
    models: tuple[ModelHealth, ...]
    latency: Timing | None = None
    input_age: Timing | None = None
    returned: str = ""
    unlike_training: str = ""

    @property
    def drifting(self) -> tuple[str, ...]:
        """Channels, as `model/channel`, of `drifting` verdicts."""
        drifting = [model for model in self.models if model.drift.verdict == "drifting"]
        return tuple(f"{model.model}/{channel}" for model in drifting for channel in model.drift.channels)

    @property
    def adaptation_due(self) -> tuple[str, ...]:
        """`model: reason` of the students to adapt."""
        reasons = ((model.model, model.drift.adaptation_reason) for model in self.models)
        return tuple(f"{name}: {reason}" for name, reason in reasons if reason)


class HasHealth(Protocol):
    """A predictor, or a wrapper of one."""

    def health(self) -> Health:
        """Return its health."""
        ...


class Monitor:
    """Counts predictions, thread-safe; measures one of `every` windows (0: none)."""

    def __init__(self, *, every: int) -> None:
        self._every = every
        self._unmeasured = 0  # answers since the last measured window
        self._lock = threading.RLock()  # a signal handler may interrupt a call of its thread
        self._ages = SecondsHistogram()
        self._predictions: dict[str, int] = dict.fromkeys(get_args(Status), 0)
        self._latest = LatestAnswers()
        self._events: dict[Event, int] = dict.fromkeys(get_args(Event), 0)

    def count_answer(
        self, statistics: RunningStatistics, prediction: Prediction, values: NDArray[Any], present: NDArray[np.float32]
    ) -> None:
        """Count a student's answer; now and then measure the window."""
        with self._lock:
            if prediction.index >= 0:
                statistics.count_answer(prediction.label, prediction.labels)
            self._unmeasured += 1
            if self._every and self._unmeasured >= self._every:
                self._unmeasured = 0
                statistics.observe(values, present)

    def count_returned(self, predictions: Iterable[Prediction]) -> None:
        """Count predictions that the caller gets."""
        with self._lock:
            for prediction in predictions:
                self._predictions[prediction.status] += 1
                self._latest.add(prediction.status)
                if prediction.index >= 0 and prediction.input_age_s is not None:
                    self._ages.add(prediction.input_age_s)

    def event(self, name: Event) -> None:
        """Count an event of an engine."""
        with self._lock:
            self._events[name] += 1

    def health(self, students: Sequence[RunningStatistics]) -> Health:
        """Summarise all counts at one moment."""
        with self._lock:
            due = [student.watch.due() for student in students]
        # Milliseconds, outside of the lock.
        drifts = [student.watch.verdict(features) for student, features in zip(students, due, strict=True)]
        with self._lock:
            return Health(
                predictions=dict(self._predictions),
                backend_failures=self._events["backend_failures"],
                reopens=self._events["reopens"],
                swaps=self._events["swaps"],
                rollbacks=self._events["rollbacks"],
                models=tuple(student.health(drift) for student, drift in zip(students, drifts, strict=True)),
                input_age=self._ages.timing(),
                unlike_training=self._latest.warning(student.modality for student in students),
            )


class Predicts(HasHealth, Protocol):
    """An `EdgePredictor`, or a stand-in."""

    def predict(self, window: object, *, input_age_s: float | None, deadline_s: float | None) -> Prediction:
        """Answer for one window."""
        ...


class Watched:
    """Times the calls of a predictor, thread-safe; does not close it.

    >>> from mmkd_edge import ModalitySpec
    >>> from mmkd_edge.testing import fake_predictor
    >>> acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    >>> watched = Watched(fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn")))
    >>> watched.predict([[0.0], [1.0]], input_age_s=0.5).label
    'worn'
    >>> watched.health().latency.count, watched.health().input_age.max_s
    (1, 0.5)
    """

    def __init__(self, predictor: Predicts) -> None:
        self._predictor = predictor
        self._latency = SecondsHistogram()
        self._lock = threading.RLock()  # a signal handler may interrupt a call of its thread

    def predict(
        self, window: object, *, input_age_s: float | None = None, deadline_s: float | None = None
    ) -> Prediction:
        """Call `EdgePredictor.predict`, timed."""
        began_s = time.perf_counter()
        prediction = self._predictor.predict(window, input_age_s=input_age_s, deadline_s=deadline_s)
        self._note(began_s)
        return prediction

    def push(
        self, stream: Stream, samples: object, time_s: object = None, *, now_s: float | None = None
    ) -> list[Prediction]:
        """Call `Stream.push`, timing all its predictions together."""
        began_s = time.perf_counter()
        predictions = stream.push(samples, time_s, now_s=now_s)
        if predictions:
            self._note(began_s)
        return predictions

    def health(self) -> Health:
        """Return `EdgePredictor.health` with the latency of these calls."""
        with self._lock:
            latency = self._latency.timing()
        return msgspec.structs.replace(self._predictor.health(), latency=latency)

    def _note(self, began_s: float) -> None:
        seconds = time.perf_counter() - began_s
        with self._lock:
            self._latency.add(seconds)
