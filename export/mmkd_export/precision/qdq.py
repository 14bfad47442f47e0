"""INT8 as explicit Q/DQ in the graph, in the one form that TensorRT, onnxruntime and OpenVINO all take.

Owns how a layer is written in INT8: symmetric, zero point 0; activations with one scale, weights with one scale for
each output and stored as INT8; one Q and DQ on a tensor however many layers read it; nothing on outputs, nothing on
biases (TensorRT's parser rejects an INT32 bias with DQ), everything else stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.layers import Layer
from mmkd_models.networks.int8 import TOP, levels_of, scales_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def quantised_graph(model: onnx.ModelProto, layers: Sequence[Layer], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Gives a copy in which these layers compute in INT8.

    Args:
        model: the float32 graph; not changed.
        layers: of this graph.
        ranges: for every tensor that the layers read, the largest magnitude that is represented.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    in_front: dict[int, list[onnx.NodeProto]] = {}
    sources: set[str] = set()
    for layer in sorted(layers, key=lambda layer: layer.node):
        node = graph.node[layer.node]
        added = in_front.setdefault(layer.node, [])
        if layer.source not in sources:
            sources.add(layer.source)
            added += _activation_nodes(graph, layer.source, scale=ranges[layer.source] / TOP)
        values = onnx.numpy_helper.to_array(weights[layer.weight])
        added.append(_weight_node(graph, layer, values))
        node.input[0] = f"{layer.source}_dq"
        node.input[1] = f"{layer.name}.weight_dq"
        if layer.op == "MatMul":
            _keep_bias_apart(graph, node.output[0], weights)
    _insert(graph, in_front)
    _drop_unused(graph)
    return copy


def weight_scales(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Gives the scale of each output, float32 (n,): its largest weight over 127; 1 / 127 where all are as good as 0."""
    others = tuple(index for index in range(values.ndim) if index != axis)
    largest = np.abs(values).max(axis=others)
    return np.asarray(scales_of(largest), dtype=np.float32)


def quantised_weights(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Rounds weights to INT8, halves to even as QuantizeLinear does."""
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(levels_of(values, scales.reshape(shape), lowest=-TOP), dtype=np.int8)


def _activation_nodes(graph: onnx.GraphProto, tensor: str, *, scale: float) -> list[onnx.NodeProto]:
    from onnx import helper

    scale_name, zero_name = f"{tensor}_scale", f"{tensor}_zero"
    _add(graph, scale_name, np.array(scale, dtype=np.float32))
    _add(graph, zero_name, np.array(0, dtype=np.int8))
    extra = [scale_name, zero_name]
    return [
        helper.make_node("QuantizeLinear", [tensor, *extra], [f"{tensor}_q"], name=f"{tensor}_q"),
        helper.make_node("DequantizeLinear", [f"{tensor}_q", *extra], [f"{tensor}_dq"], name=f"{tensor}_dq"),
    ]


def _weight_node(graph: onnx.GraphProto, layer: Layer, values: NDArray[np.float32]) -> onnx.NodeProto:
    from onnx import helper

    name = f"{layer.name}.weight"
    scales = weight_scales(values, layer.axis)
    _add(graph, f"{name}_q", quantised_weights(values, scales, layer.axis))
    _add(graph, f"{name}_scale", scales)
    _add(graph, f"{name}_zero", np.zeros(len(scales), dtype=np.int8))
    inputs = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], name=f"{name}_dq", axis=layer.axis)


def _keep_bias_apart(graph: onnx.GraphProto, product: str, weights: Mapping[str, onnx.TensorProto]) -> None:
    """Gives the bias added to a product two leading axes of length 1.

    onnxruntime turns a product plus a vector into a Gemm, and a Gemm with a float bias then runs in float behind its
    DequantizeLinear nodes: slower than without INT8. A bias of rank 3 stops that; the product becomes its INT8 kernel.
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


def _insert(graph: onnx.GraphProto, in_front: Mapping[int, Sequence[onnx.NodeProto]]) -> None:
    nodes = [added for index, node in enumerate(graph.node) for added in (*in_front.get(index, ()), node)]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
