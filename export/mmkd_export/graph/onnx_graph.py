"""Clean, check and count ONNX graphs, without torch."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkd_edge.bundle.manifest import ArtifactFormat, describe_tensors
from mmkd_edge.errors import GateError, first_line
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.install.trees import TREES_DOMAIN, TREES_VERSION
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import onnx


OPSET = 20  # the newest that TensorRT 10.3 (JetPack 6.2) reads, and the first with a Gelu operator
_IR_VERSION = 10  # for onnxruntime 1.17 and later; onnx would write newer ones

# The manifest's opset; for `.tflite` the flatbuffer schema's version, for `.native` the layout's
FORMAT_VERSIONS: dict[ArtifactFormat, int] = {"onnx": OPSET, "tflite": 3, "native": 1}

STATISTICS_KEY = "mmkd_edge.statistics"  # metadata: mean and std of each training channel, as JSON

LEARNT_OPS = ("Conv", "Gemm", "MatMul")

# Below this many inputs or outputs INT8 is no faster; NVIDIA ModelOpt agrees
SMALLEST_PRODUCT = 16

_DISTANCES = ("novelty.", "student.residual.")  # weights of scores that subtract large numbers
_CONVOLUTIONAL_FEATURES = "convolutions."
_REPORT = "please report it with the checkpoint"
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}  # onnx.TensorProto.DataType


def clean_graph(model: onnx.ModelProto, *, metadata: Sequence[tuple[str, str]]) -> onnx.ModelProto:
    """Return a copy with this metadata, without the exporter's traces."""
    cleaned = copy.deepcopy(model)
    cleaned.doc_string = ""
    cleaned.producer_name = "mmkd-edge"
    cleaned.producer_version = ""
    cleaned.domain = ""
    cleaned.model_version = 0
    del cleaned.metadata_props[:]
    for key, value in metadata:
        cleaned.metadata_props.add(key=key, value=value)
    graph = cleaned.graph
    parts: list[Any] = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    graph.name = "student"
    return cleaned


def check_exported(
    model: onnx.ModelProto, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], steps: bool = False
) -> None:
    """Raise GateError unless a graph is valid, matches the manifest and runs on devices."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the exported graph is not valid ONNX: {first_line(error)}; {_REPORT}") from error
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.pop(TREES_DOMAIN, TREES_VERSION) != TREES_VERSION or opsets != {"": OPSET}:
        raise GateError(f"the exported graph: expected opset {OPSET} and no other operators, got {opsets}; {_REPORT}")
    if model.ir_version != _IR_VERSION:
        raise GateError(f"the exported graph: expected IR version {_IR_VERSION}, got {model.ir_version}; {_REPORT}")
    for expected, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
        got = tuple(_tensor_spec(value) for value in values)
        if got != tuple(expected):
            raise GateError(
                f"the exported graph: expected {describe_tensors(expected)}, got {describe_tensors(got)}; {_REPORT}"
            )
    try:
        check_graph(graph_bytes(model), steps=steps)
    except ValueError as error:
        raise GateError(f"the exported graph would be refused by every device: {error}; {_REPORT}") from error


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(int(axis.dim_value) if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
    dtype: Any = _DTYPES.get(tensor.elem_type, f"type {tensor.elem_type}")
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def graph_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise a graph deterministically."""
    return bytes(model.SerializeToString(deterministic=True))


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove unused initializers in place."""
    used = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def is_transposed(node: onnx.NodeProto, attribute: str) -> bool:
    """Whether a Gemm's `transA` or `transB` is set."""
    return any(entry.name == attribute and entry.i for entry in node.attribute)


def multiply_adds(model: onnx.ModelProto) -> int:
    """Count multiplications of convolutions and matrix products."""
    shapes = tensor_shapes(model)
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            inner = 0 if is_transposed(node, "transA") else -1
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][inner]
    return total


def count_mflops(model: onnx.ModelProto) -> float:
    """Return MFLOP per window, two per multiplication."""
    return round(2 * multiply_adds(model) / 1e6, 3)


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    return shapes


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A product of m x k values and k x n weights; `axis` of the weights counts outputs."""

    name: str
    node: int
    op: str
    source: str
    weight: str
    axis: int
    m: int
    k: int
    n: int


def is_worth_quantising(m: int, k: int, n: int) -> bool:
    """Whether INT8 can be faster: no matrix-vector product, both sides at least `SMALLEST_PRODUCT`."""
    return m > 1 and min(k, n) >= SMALLEST_PRODUCT


def learnt_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Return layers in execution order."""
    shapes = tensor_shapes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    names: Counter[str] = Counter()
    layers: list[Layer] = []
    learnt = nodes_behind_front_end(model)
    for index, node in enumerate(model.graph.node):
        if index not in learnt or node.op_type not in LEARNT_OPS or node.input[1] not in weights:
            continue
        name = _module_name(model.graph.node, index, weights)
        names[name] += 1
        weight, out = shapes[node.input[1]], shapes[node.output[0]]
        if node.op_type == "Conv":  # weights (n, channels, taps ...), output (frames, n, positions ...)
            axis, m, k, n = 0, out[0] * math.prod(out[2:]), math.prod(weight[1:]), weight[0]
        else:
            axis = 0 if is_transposed(node, "transB") else 1
            m, k, n = math.prod(out[:-1]), weight[1 - axis], weight[axis]
        unique, source, used = name if names[name] == 1 else f"{name}#{names[name]}", node.input[0], node.input[1]
        layers.append(
            Layer(name=unique, node=index, op=node.op_type, source=source, weight=used, axis=axis, m=m, k=k, n=n)
        )
    return tuple(layers)


def nodes_behind_front_end(model: onnx.ModelProto) -> frozenset[int]:
    """Return indices of nodes from each Conv and Gemm on; not of distances."""
    learnt: set[str] = set()
    distances: set[str] = set()
    indices: set[int] = set()
    for index, node in enumerate(model.graph.node):
        if any(name.startswith(_DISTANCES) or name in distances for name in node.input):
            distances.update(node.output)
        elif node.op_type in ("Conv", "Gemm") or learnt.intersection(node.input):
            learnt.update(node.output)
            indices.add(index)
    return frozenset(indices)


def select_layers(layers: Sequence[Layer], *, ops: Sequence[str]) -> tuple[Layer, ...]:
    """Return layers to quantise, not the first, nor convolutional features, whose range sensor glitches set."""
    candidates = [layer for layer in layers if not layer.name.startswith(_CONVOLUTIONAL_FEATURES)][1:]
    return tuple(layer for layer in candidates if is_worth_quantising(layer.m, layer.k, layer.n) and layer.op in ops)


def _module_name(nodes: Sequence[onnx.NodeProto], index: int, weights: set[str]) -> str:
    """Return the module of the weights, or of the bias: transposed weights have no name of their own."""
    node = nodes[index]
    names = list(node.input[1:])
    for later in nodes[index + 1 :]:
        if later.op_type == "Add" and node.output[0] in later.input:
            names += (name for name in later.input if name in weights)
    for name in names:
        if name.startswith("student.") and name.endswith((".weight", ".bias")):
            return str(name.removeprefix("student.").rpartition(".")[0])
    return str(node.name)
