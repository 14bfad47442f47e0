"""INT8 as explicit Q/DQ, for TensorRT, onnxruntime and OpenVINO alike.

Symmetric, zero point 0; one scale per activation tensor and per weight output; none on outputs or biases
(TensorRT's parser rejects an INT32 bias with DQ). The rest stays float32.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.onnx_graph import Layer, drop_unused

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def quantised_graph(model: onnx.ModelProto, layers: Sequence[Layer], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy with INT8 layers; `ranges` has the largest input magnitudes."""
    import onnx
    from onnx import helper

    from mmkd_models.networks.int8 import TOP

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
    """Return scales float32 (n,): each output's largest weight over 127, or 1 / 127 for about 0."""
    from mmkd_models.networks.int8 import int8_scales

    others = tuple(index for index in range(values.ndim) if index != axis)
    return np.asarray(int8_scales(np.abs(values).max(axis=others)), dtype=np.float32)


def quantised_weights(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Round weights to INT8, halves to even as QuantizeLinear does."""
    from mmkd_models.networks.int8 import TOP, int8_levels

    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(int8_levels(values, scales.reshape(shape), lowest=-TOP), dtype=np.int8)


def _reshape_bias(graph: onnx.GraphProto, product: str, weights: Mapping[str, onnx.TensorProto]) -> None:
    """Give a product's bias rank 3: for a vector onnxruntime makes a slower float Gemm behind DequantizeLinear."""
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
