"""torch to ONNX: fp32 graphs of students, and of teachers for comparison."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.bundle.manifest import StateTensor, Streaming, graph_inputs, graph_outputs, step_inputs, step_outputs
from mmkd_edge.errors import MmkdError, UsageError, first_line
from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec
from mmkd_export.graph import onnx_graph
from mmkd_export.graph.trees import FEATURES, VOTES, insert_trees

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmkd_models.networks.step import StepStudent
    from mmkd_models.networks.student import ExportStudent, Student
    from mmkd_models.networks.teacher import Teacher
    from mmkd_models.training.checkpoint import StudentCheckpoint


def onnx_from_student(checkpoint: StudentCheckpoint, *, temperature: float = 1.0) -> bytes:
    """Convert to the fp32 graph, softmax of logits / `temperature`; GateError if it does not match the manifest."""
    network = exported_network(checkpoint, temperature=temperature)
    return _onnx_from_module(
        network,
        student=network.student,
        inputs=graph_inputs(checkpoint.modality),
        outputs=graph_outputs(checkpoint.task, novelty=checkpoint.embeddings is not None),
        metadata=[
            *_metadata((checkpoint.modality,)),
            ("mmkd_edge.labels", _json(checkpoint.task.labels)),
            (onnx_graph.STATISTICS_KEY, _json(checkpoint.normalisation)),
        ],
    )


def exported_network(checkpoint: StudentCheckpoint, *, temperature: float = 1.0) -> ExportStudent:
    """Return the network that all artifacts compute."""
    from mmkd_models.networks.student import ExportStudent

    return ExportStudent(checkpoint.network(), temperature=temperature, embeddings=checkpoint.embeddings).eval()


def stepping_network(checkpoint: StudentCheckpoint, *, temperature: float = 1.0) -> StepStudent:
    """Return the network of a step graph."""
    from mmkd_models.networks.step import StepStudent

    network = checkpoint.network()
    return StepStudent(network, temperature=temperature, embeddings=checkpoint.embeddings)


def describe_steps(checkpoint: StudentCheckpoint) -> Streaming:
    """Describe a causal student's steps, without artifacts."""
    step = stepping_network(checkpoint)
    return Streaming(
        stride=step.encoder.stride,
        memory=step.encoder.memory,
        slots=step.encoder.length,
        states=tuple(
            StateTensor(name=name, shape=shape, axis=axis) for name, (shape, axis) in step.state_shapes().items()
        ),
        artifacts=(),
    )


def onnx_step_from_student(checkpoint: StudentCheckpoint, *, temperature: float = 1.0) -> bytes:
    """Convert a causal student to its step graph; see `onnx_from_student`."""
    streaming = describe_steps(checkpoint)
    return _onnx_from_module(
        stepping_network(checkpoint, temperature=temperature),
        inputs=step_inputs(checkpoint.modality, streaming),
        outputs=step_outputs(checkpoint.task, streaming, novelty=checkpoint.embeddings is not None),
        metadata=[*_metadata((checkpoint.modality,)), ("mmkd_edge.labels", _json(checkpoint.task.labels))],
        steps=True,
    )


def onnx_from_teacher(teacher: Teacher, modalities: Sequence[ModalitySpec]) -> bytes:
    """Convert a teacher to its fp32 graph, with inputs `<modality>` and `<modality>_present` (1, T, C)."""
    import torch

    names = tuple(modality.name for modality in modalities)
    if names != teacher.names:
        raise UsageError(f"teacher: expected the modalities {', '.join(teacher.names)}, got {', '.join(names)}")

    class ExportTeacher(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = teacher

        def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            pairs = zip(tensors[::2], tensors[1::2], strict=True)
            answer, output = self.teacher.answer, self.teacher(dict(zip(self.teacher.names, pairs, strict=True)))
            raw = self.teacher.head(output.embedding) if answer.kind == "regression" else output.logits
            return raw, answer(raw)

    labels = tuple(str(number) for number in range(teacher.head.out_features))
    return _onnx_from_module(
        ExportTeacher(),
        inputs=[tensor for modality in modalities for tensor in graph_inputs(modality)],
        outputs=graph_outputs(TaskSpec(kind=teacher.answer.kind, labels=labels)),
        metadata=_metadata(modalities),
    )


def _metadata(modalities: Sequence[ModalitySpec]) -> list[tuple[str, str]]:
    return [(f"mmkd_edge.modality.{modality.name}", _json(modality)) for modality in modalities]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _onnx_from_module(
    module: nn.Module,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    metadata: Sequence[tuple[str, str]],
    steps: bool = False,
    student: Student | None = None,
) -> bytes:
    import torch

    module = module.eval().cpu()
    forest = None if student is None else student.trees
    named = [tensor.name for tensor in inputs], [tensor.name for tensor in outputs]
    # Example values for the tracer; the graph does not depend on them.
    examples = tuple(
        torch.full(tensor.shape, number % 2, dtype=getattr(torch, tensor.dtype)) for number, tensor in enumerate(inputs)
    )
    if forest is not None:
        examples = (*examples, torch.full((1, forest.fractions.shape[1]), 0.5))
        named[0].append(VOTES)
        named[1].append(FEATURES)
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=onnx_graph.OPSET,
                input_names=named[0],
                output_names=named[1],
                external_data=False,  # one file
                verbose=False,
            )
    except Exception as error:  # the exporter raises types of its private modules
        raise MmkdError(
            f"torch could not export the network: {first_line(error)}; add --debug and report it"
        ) from error
    assert program is not None
    model = onnx_graph.clean_graph(program.model_proto, metadata=metadata)
    if forest is not None and student is not None and student.intervals is not None:
        insert_trees(model, forest, features=student.intervals.features)
    onnx_graph.check_exported(model, inputs=inputs, outputs=outputs, steps=steps)
    return onnx_graph.graph_bytes(model)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
