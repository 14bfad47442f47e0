"""A float32 graph in lower precision, for strongly typed engines: INT8 by explicit Q/DQ, FP16 by explicit casts.

INT8 is symmetric, one scale per activation and weight output; TensorRT's parser rejects an INT32 bias with DQ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import NOTHING, Feeds, tensor_magnitudes
from mmkd_export.graph.onnx_graph import Layer, drop_unused, learnt_layers, nodes_behind_front_end

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_TOP = 127  # largest level and, as TensorRT never uses -128, a weight's largest magnitude
# Half of the largest FP16 number, since later windows may be larger
FP16_LIMIT = 65504.0 / 2
_HALF_OPS = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "Gelu", "Add", "Sub", "Mul", "Reshape", "Transpose", "Slice", "Squeeze"),
        *("Unsqueeze", "Concat", "Split", "Gather"),
    }
)


def quantised_graph(model: onnx.ModelProto, layers: Sequence[Layer], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy with INT8 layers; `ranges` has the largest input magnitudes."""
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
            _add(graph, extra[0], np.array(ranges[source] / _TOP, dtype=np.float32))
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
    largest = np.abs(values).max(axis=tuple(index for index in range(values.ndim) if index != axis))
    return np.asarray(np.where(largest <= NOTHING, 1.0, largest) / _TOP, dtype=np.float32)


def quantised_weights(values: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Round weights to INT8, halves to even as QuantizeLinear does."""
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(np.rint(values / scales.reshape(shape)).clip(-_TOP, _TOP), dtype=np.int8)


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


@dataclass(frozen=True, kw_only=True)
class HalfGraph:
    """A graph with its FP16 `nodes`, and magnitudes outside the range."""

    model: onnx.ModelProto
    nodes: int
    too_large: dict[str, float]


def half_graph(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> HalfGraph:
    """Convert a float32 graph; `feeds` are of real windows."""
    floats = _float_tensors(model)
    head = learnt_layers(model)[-1].node
    # Before the head, whose results are float32 outputs.
    candidates = [
        index
        for index in sorted(nodes_behind_front_end(model))
        if index < head and model.graph.node[index].op_type in _HALF_OPS
    ]
    largest = _largest_values(model, candidates, floats, feeds)
    too_large: dict[str, float] = {}
    chosen: set[int] = set()
    for index in candidates:
        node = model.graph.node[index]
        top = max(largest.get(name, 0.0) for name in (*node.input, *node.output))
        if top > FP16_LIMIT:
            too_large[node.name] = top
        else:
            chosen.add(index)
    return HalfGraph(model=_with_casts(model, chosen, floats), nodes=len(chosen), too_large=too_large)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    names = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}


def _largest_values(
    model: onnx.ModelProto, candidates: Iterable[int], floats: set[str], feeds: Iterable[Feeds]
) -> dict[str, float]:
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [model.graph.node[index] for index in candidates]
    names = {name for node in nodes for name in (*node.input, *node.output) if name in floats}
    inputs = {value.name for value in model.graph.input}
    measured = tensor_magnitudes(model, sorted(names - weights.keys() - inputs), feeds)
    return {name: magnitudes.largest for name, magnitudes in measured.items()} | {
        name: float(np.abs(onnx.numpy_helper.to_array(weights[name])).max(initial=0.0))
        for name in names & weights.keys()
    }


def _with_casts(model: onnx.ModelProto, chosen: set[int], floats: set[str]) -> onnx.ModelProto:
    import onnx

    result = copy.deepcopy(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    halves = {name for index in chosen for name in model.graph.node[index].output}
    casts: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(model.graph.node):
        rewritten, to_half = copy.deepcopy(node), index in chosen
        for position, name in enumerate(node.input):
            if name not in floats or (name in halves) == to_half:
                continue
            if name not in casts:
                casts[name] = f"{name}_half" if to_half else f"{name}_single"
                if name in weights:
                    values = onnx.numpy_helper.to_array(weights[name]).astype(np.float16)
                    graph.initializer.append(onnx.numpy_helper.from_array(values, casts[name]))
                else:
                    kind = onnx.TensorProto.FLOAT16 if to_half else onnx.TensorProto.FLOAT
                    nodes.append(onnx.helper.make_node("Cast", [name], [casts[name]], name=casts[name], to=kind))
            rewritten.input[position] = casts[name]
        nodes.append(rewritten)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    del graph.value_info[:]  # of the float32 graph
    return onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True, data_prop=True)
