"""ONNX graphs: cleaned, checked against the manifest, counted; without torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmkd_edge.bundle.manifest import ArtifactFormat, describe_tensors
from mmkd_edge.errors import GateError, first_line
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""The newest opset that TensorRT 10.3 (JetPack 6.2) reads, and the first with Gelu as one operator."""

IR_VERSION = 10
"""onnxruntime 1.17 and later reads it; the onnx package itself would write newer ones."""

FORMAT_VERSIONS: dict[ArtifactFormat, int] = {"onnx": OPSET, "tflite": 3, "native": 1}
"""The opset in the manifest; of a `.tflite` the version of the flatbuffer schema, of a `.native` that of its layout."""

STATISTICS_KEY = "mmkd_edge.statistics"
"""Metadata of a student's graph: mean and standard deviation of each channel in training, as JSON."""

INT8_KEY = "mmkd_edge.int8"
"""Metadata of a student's graph: what quantisation-aware distillation learnt, as JSON; absent without it."""

_REPORT = "please report it with the checkpoint"
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}  # onnx.TensorProto.DataType


def clean_graph(model: onnx.ModelProto, *, metadata: Sequence[tuple[str, str]]) -> onnx.ModelProto:
    """Return a copy with this metadata, without source paths, stack traces and notes of the exporter."""
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
    model: onnx.ModelProto, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], slots: int = 0
) -> None:
    """Raise GateError unless a graph is valid ONNX, is what the manifest describes, and devices take it."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the exported graph is not valid ONNX: {first_line(error)}; {_REPORT}") from error
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        raise GateError(f"the exported graph: expected opset {OPSET} and no other operators, got {opsets}; {_REPORT}")
    if model.ir_version != IR_VERSION:
        raise GateError(f"the exported graph: expected IR version {IR_VERSION}, got {model.ir_version}; {_REPORT}")
    for expected, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
        got = tuple(_tensor_spec(value) for value in values)
        if got != tuple(expected):
            raise GateError(
                f"the exported graph: expected {describe_tensors(expected)}, got {describe_tensors(got)}; {_REPORT}"
            )
    try:
        check_graph(graph_bytes(model), slots=slots)
    except ValueError as error:
        raise GateError(f"the exported graph would be refused by every device: {error}; {_REPORT}") from error


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(int(axis.dim_value) if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
    dtype: Any = _DTYPES.get(tensor.elem_type, f"type {tensor.elem_type}")
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def graph_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise a graph: the same graph gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove, in place, the initializers that no node reads."""
    used = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def is_transposed(node: onnx.NodeProto, attribute: str) -> bool:
    """Whether `transA` or `transB` of a Gemm is set."""
    return any(entry.name == attribute and entry.i for entry in node.attribute)


def multiply_adds(model: onnx.ModelProto) -> int:
    """Count the multiplications of convolutions and matrix products for one window."""
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
    """Count floating point operations for one window, in millions: two for each multiplication."""
    return round(2 * multiply_adds(model) / 1e6, 3)


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a graph."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    return shapes
