"""A checkpoint's student as a `.tflite` file, through litert-torch.

Owns the conversion and what the file says of itself: the manifest's names for its tensors, the modality and the labels
as metadata, and no class paths. The converter runs in a process of its own: it writes to the terminal from native code,
and brings jax and transformers, which the rest of an export has no use for.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mmkd_edge.errors import MmkdError, UnavailableError
from mmkd_edge.files import write_file
from mmkd_edge.manifest import graph_inputs, graph_outputs

if TYPE_CHECKING:
    from mmkd_models.checkpoint import StudentCheckpoint

SCHEMA_VERSION = 3
"""Of the TFLite flatbuffer schema; stands where an ONNX artifact has its opset."""

EXTRA = "mmkd-edge[litert-export]"
_LIBRARIES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
_ROLES = ("values", "present")
_IDENTIFIER = b"TFL3"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}


def missing_libraries() -> list[str]:
    """Names what `tflite_from_checkpoint` needs and this Python lacks."""
    return [name.replace("_", "-") for name in _LIBRARIES if importlib.util.find_spec(name) is None]


def tflite_from_checkpoint(path: Path, *, temperature: float = 1.0) -> bytes:
    """Converts the student in a checkpoint file; the same checkpoint and library versions give the same bytes.

    The signature takes `<modality>` and `<modality>_present` (1, T, C) and gives `logits` and `probabilities` (1, K),
    all float32. The probabilities are the softmax of the logits divided by `temperature`.

    Raises:
        UnavailableError: litert-torch is not installed.
        MmkdError: it cannot convert the network.
    """
    if missing_libraries():
        raise UnavailableError(
            f"--target litert needs {' and '.join(missing_libraries())}, which this Python lacks; "
            f"run: pip install '{EXTRA}'"
        )
    with tempfile.TemporaryDirectory(prefix="mmkd-litert-") as folder:
        output = Path(folder) / "student.tflite"
        command = [sys.executable, "-m", "mmkd_export.litert", str(path.absolute()), str(output), repr(temperature)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | _OFFLINE)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise MmkdError(f"litert-torch could not convert the network: {lines[-1]}; export without --target litert")
        return output.read_bytes()


def tflite_from_student(checkpoint: StudentCheckpoint, *, temperature: float) -> bytes:
    """Converts a student in this process; the converter writes to the terminal. See `tflite_from_checkpoint`."""
    import litert_torch
    import torch

    from mmkd_models.networks.student import ExportStudent

    answers = tuple(tensor.name for tensor in graph_outputs(checkpoint.task))

    class NamedStudent(torch.nn.Module):
        """The student with named inputs and outputs: litert-torch numbers those without a name."""

        def __init__(self) -> None:
            super().__init__()
            self.student = ExportStudent(checkpoint.network(), temperature=temperature)

        def forward(self, values: torch.Tensor, present: torch.Tensor) -> dict[str, torch.Tensor]:
            return dict(zip(answers, self.student(values, present), strict=True))

    inputs = graph_inputs(checkpoint.modality)
    examples = {role: torch.zeros(tensor.shape) for role, tensor in zip(_ROLES, inputs, strict=True)}
    converted = litert_torch.convert(NamedStudent().eval(), sample_kwargs=examples)
    return clean_model(
        converted.model_content(),
        names=dict(zip(_ROLES, (tensor.name for tensor in inputs), strict=True)),
        metadata={
            f"mmkd_edge.modality.{checkpoint.modality.name}": msgspec.json.encode(checkpoint.modality),
            "mmkd_edge.labels": msgspec.json.encode(checkpoint.task.labels),
        },
    )


def clean_model(model: bytes, *, names: Mapping[str, str], metadata: Mapping[str, bytes]) -> bytes:
    """Gives a model without class paths, with its signature's tensors renamed and metadata of our own added.

    Args:
        model: a `.tflite` file with one subgraph.
        names: old to new names of tensors of the signature; others keep theirs.
        metadata: name to content; what the converter wrote is kept.
    """
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
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


def model_metadata(model: bytes) -> dict[str, bytes]:
    """Gives the metadata of a `.tflite` file."""
    from ai_edge_litert import schema_py_generated as schema

    content: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    return {entry.name.decode(): bytes(content.buffers[entry.buffer].data) for entry in content.metadata}


def _convert(arguments: Sequence[str]) -> None:
    """The child process: reads a checkpoint, writes the model."""
    from mmkd_models.checkpoint import read_student

    source, output, temperature = arguments
    write_file(Path(output), tflite_from_student(read_student(Path(source)), temperature=float(temperature)))


if __name__ == "__main__":
    _convert(sys.argv[1:])
