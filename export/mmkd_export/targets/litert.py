"""The target `litert`: a checkpoint's student as a `.tflite` file, through litert-torch.

Owns when one is made, the conversion, and what the file says of itself: the manifest's names for its tensors, the
modality and the labels as metadata, and no class paths. The converter runs in a process of its own: it writes to the
terminal from native code, and brings jax and transformers, which the rest of an export has no use for.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.manifest import graph_inputs, graph_outputs, step_inputs, step_outputs
from mmkd_edge.errors import GateError, MmkdError, UnavailableError
from mmkd_edge.install.tflite_graphs import check_tflite
from mmkd_export.plan import ExportPlan
from mmkd_export.platforms import PlatformName
from mmkd_export.precision.int8_tflite import int8_tflite
from mmkd_export.student import ProvenStudent
from mmkd_export.verify.artifacts import ProvenArtifact, measure_lower_precision, prove_fp32, require_passed
from mmkd_export.verify.gate import GateRule, require_windows
from mmkd_export.verify.step_graph import prove_step

if TYPE_CHECKING:
    from torch import nn

    from mmkd_edge.spec import TensorSpec
    from mmkd_models.training.checkpoint import StudentCheckpoint

EXTRA = "mmkd-edge[litert-export]"
PLATFORMS: tuple[PlatformName, ...] = ("cpu-x86", "cpu-arm")
LIBRARIES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
_IDENTIFIER = b"TFL3"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}


def with_tflite(plan: ExportPlan) -> ExportPlan:
    """The plan with a `.tflite`, where one can be made for its platform and the converter is installed."""
    if not _takes_tflite(plan) or missing_libraries():
        return plan
    return replace(plan, targets=(*plan.targets, "litert"), optional=(*plan.optional, "litert"))


def tflite_gain(plan: ExportPlan) -> str:
    """What a device would gain from a `.tflite` that the missing converter cannot make; else empty."""
    if not _takes_tflite(plan) or not missing_libraries():
        return ""
    return (
        f"no .tflite: pip install '{EXTRA}' adds it, with which a tiny student took 116 us a window where "
        "OpenVINO took 288 us and onnxruntime 292 us (docs/results/runtime.md)"
    )


def _takes_tflite(plan: ExportPlan) -> bool:
    """Whether a `.tflite` could be added to what was asked for."""
    if plan.from_bundle or plan.batch is not None or {"onnx", "litert", "trt"} & set(plan.targets):
        return False
    return plan.platform is None or plan.platform in PLATFORMS


def add_tflite(student: ProvenStudent, checkpoint: StudentCheckpoint, plan: ExportPlan) -> ProvenStudent:
    """Adds the fp32 `.tflite` of a checkpoint, and of a causal one that of its steps.

    Raises:
        MmkdError: it cannot be converted.
        GateError: it does not answer as the checkpoint does.
    """
    proof_set = student.proof_set
    model = tflite_from_checkpoint(plan.source, temperature=proof_set.temperature)
    student = replace(student, others=(prove_fp32(model, proof_set, format="tflite"), *student.others))
    if not student.steps:
        return student
    model = tflite_step_from_checkpoint(plan.source, temperature=proof_set.temperature)
    step = prove_step(model, checkpoint, proof_set, format="tflite", mflops=student.steps[0].report.mflops)
    return replace(student, steps=(*student.steps, step))


def make_int8_tflite(student: ProvenStudent, plan: ExportPlan, rule: GateRule) -> ProvenArtifact:
    """Makes the INT8 `.tflite` from the fp32 one.

    Raises:
        GateError: it does not pass its gate, devices would refuse it, or too few windows judge.
    """
    import onnx

    what = "int8 .tflite"
    require_windows(len(student.proof_set.judging.labels), what=what, rule=rule)
    model = next(one.model for one in student.others if one.artifact.format == "tflite")
    made = _taken(int8_tflite(model, onnx.load_from_string(student.fp32.model), exclude=plan.exclude))
    proven = measure_lower_precision(made, student.proof_set, rule, precision="int8", format="tflite")
    advice = "Leave layers out with --exclude, or export without --target litert or without --precision int8"
    return require_passed(proven, what=what, advice=advice)


def missing_libraries() -> list[str]:
    """Names what `tflite_from_checkpoint` needs and this Python lacks."""
    return [name.replace("_", "-") for name in LIBRARIES if importlib.util.find_spec(name) is None]


def tflite_from_checkpoint(path: Path, *, temperature: float = 1.0) -> bytes:
    """Converts the student in a checkpoint file; the same checkpoint and library versions give the same bytes.

    The signature takes `<modality>` and `<modality>_present` (1, T, C) and gives `logits` and `probabilities` (1, K),
    and `novelty` (1, 1) where the student has it, all float32. The probabilities are the softmax of the logits divided
    by `temperature`.

    Raises:
        GateError: devices would refuse what it makes.
        MmkdError: it cannot convert the network.
    """
    return _converted(path, "window", temperature=temperature)


def tflite_step_from_checkpoint(path: Path, *, temperature: float = 1.0) -> bytes:
    """Converts the step graph of a causal student in a checkpoint file, as `tflite_from_checkpoint` does.

    The signature takes `step_inputs` and gives `step_outputs`, float32 but for values of video, uint8.
    """
    return _converted(path, "step", temperature=temperature)


def _converted(path: Path, graph: Literal["window", "step"], *, temperature: float) -> bytes:
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
        return _taken(output.read_bytes())


def _taken(model: bytes) -> bytes:
    """The model itself.

    Raises:
        GateError: it is one that devices refuse.
    """
    try:
        check_tflite(model)
    except ValueError as error:
        raise GateError(
            f"the .tflite would be refused by every device: {error}; export without --target litert"
        ) from error
    return model


def tflite_from_student(checkpoint: StudentCheckpoint, *, temperature: float) -> bytes:
    """Converts a student in this process; the converter writes to the terminal. See `tflite_from_checkpoint`."""
    from mmkd_models.networks.student import ExportStudent

    return tflite_from_module(
        ExportStudent(checkpoint.network(), temperature=temperature, seen=checkpoint.seen),
        inputs=graph_inputs(checkpoint.modality),
        outputs=graph_outputs(checkpoint.task, novelty=checkpoint.seen is not None),
        metadata=_metadata(checkpoint),
    )


def tflite_step_from_student(checkpoint: StudentCheckpoint, *, temperature: float) -> bytes:
    """Converts a causal student's step graph in this process; see `tflite_step_from_checkpoint`."""
    from mmkd_export.graph.onnx_from_student import steps_of
    from mmkd_models.networks.step import StepStudent

    streaming = steps_of(checkpoint)
    return tflite_from_module(
        StepStudent(checkpoint.transformer(asked_by="step graph"), temperature=temperature, seen=checkpoint.seen),
        inputs=step_inputs(checkpoint.modality, streaming),
        outputs=step_outputs(checkpoint.task, streaming, novelty=checkpoint.seen is not None),
        metadata=_metadata(checkpoint),
    )


def _metadata(checkpoint: StudentCheckpoint) -> dict[str, bytes]:
    return {
        f"mmkd_edge.modality.{checkpoint.modality.name}": msgspec.json.encode(checkpoint.modality),
        "mmkd_edge.labels": msgspec.json.encode(checkpoint.task.labels),
    }


def tflite_from_module(
    module: nn.Module,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    metadata: Mapping[str, bytes],
) -> bytes:
    """Converts a module in this process: it takes these tensors by position, and gives these."""
    import litert_torch
    import torch

    class Named(torch.nn.Module):
        """The module with named outputs: litert-torch numbers those without a name, and its inputs: `args_0`..."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            answers = self.module(*tensors)
            return {tensor.name: answer for tensor, answer in zip(outputs, answers, strict=True)}

    examples = tuple(torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in inputs)
    converted = litert_torch.convert(Named().eval(), examples)
    return clean_model(
        converted.model_content(),
        names={f"args_{number}": tensor.name for number, tensor in enumerate(inputs)},
        metadata=metadata,
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
    from mmkd_models.training.checkpoint import read_student

    graph, source, output, temperature = arguments
    convert = tflite_step_from_student if graph == "step" else tflite_from_student
    write_file(Path(output), convert(read_student(Path(source)), temperature=float(temperature)))


if __name__ == "__main__":
    _convert(sys.argv[1:])
