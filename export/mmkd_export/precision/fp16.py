"""FP16 in the graph: casts where they are needed, so that a strongly typed engine computes as the graph says.

Owns which nodes may compute in FP16: products, convolutions and what only moves or adds their results. LayerNorm,
softmax, reductions and divisions stay float32, as do the front-end, which works on raw units, and the head, whose
logits are what is compared. What leaves the range of FP16 on real windows stays float32 too, and the caller is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmkd_export.graph.calibration import Feeds, tensor_magnitudes
from mmkd_export.graph.layers import after_first_layer, learnt_layers

if TYPE_CHECKING:
    import onnx

FP16_LIMIT = 65504.0 / 2
"""Half of the largest FP16 number: real windows were scanned, and the next one may be larger than all of them."""

_HALF_OPS = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "Gelu", "Add", "Sub", "Mul", "Reshape", "Transpose", "Slice", "Squeeze"),
        *("Unsqueeze", "Concat", "Split", "Gather"),
    }
)


@dataclass(frozen=True, kw_only=True)
class HalfGraph:
    """A graph in FP16.

    Attributes:
        model: it; inputs and outputs are float32.
        too_large: name of a node that stays float32 because of its range, to the largest magnitude it meets.
    """

    model: onnx.ModelProto
    nodes: int
    too_large: dict[str, float]


def half_graph(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> HalfGraph:
    """Gives an FP16 form of a float32 graph.

    Args:
        model: the float32 graph; not changed.
        feeds: the graph's inputs for real windows, which are scanned for magnitudes that FP16 cannot hold.
    """
    floats = _float_tensors(model)
    candidates = _candidates(model)
    largest = _largest_values(model, candidates, floats, feeds)
    too_large: dict[str, float] = {}
    chosen: set[int] = set()
    for index in sorted(candidates):
        node = model.graph.node[index]
        top = max(largest.get(name, 0.0) for name in (*node.input, *node.output))
        if top > FP16_LIMIT:
            too_large[node.name] = top
        else:
            chosen.add(index)
    return HalfGraph(model=_with_casts(model, chosen, floats), nodes=len(chosen), too_large=too_large)


def _candidates(model: onnx.ModelProto) -> set[int]:
    head = learnt_layers(model)[-1].node
    # Nothing behind the head either: it scales what is compared, and its results are the graph's float32 outputs.
    return {
        index for index in after_first_layer(model) if index < head and model.graph.node[index].op_type in _HALF_OPS
    }


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    names = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for values in (graph.input, graph.output, graph.value_info):
        names |= {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return names


def _largest_values(
    model: onnx.ModelProto, candidates: set[int], floats: set[str], feeds: Iterable[Feeds]
) -> dict[str, float]:
    """Largest magnitude of every float tensor that a candidate reads or gives."""
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [model.graph.node[index] for index in sorted(candidates)]
    names = {name for node in nodes for name in (*node.input, *node.output) if name in floats}
    inputs = {value.name for value in model.graph.input}
    measured = tensor_magnitudes(model, sorted(names - weights.keys() - inputs), feeds)
    largest = {name: found.largest for name, found in measured.items()}
    for name in names & weights.keys():
        largest[name] = float(np.abs(onnx.numpy_helper.to_array(weights[name])).max(initial=0.0))
    return largest


def _with_casts(model: onnx.ModelProto, chosen: set[int], floats: set[str]) -> onnx.ModelProto:
    """Gives a copy in which the chosen nodes compute in FP16; a tensor is cast once however many nodes read it."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    halves = {name for index in chosen for name in model.graph.node[index].output}
    cast: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(model.graph.node):
        rewritten = onnx.NodeProto()
        rewritten.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in floats and (name in halves) != (index in chosen):
                rewritten.input[position] = _cast(graph, name, nodes, cast, weights=weights, to_half=index in chosen)
        nodes.append(rewritten)
    del graph.node[:]
    graph.node.extend(nodes)
    _keep_used(graph)
    del graph.value_info[:]  # of the float32 graph
    return onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True, data_prop=True)


def _cast(
    graph: onnx.GraphProto,
    name: str,
    nodes: list[onnx.NodeProto],
    cast: dict[str, str],
    *,
    weights: Mapping[str, onnx.TensorProto],
    to_half: bool,
) -> str:
    """Gives the name of the tensor in the other type; makes it where it is asked for first."""
    import onnx

    if name not in cast:
        cast[name] = f"{name}_half" if to_half else f"{name}_single"
        if name in weights:
            values = onnx.numpy_helper.to_array(weights[name]).astype(np.float16)
            graph.initializer.append(onnx.numpy_helper.from_array(values, cast[name]))
        else:
            kind = onnx.TensorProto.FLOAT16 if to_half else onnx.TensorProto.FLOAT
            nodes.append(onnx.helper.make_node("Cast", [name], [cast[name]], name=cast[name], to=kind))
    return cast[name]


def _keep_used(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
