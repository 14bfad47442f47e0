"""Running statistics of a student's inputs and answers against the training, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.bundle.statistics import ChannelStatistics, InputStatistics
from mmkd_edge.health.drift import ROWS, Drift, DriftWatch
from mmkd_edge.predict.preprocess import channel_rows
from mmkd_edge.spec import TaskSpec

BINS = 10

# Keeps the index of an empty bin finite.
_MIN_FRACTION = 1e-4
# Fewer windows or answers give no index.
_MIN_WINDOWS = 50
_MIN_ANSWERS = 200
# Counts are halved here, so that old windows fade.
_MAX_WINDOWS = 4096
_MAX_ANSWERS = 65536


class ChannelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's recent values; NaN without any.

    `psi` is the population stability index against the golden windows, often large for healthy new people.
    """

    channel: str
    missing_fraction: float
    psi: float | None


class ModelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One student's recent inputs and answers; `label_psi` is the population stability index of the answers.

    `label_fractions` of several labels are those of answers with it on; empty for a regression.
    """

    model: str
    windows_observed: float
    channels: tuple[ChannelHealth, ...]
    drift: Drift
    label_fractions: dict[str, float]
    label_psi: float | None


def measure_statistics(
    values: NDArray[Any], present: NDArray[np.float32], probabilities: NDArray[np.float32], *, task: TaskSpec
) -> InputStatistics:
    """Measure what later windows are compared with, from (N, T, C) of `prepare_batch` and probabilities (N, K)."""
    values, present = channel_rows(values, present)
    channels = [
        _measure_channel(values[:, :, c][present[:, :, c] > 0], missing_fraction=1.0 - float(present[:, :, c].mean()))
        for c in range(values.shape[2])
    ]
    fractions: list[float] = []
    if task.kind == "classification":
        counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
        fractions = (counts / len(probabilities)).tolist()
    elif task.kind == "multi_label":
        fractions = (probabilities >= task.on_from).mean(axis=0).tolist()
    return InputStatistics(windows=len(values), channels=tuple(channels), label_fractions=tuple(fractions))


def _measure_channel(values: NDArray[np.float32], *, missing_fraction: float) -> ChannelStatistics:
    if values.size == 0:
        return ChannelStatistics(mean=0.0, std=0.0, missing_fraction=missing_fraction, edges=(), fractions=(1.0,))
    exact = values.astype(np.float64)
    # Deciles; fewer if values repeat. float32, like the values that are compared.
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS).astype(np.float32))
    fractions = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / values.size
    return ChannelStatistics(
        mean=float(exact.mean()),
        std=float(exact.std()),
        missing_fraction=missing_fraction,
        edges=tuple(edges.astype(float).tolist()),
        fractions=tuple(fractions.tolist()),
    )


def stability_index(measured: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the population stability index of distributions (B,): sum of (p - q) ln(p / q).

    Source: N. Siddiqi, Credit Risk Scorecards (2006), ch. 9.
    """
    p = np.maximum(measured, _MIN_FRACTION)
    q = np.maximum(expected, _MIN_FRACTION)
    return float(((p - q) * np.log(p / q)).sum())


class RunningStatistics:
    """Recent inputs and answers of one student against the expected ones. Not thread-safe."""

    def __init__(self, entry: ModelEntry) -> None:
        modality, self._entry, self._expected = entry.modality, entry, entry.statistics
        channels = len(modality.channels)
        self.modality = modality.name
        self._edges = np.full((channels, BINS - 1), np.inf, dtype=np.float32)
        for c, channel in enumerate(entry.statistics.channels if entry.statistics else ()):
            self._edges[c, : len(channel.edges)] = channel.edges
        self._offsets = np.arange(channels) * BINS
        self._step = max(1, modality.samples // ROWS)
        unit = modality.unit if modality.normalise == "none" else ""
        self.watch = DriftWatch(entry.group_reference, names=modality.channels, unit=unit)
        self._windows = self._rows = 0.0
        self._bins = np.zeros((channels, BINS))  # of present values
        self._labels = dict.fromkeys(() if entry.task.is_number else entry.task.labels, 0.0)
        self._answers = 0.0

    def count_answer(self, label: str, labels_on: Iterable[str]) -> None:
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
        self._rows += len(rows)
        self._windows += 1
        self.watch.add(rows, there)
        if self._windows >= _MAX_WINDOWS:
            self._windows /= 2
            self._rows /= 2
            self._bins /= 2

    def health(self, drift: Drift) -> ModelHealth:
        """Summarise the counts with the verdict on the last windows."""
        fractions = np.array(list(self._labels.values())) / max(self._answers, 1.0)
        return ModelHealth(
            model=self._entry.name,
            windows_observed=self._windows,
            channels=tuple(self._channel(c, name) for c, name in enumerate(self._entry.modality.channels)),
            drift=drift,
            label_fractions=dict(zip(self._labels, fractions.tolist(), strict=True)),
            label_psi=self._label_psi(fractions),
        )

    def _channel(self, c: int, name: str) -> ChannelHealth:
        psi, counts = None, self._bins[c]
        present = float(counts.sum())
        if self._expected is not None and self._windows >= _MIN_WINDOWS and present:
            expected = np.array(self._expected.channels[c].fractions)
            psi = stability_index(counts[: len(expected)] / present, expected)
        missing = 1.0 - present / self._rows if self._rows else float("nan")
        return ChannelHealth(channel=name, missing_fraction=missing, psi=psi)

    def _label_psi(self, fractions: NDArray[np.float64]) -> float | None:
        if self._expected is None or self._answers < _MIN_ANSWERS or self._entry.task.is_number:
            return None
        expected = np.array(self._expected.label_fractions)
        if self._entry.task.kind == "classification":
            return stability_index(fractions, expected)
        # Each label has its own distribution over on and off; the largest change counts.
        pairs = zip(fractions, expected, strict=True)
        return max(stability_index(np.array([p, 1 - p]), np.array([q, 1 - q])) for p, q in pairs)
