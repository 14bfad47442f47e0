"""Running statistics of a student's inputs and answers against the training, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import Confidence, ModelEntry
from mmkd_edge.bundle.statistics import ChannelStatistics, InputStatistics
from mmkd_edge.health.drift import AdaptationAdvice, AnswerConfidence, Drift, DriftWatch, advise_adaptation
from mmkd_edge.health.features import ROWS
from mmkd_edge.predict.preprocess import channel_rows
from mmkd_edge.spec import TaskSpec

BINS = 10

# Keeps the index of an empty bin finite.
_MIN_SHARE = 1e-4
# Fewer windows or answers give no index.
_MIN_WINDOWS = 50
_MIN_ANSWERS = 200
# Counts are halved here, so that old windows fade.
_MAX_WINDOWS = 4096
_MAX_ANSWERS = 65536


class ChannelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's recent values, in the student's unit; NaN without values.

    Attributes:
        psi: population stability index against the golden windows, often large for healthy new people.
    """

    channel: str
    mean: float
    std: float
    missing_fraction: float
    psi: float | None


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One student's recent inputs and answers.

    Attributes:
        windows_observed: measured windows, older ones weighted less.
        label_fractions: of each label among the answers; multi-label: of answers with it on; empty for a regression.
        label_psi: population stability index of the answers, or None.
    """

    model: str
    windows_observed: float
    channels: tuple[ChannelHealth, ...]
    drift: Drift
    label_fractions: dict[str, float]
    label_psi: float | None
    adaptation: AdaptationAdvice


def measure_statistics(
    values: NDArray[Any], present: NDArray[np.float32], probabilities: NDArray[np.float32], *, task: TaskSpec
) -> InputStatistics:
    """Measure the statistics that later windows are compared with.

    Args:
        values: float32 (N, T, C), from `prepare_batch` without a reference; video uint8 (N, T, H, W, C).
        present: float32 (N, T, C), 1 or 0; video (N, T, 1).
        probabilities: float32 (N, K).
    """
    values, present = channel_rows(values, present)
    channels = [
        _measure_channel(values[:, :, c][present[:, :, c] > 0], missing_share=1.0 - float(present[:, :, c].mean()))
        for c in range(values.shape[2])
    ]
    shares: list[float] = []
    if task.kind == "classification":
        shares = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist()
        shares = [count / len(probabilities) for count in shares]
    elif task.kind == "multi_label":
        shares = (probabilities >= task.on_from).mean(axis=0).tolist()
    return InputStatistics(windows=len(values), channels=tuple(channels), label_shares=tuple(shares))


def _measure_channel(values: NDArray[np.float32], *, missing_share: float) -> ChannelStatistics:
    if values.size == 0:
        return ChannelStatistics(mean=0.0, std=0.0, missing_share=missing_share, edges=(), shares=(1.0,))
    exact = values.astype(np.float64)
    # Deciles; fewer if values repeat. float32, like the values that are compared.
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS).astype(np.float32))
    shares = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / values.size
    return ChannelStatistics(
        mean=float(exact.mean()),
        std=float(exact.std()),
        missing_share=missing_share,
        edges=tuple(edges.astype(float).tolist()),
        shares=tuple(shares.tolist()),
    )


def stability_index(measured: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the population stability index of distributions (B,): sum of (p - q) ln(p / q).

    Source: N. Siddiqi, Credit Risk Scorecards (2006), ch. 9.
    """
    p = np.maximum(measured, _MIN_SHARE)
    q = np.maximum(expected, _MIN_SHARE)
    return float(((p - q) * np.log(p / q)).sum())


class RunningStatistics:
    """Recent inputs and answers of one student against the expected ones. Not thread-safe."""

    def __init__(self, entry: ModelEntry, confidence: Confidence | None = None) -> None:
        modality, self._entry, self._expected = entry.modality, entry, entry.statistics
        channels = len(modality.channels)
        self.modality = modality.name
        self._edges = np.full((channels, BINS - 1), np.inf, dtype=np.float32)
        self._shift = np.zeros(channels)
        for c, channel in enumerate(entry.statistics.channels if entry.statistics else ()):
            self._edges[c, : len(channel.edges)] = channel.edges
            self._shift[c] = channel.mean
        self._offsets = np.arange(channels) * BINS
        self._step = max(1, modality.samples // ROWS)
        unit = modality.unit if modality.normalise == "none" else ""
        self.watch = DriftWatch(entry.group_reference, names=modality.channels, unit=unit)
        self.confidence = AnswerConfidence(float(np.mean(confidence.true_probabilities)) if confidence else None)
        self._windows = 0.0
        self._bins = np.zeros((channels, BINS))
        self._moments = np.zeros((4, channels))  # rows, present, sum and sum of squares of values less the shift
        self._labels = dict.fromkeys(() if entry.task.kind == "regression" else entry.task.labels, 0.0)
        self._answers = 0.0

    def answer(self, label: str, labels_on: Iterable[str]) -> None:
        """Count an answer: the class, or the active labels."""
        for name in (label,) if self._entry.task.kind == "classification" else labels_on:
            self._labels[name] += 1
        self._answers += 1
        if self._answers >= _MAX_ANSWERS:
            self._labels = {label: count / 2 for label, count in self._labels.items()}
            self._answers /= 2

    def observe(self, values: NDArray[Any], present: NDArray[np.float32]) -> None:
        """Measure a window from `prepare`."""
        values, present = channel_rows(values[:, :: self._step], present[:, :: self._step])
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
        if self._windows >= _MAX_WINDOWS:
            self._windows /= 2
            self._bins /= 2
            self._moments /= 2

    def health(self, drift: Drift) -> ModelHealth:
        """Summarise the counts with the verdict on the last windows."""
        shares = np.array(list(self._labels.values())) / max(self._answers, 1.0)
        return ModelHealth(
            model=self._entry.name,
            windows_observed=self._windows,
            channels=tuple(self._channel(c, name) for c, name in enumerate(self._entry.modality.channels)),
            drift=drift,
            label_fractions=dict(zip(self._labels, shares.tolist(), strict=True)),
            label_psi=self._label_psi(shares),
            adaptation=advise_adaptation(drift, self.confidence.change()),
        )

    def _channel(self, c: int, name: str) -> ChannelHealth:
        rows, present, total, squares = self._moments[:, c].tolist()
        mean = total / present if present else np.nan
        variance = squares / present - mean * mean if present else np.nan
        psi, counts = None, self._bins[c]
        if self._expected is not None and self._windows >= _MIN_WINDOWS and counts.any():
            expected = np.array(self._expected.channels[c].shares)
            psi = stability_index(counts[: len(expected)] / counts.sum(), expected)
        return ChannelHealth(
            channel=name,
            mean=float(mean + self._shift[c]),
            std=float(np.sqrt(np.maximum(variance, 0.0))),
            missing_fraction=1.0 - present / rows if rows else float("nan"),
            psi=psi,
        )

    def _label_psi(self, shares: NDArray[np.float64]) -> float | None:
        if self._expected is None or self._answers < _MIN_ANSWERS or self._entry.task.kind == "regression":
            return None
        expected = np.array(self._expected.label_shares)
        if self._entry.task.kind == "classification":
            return stability_index(shares, expected)
        # Each label has its own distribution over on and off; the largest change counts.
        pairs = zip(shares, expected, strict=True)
        return max(stability_index(np.array([p, 1 - p]), np.array([q, 1 - q])) for p, q in pairs)
