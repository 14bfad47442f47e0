"""`.tflite` files by litert-torch and ai-edge-quantizer, in a child process, since they write to the terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mmkd_edge.apart import end_with_reader
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.manifest import graph_inputs, graph_outputs, step_inputs, step_outputs
from mmkd_edge.errors import GateError, MmkdError, UnavailableError
from mmkd_edge.install.graphs import check_tflite
from mmkd_export.graph.onnx_graph import SMALLEST_PRODUCT, learnt_layers, select_layers
from mmkd_export.plan import PlatformName
from mmkd_export.student import Graph, ProvenStudent

if TYPE_CHECKING:
    from torch import nn

    from mmkd_edge.spec import TensorSpec

EXTRA = "mmkd-edge[litert-export]"
PLATFORMS: tuple[PlatformName, ...] = ("cpu-x86", "cpu-arm")
LIBRARIES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
_IDENTIFIER = b"TFL3"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
_PRODUCTS = ("Gemm", "MatMul")
_Which = Literal["window", "step", "portable"]


def missing_libraries() -> list[str]:
    """Return missing libraries of the conversion."""
    return [name.replace("_", "-") for name in LIBRARIES if importlib.util.find_spec(name) is None]


def convert_tflite(student: ProvenStudent, graph: Graph) -> bytes:
    """Return the fp32 `.tflite` of a student, or of its steps."""
    which: _Which = "portable" if student.twin is not None else graph
    return tflite_from_checkpoint(student.source, graph=which, temperature=student.proof_set.temperature)


def tflite_from_checkpoint(path: Path, *, graph: _Which = "window", temperature: float = 1.0) -> bytes:
    """Convert a checkpoint, or its portable student; GateError if devices would refuse the file."""
    if missing_libraries():
        raise UnavailableError(
            f"--target litert needs {' and '.join(missing_libraries())}, which this Python lacks; "
            f"run: pip install '{EXTRA}'"
        )
    with tempfile.TemporaryDirectory(prefix="mmkd-litert-") as folder:
        output = Path(folder) / "student.tflite"
        arguments = [graph, str(path.absolute()), str(output), repr(temperature)]
        command = [sys.executable, "-m", "mmkd_export.targets.litert", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | _OFFLINE)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise MmkdError(f"litert-torch could not convert the network: {lines[-1]}; export without --target litert")
        return _check_model(output.read_bytes())


def _check_model(model: bytes) -> bytes:
    try:
        check_tflite(model)
    except ValueError as error:
        raise GateError(
            f"the .tflite would be refused by every device: {error}; export without --target litert"
        ) from error
    return model


def _convert(graph: str, source: str, output: str, temperature: str) -> None:
    from mmkd_export.graph.onnx_from_student import describe_steps, exported_network, stepping_network
    from mmkd_models.training.checkpoint import read_student

    checkpoint = read_student(Path(source))
    if graph == "portable" and checkpoint.portable is not None:
        checkpoint = checkpoint.portable
    modality, task, has_novelty = checkpoint.modality, checkpoint.task, checkpoint.embeddings is not None
    if graph == "step":
        streaming = describe_steps(checkpoint)
        module: nn.Module = stepping_network(checkpoint, temperature=float(temperature))
        inputs, outputs = step_inputs(modality, streaming), step_outputs(task, streaming, novelty=has_novelty)
    else:
        module = exported_network(checkpoint, temperature=float(temperature))
        inputs, outputs = graph_inputs(modality), graph_outputs(task, novelty=has_novelty)
    metadata = {
        f"mmkd_edge.modality.{modality.name}": msgspec.json.encode(modality),
        "mmkd_edge.labels": msgspec.json.encode(task.labels),
    }
    write_file(Path(output), _tflite_from_module(module, inputs=inputs, outputs=outputs, metadata=metadata))


def _tflite_from_module(
    module: nn.Module, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], metadata: Mapping[str, bytes]
) -> bytes:
    import litert_torch
    import torch

    class Named(torch.nn.Module):
        """Names outputs, which litert-torch numbers, and inputs (`args_0`...)."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            answers = self.module(*tensors)
            return {tensor.name: answer for tensor, answer in zip(outputs, answers, strict=True)}

    examples = tuple(torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in inputs)
    converted = litert_torch.convert(Named().eval(), examples)
    return _clean_model(
        converted.model_content(),
        names={f"args_{number}": tensor.name for number, tensor in enumerate(inputs)},
        metadata=metadata,
    )


def _clean_model(model: bytes, *, names: Mapping[str, str], metadata: Mapping[str, bytes]) -> bytes:
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    content = _content(model)
    content.description = "mmkd-edge"
    for graph in content.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = f"t{number}"  # torch's class paths before
    for signature in content.signatureDefs:
        for mapping in (*signature.inputs, *signature.outputs):
            old = mapping.name.decode()
            mapping.name = names.get(old, old)
    for name, data in metadata.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(data, dtype=np.uint8)
        entry.name, entry.buffer = name, len(content.buffers)
        content.buffers.append(buffer)
        content.metadata.append(entry)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(content.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _content(model: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def int8_tflite(model: bytes, graph: bytes) -> bytes:
    """Quantise the products that the ONNX `graph` quantises too, inputs per row at run time; GateError without any."""
    import onnx
    from ai_edge_quantizer import qtyping, quantizer

    layers = select_layers(learnt_layers(onnx.load_from_string(graph)), ops=_PRODUCTS)
    named = [(layer.m, layer.k, layer.n) for layer in layers]
    # Convolutional features stay float32; the converter writes them as products too.
    products = [(output, sizes) for output, sizes in _learnt_products(model) if sizes in named]
    if Counter(sizes for _, sizes in products) != Counter(named):
        raise GateError(
            f"int8 .tflite: expected the {len(named)} products of the fp32 graph, got {len(products)} of their sizes: "
            "the converter changed them; export without --target litert or without --precision int8"
        )
    if not products:
        raise GateError(
            "int8 .tflite: expected a product that INT8 makes faster, found none: every one has a side below "
            f"{SMALLEST_PRODUCT}; export without --precision int8"
        )
    quantise = quantizer.Quantizer(bytearray(model))
    names = "|".join(re.escape(output) for output, _ in products)
    # The library searches the expression in output names, followed by a semicolon.
    quantise.add_dynamic_config(
        regex=f"^({names})(;|$)", operation_name=qtyping.TFLOperationName.FULLY_CONNECTED, num_bits=8
    )
    with contextlib.redirect_stderr(io.StringIO()):  # version 0.10 always shows a bar
        result = quantise.quantize(enable_progress_bar=False, enable_progress_report=False)
    return _check_model(bytes(result.quantized_model))


def _learnt_products(model: bytes) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yield output and sizes (m, k, n) of products after the first convolution."""
    from ai_edge_litert import schema_py_generated as schema

    content = _content(model)
    (graph,) = content.subgraphs
    learnt: set[int] = set()
    for operator in graph.operators:
        code = content.operatorCodes[operator.opcodeIndex].builtinCode
        if code == schema.BuiltinOperator.CONV_2D or learnt.intersection(operator.inputs):
            learnt.update(operator.outputs)
            if code == schema.BuiltinOperator.FULLY_CONNECTED:
                output, weights = graph.tensors[operator.outputs[0]], graph.tensors[operator.inputs[1]]
                n, k = (int(size) for size in weights.shape)
                m = math.prod(int(size) for size in output.shape) // n
                yield output.name.decode(), (m, k, n)


if __name__ == "__main__":
    end_with_reader(1)
    _convert(*sys.argv[1:])
