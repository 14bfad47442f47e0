"""FP16 by explicit casts, as strongly typed engines take them.

LayerNorm, softmax, reductions, divisions, front-end, head, and nodes beyond the FP16 range stay float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import Feeds, tensor_magnitudes
from mmkd_export.graph.onnx_graph import drop_unused, learnt_layers, nodes_behind_front_end

if TYPE_CHECKING:
    import onnx

# Half of the largest FP16 number, since later windows may be larger
FP16_LIMIT = 65504.0 / 2

_HALF_OPS = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "Gelu", "Add", "Sub", "Mul", "Reshape", "Transpose", "Slice", "Squeeze"),
        *("Unsqueeze", "Concat", "Split", "Gather"),
    }
)


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
