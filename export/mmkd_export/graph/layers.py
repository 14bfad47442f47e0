"""The layers of a student's fp32 graph that lower precision is about.

Owns which nodes those are: the convolutions and matrix products with learnt weights. The front-end before the first of
them (normalisation, spectrum, statistics) works on raw units and is never touched: a raw value of 2030 +- 0.8 has no
FP16 or INT8 form that keeps what matters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_export.graph.onnx_graph import INT8_KEY, tensor_shapes
from mmkd_models.networks.int8 import LearntInt8

if TYPE_CHECKING:
    import onnx

LEARNT_OPS = ("Conv", "Gemm", "MatMul")

SMALLEST_PRODUCT = 16
"""Below this many inputs or outputs a quantised product is no faster: its Q and DQ cost more than they save (NVIDIA
ModelOpt leaves such products out too, and matrix-vector products at all)."""

_NOVELTY = "novelty."  # weights of the novelty score
_READS_THE_SENSOR = "rocket."  # where a student's convolutional features are


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution or matrix product with learnt weights: m x k values times k x n weights.

    Attributes:
        name: of the module in the network, such as `encoder.blocks.0.feedforward.up`.
        axis: of the weights that counts outputs.
        m: rows: positions in time, or tokens.
        k: inputs of one output value.
    """

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
        """Whether INT8 can be faster: no matrix-vector product, and neither side below `SMALLEST_PRODUCT`."""
        return self.m > 1 and min(self.k, self.n) >= SMALLEST_PRODUCT


def learnt_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Gives the layers in the order in which they run."""
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
    """Gives the indices of the nodes that compute with learnt weights or with what such nodes gave.

    Convolutions and Gemm nodes are where learnt weights enter; the front-end's constant products are MatMul nodes. The
    novelty score is none of it: its distances are differences of large numbers.
    """
    learnt: set[str] = set()
    found: set[int] = set()
    apart: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if any(name.startswith(_NOVELTY) or name in apart for name in node.input):
            apart.update(node.output)
        elif node.op_type in ("Conv", "Gemm") or learnt.intersection(node.input):
            learnt.update(node.output)
            found.add(index)
    return frozenset(found)


def select_layers(layers: Sequence[Layer], *, exclude: str | None, ops: Sequence[str]) -> tuple[Layer, ...]:
    """Gives the layers that are worth quantising, of these operators, and not excluded by name.

    The first layer never is: it reads the sensor itself, whose glitches set its range, and most of the error of a
    quantised student comes from it, for a few percent of the products. Nor are convolutional features, which all read
    the sensor, and compare what they find with a bias that lies within it.

    Args:
        layers: all of the graph, in order.
        exclude: regular expression searched in the layers' names; None excludes nothing.
        ops: operators that the platform runs faster in INT8.

    Raises:
        UsageError: the expression is not one, or matches no layer.
    """
    try:
        pattern = None if exclude is None else re.compile(exclude)
    except re.error as error:
        raise UsageError(f"--exclude {exclude!r}: expected a regular expression: {error}") from error
    if pattern is not None and not any(pattern.search(layer.name) for layer in layers):
        names = ", ".join(layer.name for layer in layers)
        raise UsageError(f"--exclude {exclude!r}: matches no layer; the layers are {names}")
    learnt = [layer for layer in layers if not layer.name.startswith(_READS_THE_SENSOR)]
    return tuple(
        layer
        for layer in learnt[1:]
        if layer.worth_quantising and layer.op in ops and not (pattern and pattern.search(layer.name))
    )


def layers_by_source(layers: Sequence[Layer]) -> tuple[tuple[str, ...], ...]:
    """Gives the names of the layers, those that read one tensor together: they share its Q and DQ, and its range."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(layer.source, []).append(layer.name)
    return tuple(tuple(names) for names in groups.values())


def learnt_ranges(model: onnx.ModelProto) -> dict[str, float]:
    """Gives the range of what each layer reads where quantisation-aware distillation learnt it, else nothing."""
    text = next((entry.value for entry in model.metadata_props if entry.key == INT8_KEY), None)
    return {} if text is None else msgspec.json.decode(text, type=LearntInt8).ranges


def _layer(name: str, index: int, node: onnx.NodeProto, *, shapes: dict[str, tuple[int, ...]]) -> Layer:
    weight, out = shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":  # weights (n, channels, taps ...), output (frames, n, positions ...)
        axis, m, k, n = 0, out[0] * math.prod(out[2:]), math.prod(weight[1:]), weight[0]
    else:
        flipped = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = 0 if flipped else 1
        n, k = weight[axis], weight[1 - axis]
        m = 1
        for size in out[:-1]:
            m *= size
    return Layer(
        name=name, node=index, op=node.op_type, source=node.input[0], weight=node.input[1], axis=axis, m=m, k=k, n=n
    )


def _module_name(nodes: Sequence[onnx.NodeProto], index: int, weights: set[str]) -> str:
    """The module's name, from its weights or, where the exporter transposed these, from the bias added behind it."""
    node = nodes[index]
    for name in (*node.input[1:], *_added_behind(nodes, index, weights)):
        if name.startswith("student.") and name.endswith((".weight", ".bias")):
            return str(name.removeprefix("student.").rpartition(".")[0])
    return str(node.name)


def _added_behind(nodes: Sequence[onnx.NodeProto], index: int, weights: set[str]) -> Iterator[str]:
    output = nodes[index].output[0]
    for node in nodes[index + 1 :]:
        if node.op_type == "Add" and output in node.input:
            yield from (name for name in node.input if name in weights)
