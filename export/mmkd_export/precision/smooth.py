"""SmoothQuant: what is hard to quantise in activations moves into the weights, where it is easy.

G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023,
equations 3 and 4, with the scales folded into the LayerNorm in front (section 4). Owns that rewriting; the graph
computes the same function after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import Feeds, channel_maxima
from mmkd_export.graph.layers import Layer, learnt_layers

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

STRENGTH = 0.5
"""Share of the difficulty that moves into the weights; the paper's choice for most models."""


def smoothed_graph(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> onnx.ModelProto:
    """Gives an equal graph whose products behind a LayerNorm read activations of more even channels."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    behind = _behind_norms(copy)
    maxima = channel_maxima(model, sorted({layer.source for _, layer in behind}), feeds)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    for norm, layer in behind:
        values = onnx.numpy_helper.to_array(weights[layer.weight])  # (k, n)
        scales = smoothing_scales(maxima[layer.source], values)
        _replace(copy, norm, position=1, values=_array(weights, norm.input[1]) / scales)
        _replace(copy, norm, position=2, values=_array(weights, norm.input[2]) / scales)
        _replace(copy, copy.graph.node[layer.node], position=1, values=values * scales[:, None])
    return copy


def smoothing_scales(activations: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gives s_j = max|X_j|^a / max|W_j|^(1 - a) with a = `STRENGTH`; 1 for a channel that is always 0."""
    of_weights = np.abs(weights).max(axis=1)
    usable = (activations > 0) & (of_weights > 0)
    a = np.where(usable, activations, 1.0)
    w = np.where(usable, of_weights, 1.0)
    return np.asarray((a**STRENGTH / w ** (1 - STRENGTH)).astype(np.float32))


def _behind_norms(model: onnx.ModelProto) -> Sequence[tuple[onnx.NodeProto, Layer]]:
    """Every product that alone reads the output of a LayerNorm, with that LayerNorm."""
    norms = {node.output[0]: node for node in model.graph.node if node.op_type == "LayerNormalization"}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    return [
        (norms[layer.source], layer)
        for layer in learnt_layers(model)
        if layer.op == "MatMul" and layer.source in norms and readers[layer.source] == 1
    ]


def _array(weights: Mapping[str, onnx.TensorProto], name: str) -> NDArray[np.float32]:
    import onnx

    return np.asarray(onnx.numpy_helper.to_array(weights[name]))


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, *, position: int, values: NDArray[np.float32]) -> None:
    """Gives one node an initializer of its own: the exporter lets nodes share equal ones."""
    import onnx

    name = f"{node.output[0]}_smooth_{position}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
    node.input[position] = name
