"""The step graph of a causal student, with the proof of it.

Owns its judgement: the graph follows a recording as a device does, step after step, and is held against one pass of the
network over the whole recording; and golden windows, stepped through, are held against their stored answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.backends.base import SteppingBackend, backend_for, is_installed, open_steps
from mmkd_edge.bundle.manifest import Artifact, ArtifactFormat, Streaming
from mmkd_edge.frames import joined, missing_frames
from mmkd_edge.predict.selftest import follow_recording
from mmkd_export.graph.onnx_graph import mflops_of
from mmkd_export.verify.artifacts import artifact_of
from mmkd_export.verify.parity import answers_from_outputs, compare, require_parity
from mmkd_export.verify.proof_set import ProofSet
from mmkd_report.schema.export import ArtifactParity, StepReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_FEWEST_STEPS = 256
_FEWEST_WINDOWS = 4  # of time tokens: the memory of the first blocks is full then
_MOST_GOLDEN = 16


@dataclass(frozen=True, kw_only=True)
class StepGraph:
    """A step graph that passed its gate."""

    model: bytes
    artifact: Artifact
    report: StepReport


def step_from_checkpoint(checkpoint: StudentCheckpoint, proof_set: ProofSet) -> StepGraph:
    """Makes a causal student's step graph and holds it against the network.

    Raises:
        MmkdError: the exporter failed.
        GateError: the graph does not answer as the network does.
    """
    import onnx

    from mmkd_export.graph.onnx_from_student import onnx_step_from_student

    model = onnx_step_from_student(checkpoint, temperature=proof_set.temperature)
    return prove_step(model, checkpoint, proof_set, format="onnx", mflops=mflops_of(onnx.load_from_string(model)))


def prove_step(
    model: bytes,
    checkpoint: StudentCheckpoint,
    proof_set: ProofSet,
    *,
    format: ArtifactFormat,  # noqa: A002 - the manifest's word
    mflops: float,
) -> StepGraph:
    """Holds a step graph against the network, in the backend of its format.

    Raises:
        GateError: the graph does not answer as the network does.
    """
    from mmkd_export.graph.onnx_from_student import steps_of
    from mmkd_export.verify.torch_answers import answers_along_recording

    facts = steps_of(checkpoint)
    recording = _recording(proof_set, stride=facts.stride)
    expected = answers_along_recording(checkpoint, recording, temperature=proof_set.temperature)
    backend, what = open_steps(backend_for(format), model, threads=1), _named(format)
    try:
        got = answers_from_outputs(follow_recording(backend, facts, recording, proof_set.modality))
        heard = _heard(recording, stride=facts.stride, samples=proof_set.modality.samples)
        parity = compare(expected.rows(heard), got.rows(heard), task=proof_set.task)
        stated = require_parity(parity, tolerance=proof_set.tolerance, what=f"{what}, along a recording")
        windows = _stepped_windows(backend, facts, proof_set)
        require_parity(windows, tolerance=proof_set.tolerance, what=f"{what}, window by window")
    finally:
        backend.close()
    artifact = artifact_of(model, f"{proof_set.modality.name}/step", precision="fp32", format=format, parity=stated)
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
    model: bytes, artifact: Artifact, streaming: Streaming, report: StepReport, proof_set: ProofSet
) -> StepGraph:
    """Gives a step graph of an earlier bundle, held against its golden windows once more.

    One whose backend is not installed here is kept as it is.

    Raises:
        GateError: this machine computes other answers.
    """
    if not is_installed(backend_for(artifact.format)):
        return StepGraph(model=model, artifact=artifact, report=report)
    backend = open_steps(backend_for(artifact.format), model, threads=1)
    try:
        windows = _stepped_windows(backend, streaming, proof_set)
    finally:
        backend.close()
    require_parity(windows, tolerance=proof_set.tolerance, what=f"{_named(artifact.format)} on this machine")
    return StepGraph(model=model, artifact=artifact, report=msgspec.structs.replace(report, parity_of_windows=windows))


def _named(format: ArtifactFormat) -> str:  # noqa: A002 - the manifest's word
    return "fp32 step graph" if format == "onnx" else f"fp32 step .{format}"


def _recording(proof_set: ProofSet, *, stride: int) -> NDArray[Any]:
    """(T, C), of video (T, H, W, C): windows end to end, with and without gaps in turn, as whole blocks."""
    samples = proof_set.modality.samples
    wanted = max(_FEWEST_STEPS * stride, _FEWEST_WINDOWS * samples)
    pieces: list[NDArray[Any]] = []
    number = 0
    while sum(len(piece) for piece in pieces) < wanted:
        index = number // 2 % len(proof_set.real.windows)
        pieces.append((proof_set.gaps if number % 2 else proof_set.real.windows)[index])
        number += 1
    recording = joined(pieces)
    return recording[: len(recording) // stride * stride]


def _heard(recording: NDArray[Any], *, stride: int, samples: int) -> NDArray[np.bool_]:
    """(N,) whether the window that ends with each block has a sample: where none has, logits mean nothing."""
    whole = np.isfinite(recording).any(1) if recording.ndim == 2 else ~missing_frames(recording)
    there = whole.reshape(-1, stride).any(1)
    length = -(-samples // stride)
    counts = np.cumsum(np.concatenate([np.zeros(length, np.int64), there]))
    heard: NDArray[np.bool_] = counts[length:] > counts[:-length]
    return heard


def _stepped_windows(backend: SteppingBackend, streaming: Streaming, proof_set: ProofSet) -> ArtifactParity:
    """Golden windows, each stepped through from the beginning, against the answers for them."""
    windows = proof_set.real.windows[:_MOST_GOLDEN]
    found = [follow_recording(backend, streaming, window, proof_set.modality) for window in windows]
    got = answers_from_outputs([np.stack([one[-1] for one in outputs]) for outputs in zip(*found, strict=True)])
    return compare(proof_set.answers.rows(np.arange(len(windows))), got, task=proof_set.task)
