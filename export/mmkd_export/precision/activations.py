"""Histograms of what the layers of a student read on the calibration windows, small enough for a report.

Owns the folding: calibration counts magnitudes in thousands of bins, a reader needs a few dozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmkd_export.graph.calibration import BINS, Magnitudes
from mmkd_export.graph.layers import Layer
from mmkd_report.schema.export import ActivationHistogram

REPORTED_BINS = 64


def activation_histograms(
    magnitudes: Mapping[str, Magnitudes], layers: Sequence[Layer], ranges: Mapping[str, float]
) -> tuple[ActivationHistogram, ...]:
    """Gives a histogram for every tensor that was measured, in the order in which the layers read them.

    Args:
        magnitudes: of each tensor.
        layers: of the graph, in order.
        ranges: of the tensors that are quantised, the largest magnitude that is represented.
    """
    readers: dict[str, list[str]] = {}
    for layer in layers:
        readers.setdefault(layer.source, []).append(layer.name)
    return tuple(
        _histogram(magnitudes[tensor], tuple(names), ranges.get(tensor))
        for tensor, names in readers.items()
        if tensor in magnitudes
    )


def _histogram(found: Magnitudes, layers: tuple[str, ...], represented: float | None) -> ActivationHistogram:
    used = 1 if found.top == 0 else min(BINS, int(found.largest * BINS / found.top) + 1)
    together = -(-used // REPORTED_BINS)
    bins = -(-used // together)
    counts = np.zeros(bins * together, dtype=np.int64)
    counts[:used] = found.counts[:used]
    return ActivationHistogram(
        layers=layers,
        largest=found.largest,
        represented=represented,
        bin_width=together * found.top / BINS,
        counts=tuple(int(count) for count in counts.reshape(bins, together).sum(1)),
    )
