"""INT8 as explicit Q/DQ in the graph, in the one form that TensorRT, onnxruntime and OpenVINO all take; SmoothQuant.

Symmetric, zero point 0; activations with one scale, weights with one scale for each output and stored as INT8; one Q
and DQ on a tensor however many layers read it; nothing on outputs or biases (TensorRT's parser rejects an INT32 bias
with DQ). Everything else stays float32.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import Feeds, channel_maxima
from mmkd_export.graph.layers import Layer, learnt_layers
from mmkd_export.graph.onnx_graph import drop_unused
from mmkd_models.networks.int8 import TOP, levels_of, scales_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

SMOOTHING = 0.5
"""How much of the difficulty SmoothQuant moves into the weights; the paper's choice for most models."""


def quantised_graph(model: onnx.ModelProto, layers: Sequence[Layer], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy in which these layers compute in INT8.

    Args:
        model: the float32 graph; not changed.
        layers: the layers of this graph to quantise.
        ranges: for every tensor that the layers read, the largest magnitude that is represented.
    """
    import onnx
    from onnx import helper

    result = copy.deepcopy(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    added: dict[int, list[onnx.NodeProto]] = {}
    sources: set[str] = set()
    for layer in sorted(layers, key=lambda layer: layer.node):
        node, source, weight = graph.node[layer.node], layer.source, f"{layer.name}.weight"
        nodes = added.setdefault(layer.node, [])
        if source not in sources:
            sources.add(source)
            extra = [f"{source}_scale", f"{source}_zero"]
            _add(graph, extra[0], np.array(ranges[source] / TOP, dtype=np.float32))
            _add(graph, extra[1], np.array(0, dtype=np.int8))
            nodes += [
                helper.make_node("QuantizeLinear", [source, *extra], [f"{source}_q"], name=f"{source}_q"),
                helper.make_node("DequantizeLinear", [f"{source}_q", *extra], [f"{source}_dq"], name=f"{source}_dq"),
            ]
        values = onnx.numpy_helper.to_array(weights[layer.weight])
        scales = weight_scales(values, layer.axis)
        _add(graph, f"{weight}_q", quantised_weights(values, scales, layer.axis))
        _add(graph, f"{weight}_scale", scales)
        _add(graph, f"{weight}_zero", np.zeros(len(scales), dtype=np.int8))
        inputs = [f"{weight}_q", f"{weight}_scale", f"{weight}_zero"]
        nodes.append(
            helper.make_node("DequantizeLinear", inputs, [f"{weight}_dq"], name=f"{weight}_dq", axis=layer.axis)
        )
        node.input[0], node.input[1] = f"{source}_dq", f"{weight}_dq"
        if layer.op == "MatMul":
            _reshape_bias(graph, node.output[0], weights)
    ordered = [copy.deepcopy(new) for index, node in enumerate(graph.node) for new in (*added.get(index, ()), node)]
    del graph.node[:]
    graph.node.extend(ordered)
    drop_unused(graph)
    return result


def weight_scales(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return the scale of each output, float32 (n,): its largest weight over 127; 1 / 127 if all are about 0."""
    others = tuple(index for index in range(values.ndim) if index != axis)
    return np.asarray(scales_of(np.abs(values).max(axis=others)), dtype=np.float32)


def quantised_weights(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Round weights to INT8, halves to even as QuantizeLinear does."""
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(levels_of(values, scales.reshape(shape), lowest=-TOP), dtype=np.int8)


def _reshape_bias(graph: onnx.GraphProto, product: str, weights: Mapping[str, onnx.TensorProto]) -> None:
    """Give the bias added to a product two leading axes of length 1.

    onnxruntime turns a product plus a vector into a Gemm, and a Gemm with a float bias runs in float behind its
    DequantizeLinear nodes: slower than without INT8. A bias of rank 3 keeps the INT8 kernel.
    """
    import onnx

    for node in graph.node:
        if node.op_type == "Add" and product in node.input:
            position = 1 - list(node.input).index(product)
            name = node.input[position]
            if name in weights:
                _add(graph, f"{product}_bias", onnx.numpy_helper.to_array(weights[name]).reshape(1, 1, -1))
                node.input[position] = f"{product}_bias"


def _add(graph: onnx.GraphProto, name: str, values: NDArray[np.generic]) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(values, name))


def smoothed_graph(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> onnx.ModelProto:
    """Return an equal graph whose products behind a LayerNorm read activations of more even channels.

    G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML
    2023, equations 3 and 4, with the scales folded into the LayerNorm in front (section 4).
    """
    import onnx

    result = copy.deepcopy(model)
    norms = {node.output[0]: node for node in result.graph.node if node.op_type == "LayerNormalization"}
    readers = Counter(name for node in result.graph.node for name in node.input)
    layers = [
        layer
        for layer in learnt_layers(result)
        if layer.op == "MatMul" and layer.source in norms and readers[layer.source] == 1
    ]
    maxima = channel_maxima(model, sorted({layer.source for layer in layers}), feeds)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer in layers:
        norm, product, values = norms[layer.source], result.graph.node[layer.node], weights[layer.weight]  # (k, n)
        scales = smoothing_scales(maxima[layer.source], values)
        replaced = (
            (norm, 1, weights[norm.input[1]] / scales),
            (norm, 2, weights[norm.input[2]] / scales),
            (product, 1, values * scales[:, None]),
        )
        for node, position, new in replaced:  # an initializer of its own: the exporter lets nodes share equal ones
            node.input[position] = f"{node.output[0]}_smooth_{position}"
            _add(result.graph, node.input[position], np.ascontiguousarray(new, dtype=np.float32))
    return result


def smoothing_scales(activations: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return s_j = max|X_j|^a / max|W_j|^(1 - a) with a = `SMOOTHING`; 1 for a channel that is always 0."""
    largest = np.abs(weights).max(axis=1)
    usable = (activations > 0) & (largest > 0)
    a, w = np.where(usable, activations, 1.0), np.where(usable, largest, 1.0)
    return np.asarray((a**SMOOTHING / w ** (1 - SMOOTHING)).astype(np.float32))
