"""Convolutions and matrix products with learnt weights in a student's fp32 graph.

The front-end before them works on raw units and stays float32: 2030 +- 0.8 has no FP16 or INT8 form.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_export.graph.onnx_graph import INT8_KEY, is_transposed, tensor_shapes

if TYPE_CHECKING:
    import onnx

LEARNT_OPS = ("Conv", "Gemm", "MatMul")

SMALLEST_PRODUCT = 16
"""Below this many inputs or outputs a quantised product is no faster; NVIDIA ModelOpt leaves such products out too."""

_NOVELTY = "novelty."  # weights of the novelty score
_CONVOLUTIONAL_FEATURES = "rocket."


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One product of m x k values and k x n learnt weights; `axis` of the weights counts outputs."""

    name: str
    node: int
    op: str
    source: str
    weight: str
    axis: int
    m: int
    k: int
    n: int

    @property
    def worth_quantising(self) -> bool:
        """Whether INT8 can be faster."""
        return is_worth_quantising(self.m, self.k, self.n)


def is_worth_quantising(m: int, k: int, n: int) -> bool:
    """Whether INT8 can be faster: no matrix-vector product, and neither side below `SMALLEST_PRODUCT`."""
    return m > 1 and min(k, n) >= SMALLEST_PRODUCT


def learnt_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Return the layers in execution order."""
    shapes = tensor_shapes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    names: Counter[str] = Counter()
    layers: list[Layer] = []
    learnt = after_first_layer(model)
    for index, node in enumerate(model.graph.node):
        if index not in learnt or node.op_type not in LEARNT_OPS or node.input[1] not in weights:
            continue
        name = _module_name(model.graph.node, index, weights)
        names[name] += 1
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        layers.append(_layer(unique, index, node, shapes=shapes))
    return tuple(layers)


def after_first_layer(model: onnx.ModelProto) -> frozenset[int]:
    """Return the indices of nodes that compute with learnt weights or what follows from them; novelty aside.

    Learnt weights enter by Conv and Gemm. The novelty score's distances are differences of large numbers.
    """
    learnt: set[str] = set()
    novelty: set[str] = set()
    indices: set[int] = set()
    for index, node in enumerate(model.graph.node):
        if any(name.startswith(_NOVELTY) or name in novelty for name in node.input):
            novelty.update(node.output)
        elif node.op_type in ("Conv", "Gemm") or learnt.intersection(node.input):
            learnt.update(node.output)
            indices.add(index)
    return frozenset(indices)


def select_layers(layers: Sequence[Layer], *, exclude: str | None, ops: Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers to quantise; raise UsageError if `exclude` is no expression or matches none.

    Never the first, nor convolutional features: they read the sensor itself, whose glitches set the range.
    """
    try:
        pattern = None if exclude is None else re.compile(exclude)
    except re.error as error:
        raise UsageError(f"--exclude {exclude!r}: expected a regular expression: {error}") from error
    if pattern is not None and not any(pattern.search(layer.name) for layer in layers):
        names = ", ".join(layer.name for layer in layers)
        raise UsageError(f"--exclude {exclude!r}: matches no layer; the layers are {names}")
    candidates = [layer for layer in layers if not layer.name.startswith(_CONVOLUTIONAL_FEATURES)][1:]
    return tuple(
        layer
        for layer in candidates
        if layer.worth_quantising and layer.op in ops and not (pattern and pattern.search(layer.name))
    )


def layers_by_source(layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """Group layer names by the tensor that they read: they share its Q, DQ and range."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(layer.source, []).append(layer.name)
    return {source: tuple(names) for source, names in groups.items()}


def learnt_ranges(model: onnx.ModelProto) -> dict[str, float]:
    """Return the input range of each layer that quantisation-aware distillation learnt; empty without it."""
    from mmkd_models.networks.int8 import LearntInt8

    text = next((entry.value for entry in model.metadata_props if entry.key == INT8_KEY), None)
    return {} if text is None else msgspec.json.decode(text, type=LearntInt8).ranges


def _layer(name: str, index: int, node: onnx.NodeProto, *, shapes: dict[str, tuple[int, ...]]) -> Layer:
    weight, out = shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":  # weights (n, channels, taps ...), output (frames, n, positions ...)
        axis, m, k, n = 0, out[0] * math.prod(out[2:]), math.prod(weight[1:]), weight[0]
    else:
        axis = 0 if is_transposed(node, "transB") else 1
        m, k, n = math.prod(out[:-1]), weight[1 - axis], weight[axis]
    source, weights = node.input[0], node.input[1]
    return Layer(name=name, node=index, op=node.op_type, source=source, weight=weights, axis=axis, m=m, k=k, n=n)


def _module_name(nodes: Sequence[onnx.NodeProto], index: int, weights: set[str]) -> str:
    """Return the module's name, from its weights or, if the exporter transposed these, from its bias."""
    node = nodes[index]
    names = list(node.input[1:])
    for later in nodes[index + 1 :]:
        if later.op_type == "Add" and node.output[0] in later.input:
            names += (name for name in later.input if name in weights)
    for name in names:
        if name.startswith("student.") and name.endswith((".weight", ".bias")):
            return str(name.removeprefix("student.").rpartition(".")[0])
    return str(node.name)
