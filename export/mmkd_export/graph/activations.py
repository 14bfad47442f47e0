"""Histograms of what the layers of a student read on the calibration windows, small enough for a report.

Owns the folding: calibration counts magnitudes in thousands of bins, a reader needs a few dozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from mmkd_export.graph.calibration import BINS, Magnitudes
from mmkd_export.graph.layers import Layer

REPORTED_BINS = 64


class ActivationHistogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Magnitudes of one tensor over all calibration windows.

    Attributes:
        layers: that read it.
        largest: the largest magnitude that was seen.
        represented: the largest magnitude that INT8 represents, larger ones are clipped to it; None where no layer that
            reads the tensor computes in INT8.
        bin_width: width of a bin in units of the tensor; 0 where every value was 0.
        counts: values in each bin, the first of which begins at 0; at most `REPORTED_BINS`.
    """

    layers: tuple[str, ...]
    largest: float
    represented: float | None
    bin_width: float
    counts: tuple[int, ...]


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
