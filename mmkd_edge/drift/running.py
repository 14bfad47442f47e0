"""What one student takes and answers, counted as it runs and compared with the training.

Owns the figures of channels and labels. Nothing in here grows with time. The verdict on them is in `drift.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.drift.adaptation import AdaptationAdvice, SureAnswers, adaptation_of
from mmkd_edge.drift.features import ROWS, ChannelStatistics, GroupReference, InputStatistics
from mmkd_edge.drift.levels import rows_of
from mmkd_edge.drift.verdict import Drift, DriftWatch
from mmkd_edge.spec import ModalitySpec, TaskSpec

BINS = 10

# An empty bin would make the index infinite.
_SMALLEST_SHARE = 1e-4
# Fewer observed windows, or answers, say more of the moment than of a drift.
_FEWEST_WINDOWS = 50
_FEWEST_ANSWERS = 200
# Then all counts are halved: what is long past fades, and the counters stay small.
_MOST_WINDOWS = 4096
_MOST_ANSWERS = 65536


class ChannelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One channel as it was seen lately.

    Attributes:
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
        windows_observed: how many windows the statistics of the channels rest on; older ones weigh less.
        drift: the verdict on the last windows.
        label_shares: share of each label among the answers, 0 to 1; zeros where there were none. Of several labels the
            share of answers in which it is on; of a regression empty.
        label_psi: population stability index of the answers against the reference; None where it says nothing yet.
        adaptation: whether adapting the student is due.
    """

    model: str
    windows_observed: float
    channels: tuple[ChannelHealth, ...]
    drift: Drift
    label_shares: dict[str, float]
    label_psi: float | None
    adaptation: AdaptationAdvice


def measure_statistics(
    values: NDArray[Any], present: NDArray[np.float32], probabilities: NDArray[np.float32], *, task: TaskSpec
) -> InputStatistics:
    """The statistics that later windows are compared with.

    Args:
        values: float32 (N, T, C), what `prepare_batch` gives for windows without a reference; of video uint8
            (N, T, H, W, C), of which the brightness of the frames is measured.
        present: float32 (N, T, C), 1 or 0; of video (N, T, 1).
        probabilities: float32 (N, K), the answers for them.
        task: what was answered.
    """
    values, present = rows_of(values, present)
    channels = [
        _measure_channel(values[:, :, c][present[:, :, c] > 0], missing_share=1.0 - float(present[:, :, c].mean()))
        for c in range(values.shape[2])
    ]
    return InputStatistics(
        windows=len(values),
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


class RunningStatistics:
    """What one student took and answered lately. Not for several threads at once: whoever shares it holds a lock.

    Args:
        model: the student's name.
        modality: what it takes.
        task: what it answers.
        expected: what the stability indices compare with; None compares nothing.
        group_reference: what the verdict compares with; None gives none.
        true_probability: of the labels of the windows that calibrated the student, on average; None where none did.

    Attributes:
        modality: name of what the student takes.
        watch: holds the last windows against the training.
        sure: how probable its answers are.
    """

    def __init__(
        self,
        *,
        model: str,
        modality: ModalitySpec,
        task: TaskSpec,
        expected: InputStatistics | None,
        group_reference: GroupReference | None = None,
        true_probability: float | None = None,
    ) -> None:
        channels = len(modality.channels)
        self._model = model
        self.modality = modality.name
        self._modality = modality
        self._task = task
        self._expected = expected
        self._edges = np.full((channels, BINS - 1), np.inf, dtype=np.float32)
        self._shift = np.zeros(channels)
        for c, channel in enumerate(expected.channels if expected else ()):
            self._edges[c, : len(channel.edges)] = channel.edges
            self._shift[c] = channel.mean
        self._offsets = np.arange(channels) * BINS
        self._step = max(1, modality.samples // ROWS)
        unit = modality.unit if modality.normalise == "none" else ""
        self.watch = DriftWatch(group_reference, names=modality.channels, unit=unit)
        self.sure = SureAnswers(true_probability)
        self._windows = 0.0
        self._bins = np.zeros((channels, BINS))
        self._moments = np.zeros((4, channels))  # rows: seen, there, sum, sum of squares, the last two about the shift
        self._labels = dict.fromkeys(() if task.kind == "regression" else task.labels, 0.0)
        self._answers = 0.0

    def answer(self, label: str, labels_on: Iterable[str]) -> None:
        """Count an answer: the class, or the labels that are on; a regression has neither."""
        for one in (label,) if self._task.kind == "classification" else labels_on:
            self._labels[one] += 1
        self._answers += 1
        if self._answers >= _MOST_ANSWERS:
            self._labels = {label: count / 2 for label, count in self._labels.items()}
            self._answers /= 2

    def observe(self, values: NDArray[Any], present: NDArray[np.float32]) -> None:
        """Look at a window: values and presence as `prepare` gives them."""
        values, present = rows_of(values[:, :: self._step], present[:, :: self._step])
        rows, there = values[0], present[0] > 0  # (R, C)
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
            adaptation=adaptation_of(drift, self.sure.change()),
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
        if self._expected is None or self._windows < _FEWEST_WINDOWS or not counts.any():
            return None
        expected = np.array(self._expected.channels[c].shares)
        return stability_index(counts[: len(expected)] / counts.sum(), expected)

    def _label_psi(self, shares: NDArray[np.float64]) -> float | None:
        if self._expected is None or self._answers < _FEWEST_ANSWERS or self._task.kind == "regression":
            return None
        expected = np.array(self._expected.label_shares)
        if self._task.kind == "classification":
            return stability_index(shares, expected)
        # Every label is a distribution of its own, over on and off; the one that moved most tells.
        pairs = zip(shares, expected, strict=True)
        return max(stability_index(np.array([p, 1 - p]), np.array([q, 1 - q])) for p, q in pairs)
