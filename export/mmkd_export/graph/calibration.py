"""How large the values of a graph's tensors get on real windows, in bounded memory.

Owns the histograms and the three ways to choose a range from one: minmax, percentile, entropy. Runs one window at a
time and keeps a fixed number of counts for each tensor, however many windows there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_export.graph.onnx_graph import graph_bytes
from mmkd_models.networks.int8 import NOTHING

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

CalibrationMethod = Literal["minmax", "percentile", "entropy"]

BINS = 2048
LEVELS = 128
"""Magnitudes that a symmetric INT8 value tells apart: 0 to 127."""

PERCENTILE = 99.99


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """Histogram of |x| of one tensor.

    Attributes:
        counts: int64 (BINS,), bins of equal width from 0 to `top`.
        top: upper edge of the last bin; 0 where every value was 0.
    """

    counts: NDArray[np.int64]
    top: float
    largest: float


Feeds = Mapping[str, "NDArray[Any]"]


def tensor_magnitudes(model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds]) -> dict[str, Magnitudes]:
    """Runs a graph over windows, one at a time, and counts the magnitudes of some of its tensors."""
    empty = Magnitudes(counts=np.zeros(BINS, dtype=np.int64), top=0.0, largest=0.0)
    found = dict.fromkeys(tensors, empty)
    for name, values in _values(model, tensors, feeds):
        found[name] = add_values(found[name], values)
    return found


def channel_maxima(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds]
) -> dict[str, NDArray[np.float32]]:
    """Runs a graph over windows and gives the largest magnitude of every channel, the last axis, of some tensors."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, values in _values(model, tensors, feeds):
        here = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
        found[name] = np.maximum(found[name], here) if name in found else here
    return found


def _values(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and values of each of the tensors for each window in turn."""
    import onnx

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    outputs = {output.name for output in probed.graph.output}
    for name in tensors:
        if name not in outputs:
            probed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session, names = cpu_session(graph_bytes(probed)), list(tensors)
    for window in feeds:
        yield from zip(names, session.run(names, dict(window)), strict=True)


def cpu_session(model: bytes) -> Any:
    """Opens a graph in onnxruntime itself, on one thread: a backend gives the two outputs of a student alone."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def add_values(before: Magnitudes, values: NDArray[np.float32]) -> Magnitudes:
    """Counts more values; the range doubles, two bins becoming one, until it holds them all."""
    sizes = np.abs(values, dtype=np.float64).ravel()
    largest = float(sizes.max(initial=0.0))
    counts, top = before.counts, before.top
    if top == 0.0 and largest > 0.0:
        zeros, counts, top = int(counts[0]), np.zeros(BINS, dtype=np.int64), largest
        counts[0] = zeros
    while largest > top:
        halves = counts.reshape(-1, 2).sum(1)
        counts, top = np.concatenate([halves, np.zeros(BINS // 2, dtype=np.int64)]), 2 * top
    if top > 0.0:
        index = np.minimum((sizes * (BINS / top)).astype(np.int64), BINS - 1)
        counts = counts + np.bincount(index, minlength=BINS)
    else:
        counts = counts + np.bincount([0], weights=[len(sizes)], minlength=BINS).astype(np.int64)
    return Magnitudes(counts=counts, top=top, largest=max(before.largest, largest))


def clipping_range(magnitudes: Magnitudes, method: CalibrationMethod) -> float:
    """Gives the largest magnitude that INT8 shall represent; larger ones are clipped to it. Above 0."""
    if magnitudes.largest <= NOTHING:
        return 1.0  # a tensor that is always 0 is exact with any scale
    if method == "minmax":
        return magnitudes.largest
    if method == "percentile":
        return min(magnitudes.largest, _percentile(magnitudes))
    return min(magnitudes.largest, _least_entropy(magnitudes))


def _percentile(magnitudes: Magnitudes) -> float:
    below = np.cumsum(magnitudes.counts)
    bin_index = int(np.searchsorted(below, below[-1] * PERCENTILE / 100))
    return (bin_index + 1) * magnitudes.top / BINS


def _least_entropy(magnitudes: Magnitudes) -> float:
    """The range whose quantised distribution tells least from the clipped one.

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017: Kullback-Leibler divergence between the histogram, clipped
    values counted in its last bin, and the same histogram merged to 128 levels and spread over its non-empty bins.
    """
    counts = magnitudes.counts.astype(np.float64)
    best, divergence = BINS, np.inf
    for stop in range(LEVELS, BINS + 1, LEVELS // 8):
        clipped = counts[:stop].copy()
        clipped[-1] += counts[stop:].sum()
        found = _divergence(clipped, _quantised(counts[:stop]))
        if found < divergence:
            best, divergence = stop, found
    return best * magnitudes.top / BINS


def _quantised(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    level = np.arange(len(counts)) * LEVELS // len(counts)
    filled = counts > 0
    sums = np.bincount(level, weights=counts, minlength=LEVELS)
    cells = np.bincount(level, weights=filled, minlength=LEVELS)
    return np.where(filled, (sums / np.maximum(cells, 1))[level], 0.0)


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    if q.sum() == 0:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())
