"""How a predictor is doing: what it answered, what failed, and whether its inputs still look like the training data.

Owns the counters and the running statistics behind `EdgePredictor.health`. Nothing in here grows with time, and nothing
is written or sent anywhere: see `mmkd_edge.watch.prometheus` for that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.drift.features import ROWS, ChannelStatistics, GroupReference, InputStatistics
from mmkd_edge.drift.verdict import Drift, DriftWatch
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.watch.timing import Histogram, Timing

BINS = 10

# An empty bin would make the index infinite.
_SMALLEST_SHARE = 1e-4
# Fewer observed windows, or answers, say more of the moment than of a drift.
_FEWEST_WINDOWS = 50
_FEWEST_ANSWERS = 200
# Then all counts are halved: what is long past fades, and the counters stay small.
_MOST_WINDOWS = 4096
_MOST_ANSWERS = 65536
_SETTLED_TOGETHER = 16


class ChannelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One channel as it was seen lately.

    Attributes:
        channel: its name.
        mean: of the values that were there, in the unit that the student takes; NaN where there were none.
        std: of the same values.
        missing_share: 0 to 1; NaN where no window was observed.
        psi: population stability index against the golden windows; None without them or with too few windows. A figure,
            not a verdict: those of a person never seen, and even of the training's own, are often large.
    """

    channel: str
    mean: float
    std: float
    missing_share: float
    psi: float | None


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One student's inputs and answers, lately.

    Attributes:
        model: the student.
        windows_observed: how many windows the statistics of the channels rest on; older ones weigh less.
        channels: one for each.
        drift: the verdict on the last windows.
        label_shares: share of each label among the answers, 0 to 1; zeros where there were none. Of several labels the
            share of answers in which it is on; of a regression empty.
        label_psi: population stability index of the answers against the reference; None where it says nothing yet.
    """

    model: str
    windows_observed: float
    channels: tuple[ChannelHealth, ...]
    drift: Drift
    label_shares: dict[str, float]
    label_psi: float | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What `EdgePredictor.health` gives.

    Attributes:
        predictions: how many predictions were given, by status.
        backend_failures: calls in which the engine failed.
        reopens: how often an engine was opened again after a failure.
        swaps: how often another bundle took over.
        rollbacks: how often the earlier bundle took over again.
        models: the students.
        latency: of the calls of a `Watched` predictor; None elsewhere, and before the first.
        input_age: from the newest sample of a window to its answer; None where nobody told the ages.
    """

    predictions: dict[str, int]
    backend_failures: int
    reopens: int
    swaps: int
    rollbacks: int
    models: tuple[ModelHealth, ...]
    latency: Timing | None = None
    input_age: Timing | None = None

    @property
    def drifting(self) -> tuple[str, ...]:
        """The channels, as `model/channel`, that a verdict of `drifting` concerns; nothing that the student bears."""
        drifting = [model for model in self.models if model.drift.verdict == "drifting"]
        return tuple(f"{model.model}/{channel}" for model in drifting for channel in model.drift.channels)


def measure_statistics(
    windows: NDArray[np.float32], probabilities: NDArray[np.float32], modality: ModalitySpec, *, task: TaskSpec
) -> InputStatistics:
    """The statistics that later windows are compared with.

    Args:
        windows: (N, T, C) float32 as `prepare` takes them without a reference; NaN = missing.
        probabilities: (N, K) float32, the answers for them.
        modality: what a window is.
        task: what was answered.
    """
    values, present = prepare_batch(windows, modality)
    channels = [
        _measure_channel(values[:, :, c][present[:, :, c] > 0], missing_share=1.0 - float(present[:, :, c].mean()))
        for c in range(values.shape[2])
    ]
    return InputStatistics(
        windows=len(windows),
        channels=tuple(channels),
        label_shares=_label_shares(probabilities, task),
    )


def _label_shares(probabilities: NDArray[np.float32], task: TaskSpec) -> tuple[float, ...]:
    match task.kind:
        case "classification":
            counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
            return tuple((counts / counts.sum()).tolist())
        case "multi_label":
            return tuple((probabilities >= task.on_from).mean(axis=0).tolist())
        case "regression":
            return ()


def _measure_channel(values: NDArray[np.float32], *, missing_share: float) -> ChannelStatistics:
    if values.size == 0:
        return ChannelStatistics(mean=0.0, std=0.0, missing_share=missing_share, edges=(), shares=(1.0,))
    exact = values.astype(np.float64)
    # Deciles; fewer where many values are the same. An edge is float32, like what will be compared with it.
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS).astype(np.float32))
    shares = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / values.size
    return ChannelStatistics(
        mean=float(exact.mean()),
        std=float(exact.std()),
        missing_share=missing_share,
        edges=tuple(edges.astype(float).tolist()),
        shares=tuple(shares.tolist()),
    )


def stability_index(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Population stability index: the sum of (p - q) ln(p / q) over bins.

    Source: N. Siddiqi, Credit Risk Scorecards (2006), ch. 9; it is the symmetric Kullback-Leibler divergence.

    Args:
        found: (B,) shares, summing to 1.
        expected: (B,) shares, summing to 1.
    """
    p = np.maximum(found, _SMALLEST_SHARE)
    q = np.maximum(expected, _SMALLEST_SHARE)
    return float(((p - q) * np.log(p / q)).sum())


class Tally:
    """Running statistics of one student. The monitor's lock guards it.

    Args:
        model: the student's name.
        modality: what it takes.
        task: what it answers.
        statistics: what the stability indices compare with; None compares nothing.
        group_reference: what the verdict compares with; None gives none.
        first: whether it is the student that is asked first.

    Attributes:
        first: whether it is the student that is asked first.
        watch: holds the last windows against the training.
    """

    def __init__(
        self,
        *,
        model: str,
        modality: ModalitySpec,
        task: TaskSpec,
        statistics: InputStatistics | None,
        group_reference: GroupReference | None = None,
        first: bool = True,
    ) -> None:
        self.first = first
        channels = len(modality.channels)
        self._model = model
        self._modality = modality
        self._task = task
        self._statistics = statistics
        self._edges = np.full((channels, BINS - 1), np.inf, dtype=np.float32)
        self._shift = np.zeros(channels)
        for c, channel in enumerate(statistics.channels if statistics else ()):
            self._edges[c, : len(channel.edges)] = channel.edges
            self._shift[c] = channel.mean
        self._offsets = np.arange(channels) * BINS
        self._step = max(1, modality.samples // ROWS)
        unit = modality.unit if modality.normalise == "none" else ""
        self.watch = DriftWatch(group_reference, names=modality.channels, unit=unit)
        self._windows = 0.0
        self._bins = np.zeros((channels, BINS))
        self._moments = np.zeros((4, channels))  # rows: seen, there, sum, sum of squares, the last two about the shift
        self._labels = dict.fromkeys(() if task.kind == "regression" else task.labels, 0.0)
        self._answers = 0.0

    def answer(self, prediction: Prediction) -> None:
        """Count an answer."""
        if self._task.kind == "classification":
            self._labels[prediction.label] += 1
        for label in prediction.labels:
            self._labels[label] += 1
        self._answers += 1
        if self._answers >= _MOST_ANSWERS:
            self._labels = {label: count / 2 for label, count in self._labels.items()}
            self._answers /= 2

    def observe(self, values: NDArray[np.float32], present: NDArray[np.float32]) -> None:
        """Look at a window: values and presence, each (1, T, C), as `prepare` gives them."""
        rows, there = values[0, :: self._step], present[0, :: self._step] > 0  # (R, C)
        bins = np.add.reduce(rows[:, :, None] >= self._edges, axis=2, dtype=np.intp) + self._offsets  # (R, C)
        self._bins += np.bincount(bins[there], minlength=self._bins.size).reshape(self._bins.shape)
        shifted = np.where(there, rows - self._shift, 0.0)
        self._moments[0] += len(rows)
        self._moments[1] += there.sum(axis=0)
        self._moments[2] += shifted.sum(axis=0)
        self._moments[3] += np.square(shifted).sum(axis=0)
        self.watch.add(rows, there)
        self._windows += 1
        if self._windows >= _MOST_WINDOWS:
            self._windows /= 2
            self._bins /= 2
            self._moments /= 2

    def health(self, drift: Drift) -> ModelHealth:
        """What was counted so far, beside the verdict on the last windows."""
        shares = np.array(list(self._labels.values())) / max(self._answers, 1.0)
        return ModelHealth(
            model=self._model,
            windows_observed=self._windows,
            channels=tuple(self._channel(c, name) for c, name in enumerate(self._modality.channels)),
            drift=drift,
            label_shares=dict(zip(self._labels, shares.tolist(), strict=True)),
            label_psi=self._label_psi(shares),
        )

    def _channel(self, c: int, name: str) -> ChannelHealth:
        seen, there, total, squares = self._moments[:, c].tolist()
        mean = total / there if there else np.nan
        variance = squares / there - mean * mean if there else np.nan
        return ChannelHealth(
            channel=name,
            mean=float(mean + self._shift[c]),
            std=float(np.sqrt(np.maximum(variance, 0.0))),
            missing_share=1.0 - there / seen if seen else float("nan"),
            psi=self._psi(c),
        )

    def _psi(self, c: int) -> float | None:
        counts = self._bins[c]
        if self._statistics is None or self._windows < _FEWEST_WINDOWS or not counts.any():
            return None
        expected = np.array(self._statistics.channels[c].shares)
        return stability_index(counts[: len(expected)] / counts.sum(), expected)

    def _label_psi(self, shares: NDArray[np.float64]) -> float | None:
        if self._statistics is None or self._answers < _FEWEST_ANSWERS or self._task.kind == "regression":
            return None
        expected = np.array(self._statistics.label_shares)
        if self._task.kind == "classification":
            return stability_index(shares, expected)
        # Every label is a distribution of its own, over on and off; the one that moved most tells.
        pairs = zip(shares, expected, strict=True)
        return max(stability_index(np.array([p, 1 - p]), np.array([q, 1 - q])) for p, q in pairs)


class Monitor:
    """Counts what a predictor gives. May be shared by threads.

    An answer costs one append here; every few answers are settled together, under the lock.

    Args:
        every: each how manieth window is looked at; 0 looks at none and counts only.

    Attributes:
        notes: answers that were not settled yet, with the tally of their student; whoever appends to it when it holds
            `most` calls `settle`.
        most: how many those may be.
    """

    def __init__(self, *, every: int) -> None:
        self.notes: deque[tuple[Tally, Prediction]] = deque()
        self.most = every or _SETTLED_TOGETHER
        self._observes = every > 0
        self._lock = threading.Lock()
        self._ages = Histogram()
        self._predictions: dict[str, int] = {"ok": 0, "warming_up": 0, "degraded": 0, "stale": 0, "invalid": 0}
        self._events = {"backend_failures": 0, "reopens": 0, "swaps": 0, "rollbacks": 0}

    def settle(self, tally: Tally, values: NDArray[np.float32], present: NDArray[np.float32]) -> None:
        """Count the answers that were noted, and look at the window of the last one."""
        with self._lock:
            self._settle()
            if self._observes:
                tally.observe(values, present)

    def _settle(self) -> None:
        for _ in range(len(self.notes)):
            tally, prediction = self.notes.popleft()
            if prediction.input_age_s is not None:
                self._ages.add(prediction.input_age_s)
            if prediction.index >= 0:
                tally.answer(prediction)
            # What the first student answers well is given as it is; all else passes `count` on its way.
            if prediction.status == "ok" and tally.first:
                self._predictions["ok"] += 1

    def count(self, status: str) -> None:
        """Count one prediction that was given and is not `ok`."""
        with self._lock:
            self._predictions[status] += 1

    def event(self, name: str) -> None:
        """Count what happened to an engine: a name of a counter in `Health`."""
        with self._lock:
            self._events[name] += 1

    def health(self, tallies: Sequence[Tally]) -> Health:
        """Everything that was counted so far, at one moment."""
        with self._lock:
            self._settle()
            due = [tally.watch.due() for tally in tallies]
        # Some milliseconds: no prediction waits for them.
        drifts = [tally.watch.verdict(features) for tally, features in zip(tallies, due, strict=True)]
        with self._lock:
            return Health(
                predictions=dict(self._predictions),
                backend_failures=self._events["backend_failures"],
                reopens=self._events["reopens"],
                swaps=self._events["swaps"],
                rollbacks=self._events["rollbacks"],
                models=tuple(tally.health(drift) for tally, drift in zip(tallies, drifts, strict=True)),
                input_age=self._ages.timing(),
            )
