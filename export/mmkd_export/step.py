"""The step graph of a causal student, with the evidence for it.

Owns its verdict: the graph follows a recording as a device does, step after step, and is compared with one pass of the
network over the whole recording; and golden windows, stepped through, must give their stored answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_edge.backends.base import SteppingBackend, backend_for, is_installed, open_steps
from mmkd_edge.bundle.manifest import Artifact, ArtifactFormat, Parity, Streaming
from mmkd_edge.predict.selftest import follow_recording
from mmkd_export.graph.onnx_graph import OPSET
from mmkd_export.judge.parity import FP32_TOLERANCE, Answers, ArtifactParity, compare, require_parity
from mmkd_export.judge.reference_answers import Evidence
from mmkd_export.report import StepReport
from mmkd_export.targets.litert import SCHEMA_VERSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_FEWEST_STEPS = 256
_FEWEST_WINDOWS = 4  # of time tokens: the memory of the first blocks is full then
_MOST_GOLDEN = 16


@dataclass(frozen=True, kw_only=True)
class StepGraph:
    """A step graph that passed its gate.

    Attributes:
        model: the file.
        artifact: what the manifest says of it.
        report: what was measured.
    """

    model: bytes
    artifact: Artifact
    report: StepReport


def step_from_checkpoint(checkpoint: StudentCheckpoint, evidence: Evidence) -> StepGraph:
    """Makes a causal student's step graph and compares it with the network.

    Raises:
        MmkdError: the exporter failed.
        GateError: the graph does not answer as the network does.
    """
    from mmkd_export.graph.onnx_from_student import onnx_step_from_student

    model = onnx_step_from_student(checkpoint, temperature=evidence.temperature)
    return judge_step(model, checkpoint, evidence, format="onnx", mflops=_mflops(model))


def judge_step(
    model: bytes,
    checkpoint: StudentCheckpoint,
    evidence: Evidence,
    *,
    format: ArtifactFormat,  # noqa: A002 - the manifest's word
    mflops: float,
) -> StepGraph:
    """Holds a step graph against the network, in the backend of its format.

    Raises:
        GateError: the graph does not answer as the network does.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend does not run it.
    """
    from mmkd_export.graph.onnx_from_student import answers_along_recording, steps_of

    facts = steps_of(checkpoint)
    recording = _recording(evidence, stride=facts.stride)
    expected = answers_along_recording(checkpoint, recording, temperature=evidence.temperature)
    backend, what = open_steps(backend_for(format), model, threads=1), _named(format)
    try:
        logits, probabilities = follow_recording(backend, facts, recording, evidence.modality)
        got = Answers(logits=logits, probabilities=probabilities)
        heard = _heard(recording, stride=facts.stride, samples=evidence.modality.samples)
        parity = compare(_rows(expected, heard), _rows(got, heard), task=evidence.task)
        proof = require_parity(parity, tolerance=FP32_TOLERANCE, what=f"{what}, along a recording")
        windows = _stepped_windows(backend, facts, evidence)
        require_parity(windows, tolerance=FP32_TOLERANCE, what=f"{what}, window by window")
    finally:
        backend.close()
    artifact = _artifact(model, evidence, proof, format=format)
    return StepGraph(
        model=model,
        artifact=artifact,
        report=StepReport(
            file=artifact.file,
            size_bytes=len(model),
            stride=facts.stride,
            steps=parity.windows,
            parity=parity,
            parity_of_windows=windows,
            mflops=mflops,
        ),
    )


def stored_step(
    model: bytes, artifact: Artifact, streaming: Streaming, report: StepReport, evidence: Evidence
) -> StepGraph:
    """Gives a step graph of an earlier bundle, compared with its golden windows once more.

    One whose backend is not installed here is kept as it is.

    Raises:
        GateError: this machine computes other answers.
    """
    if not is_installed(backend_for(artifact.format)):
        return StepGraph(model=model, artifact=artifact, report=report)
    backend = open_steps(backend_for(artifact.format), model, threads=1)
    try:
        windows = _stepped_windows(backend, streaming, evidence)
    finally:
        backend.close()
    require_parity(windows, tolerance=FP32_TOLERANCE, what=f"{_named(artifact.format)} on this machine")
    return StepGraph(model=model, artifact=artifact, report=msgspec.structs.replace(report, parity_of_windows=windows))


def _named(format: ArtifactFormat) -> str:  # noqa: A002 - the manifest's word
    return "fp32 step graph" if format == "onnx" else f"fp32 step .{format}"


def _recording(evidence: Evidence, *, stride: int) -> NDArray[np.float32]:
    """(T, C): windows end to end, with and without gaps in turn, as whole blocks."""
    samples = evidence.modality.samples
    wanted = max(_FEWEST_STEPS * stride, _FEWEST_WINDOWS * samples)
    pieces: list[NDArray[np.float32]] = []
    number = 0
    while sum(len(piece) for piece in pieces) < wanted:
        index = number // 2 % len(evidence.real.windows)
        pieces.append((evidence.gaps if number % 2 else evidence.real.windows)[index])
        number += 1
    recording = np.concatenate(pieces)
    return recording[: len(recording) // stride * stride]


def _heard(recording: NDArray[np.float32], *, stride: int, samples: int) -> NDArray[np.bool_]:
    """(N,) whether the window that ends with each block has a sample: where none has, logits mean nothing."""
    there = np.isfinite(recording).any(1).reshape(-1, stride).any(1)
    length = -(-samples // stride)
    counts = np.cumsum(np.concatenate([np.zeros(length, np.int64), there]))
    heard: NDArray[np.bool_] = counts[length:] > counts[:-length]
    return heard


def _rows(answers: Answers, chosen: NDArray[np.bool_]) -> Answers:
    return Answers(logits=answers.logits[chosen], probabilities=answers.probabilities[chosen])


def _stepped_windows(backend: SteppingBackend, streaming: Streaming, evidence: Evidence) -> ArtifactParity:
    """Golden windows, each stepped through from the beginning, against the answers for them."""
    windows = evidence.real.windows[:_MOST_GOLDEN]
    found = [follow_recording(backend, streaming, window, evidence.modality) for window in windows]
    got = Answers(
        logits=np.stack([logits[-1] for logits, _ in found]),
        probabilities=np.stack([shares[-1] for _, shares in found]),
    )
    count = len(windows)
    expected = Answers(logits=evidence.answers.logits[:count], probabilities=evidence.answers.probabilities[:count])
    return compare(expected, got, task=evidence.task)


def _artifact(
    model: bytes,
    evidence: Evidence,
    proof: Parity,
    *,
    format: ArtifactFormat,  # noqa: A002 - the manifest's word
) -> Artifact:
    return Artifact(
        file=f"{evidence.modality.name}/step.fp32.{format}",
        format=format,
        precision="fp32",
        opset=OPSET if format == "onnx" else SCHEMA_VERSION,
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        parity=proof,
    )


def _mflops(model: bytes) -> float:
    import onnx

    from mmkd_export.graph.onnx_graph import multiply_adds

    return round(2 * multiply_adds(onnx.load_from_string(model)) / 1e6, 3)
