"""Magnitudes of tensors in bounded memory, and INT8 ranges."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_export.graph.onnx_graph import graph_bytes

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Feeds = Mapping[str, "NDArray[Any]"]
BINS = 2048
_PERCENTILE = 99.99
NOTHING = 1e-30  # magnitudes up to this count as 0: a scale made from them would be 0 in float32


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """Histogram of |x|: `counts` int64 (BINS,) from 0 to `top`, which is 0 for zeros."""

    counts: NDArray[np.int64]
    top: float
    largest: float


def tensor_magnitudes(model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds]) -> dict[str, Magnitudes]:
    """Count tensor magnitudes, window by window."""
    import onnx

    if not tensors:
        return {}
    probed = copy.deepcopy(model)
    for name in set(tensors) - {output.name for output in probed.graph.output}:
        probed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnxruntime = import_onnxruntime()  # a backend returns only a student's outputs
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph_bytes(probed), options, providers=["CPUExecutionProvider"])
    magnitudes = dict.fromkeys(tensors, Magnitudes(counts=np.zeros(BINS, dtype=np.int64), top=0.0, largest=0.0))
    for window in feeds:
        for name, values in zip(tensors, session.run(tensors, dict(window)), strict=True):
            magnitudes[name] = add_values(magnitudes[name], values)
    return magnitudes


def add_values(before: Magnitudes, values: NDArray[np.float32]) -> Magnitudes:
    """Count more values; double the range, merging bins, until all fit."""
    sizes = np.abs(values, dtype=np.float64).ravel()
    largest = float(sizes.max(initial=0.0))
    counts, top = before.counts, before.top
    if top == 0.0 and largest > 0.0:
        top = largest  # counted zeros stay in the first bin
    while largest > top:
        halves = counts.reshape(-1, 2).sum(1)
        counts, top = np.concatenate([halves, np.zeros(BINS // 2, dtype=np.int64)]), 2 * top
    index = np.minimum((sizes * (BINS / top)).astype(np.int64), BINS - 1) if top > 0.0 else np.zeros(len(sizes), int)
    counts = counts + np.bincount(index, minlength=BINS)
    return Magnitudes(counts=counts, top=top, largest=max(before.largest, largest))


def clipping_range(magnitudes: Magnitudes, method: Literal["minmax", "percentile"]) -> float:
    """Return the largest magnitude in INT8, above 0."""
    if magnitudes.largest <= NOTHING:
        return 1.0  # zeros are exact with any scale
    if method == "minmax":
        return magnitudes.largest
    below = np.cumsum(magnitudes.counts)
    last = int(np.searchsorted(below, below[-1] * _PERCENTILE / 100))
    return min(magnitudes.largest, (last + 1) * magnitudes.top / BINS)
