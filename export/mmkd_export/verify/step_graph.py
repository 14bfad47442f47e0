"""Step graphs of causal students, compared with a pass over a recording and with windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_documents.export import StepReport
from mmkd_edge.bundle.manifest import Artifact, ArtifactFormat
from mmkd_edge.frames import join_samples, missing_frames
from mmkd_edge.opening.selftest import follow_recording
from mmkd_export.graph.onnx_graph import count_mflops
from mmkd_export.verify.answers import (
    NetworkAnswers,
    answers_along_recording,
    compare,
    manifest_parity,
    open_format,
    require_parity,
)
from mmkd_export.verify.artifacts import describe_artifact
from mmkd_export.verify.proof_set import ProofSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_MIN_STEPS = 256
_MIN_WINDOWS = 4  # time tokens fill the first blocks' memory
_MAX_GOLDEN = 16


@dataclass(frozen=True, kw_only=True)
class StepGraph:
    """A step graph that passed its gate."""

    model: bytes
    artifact: Artifact
    report: StepReport


def step_from_checkpoint(checkpoint: StudentCheckpoint, proof_set: ProofSet) -> StepGraph:
    """Make a step graph; errors as `onnx_from_student` and `prove_step`."""
    import onnx

    from mmkd_export.graph.onnx_from_student import onnx_step_from_student

    model = onnx_step_from_student(checkpoint, temperature=proof_set.temperature)
    mflops = count_mflops(onnx.load_from_string(model))
    return prove_step(model, checkpoint, proof_set, file_format="onnx", mflops=mflops)


def prove_step(
    model: bytes, checkpoint: StudentCheckpoint, proof_set: ProofSet, *, file_format: ArtifactFormat, mflops: float
) -> StepGraph:
    """Compare a step graph with the network; raise GateError if they differ."""
    from mmkd_export.graph.onnx_from_student import describe_steps

    facts = describe_steps(checkpoint)
    recording = _join_recording(proof_set, stride=facts.stride)
    expected = answers_along_recording(checkpoint, recording, temperature=proof_set.temperature)
    what = "fp32 step graph" if file_format == "onnx" else f"fp32 step .{file_format}"
    with open_format(model, file_format, steps=True) as backend:
        got = NetworkAnswers(*follow_recording(backend, facts, recording, proof_set.modality))
        present = _blocks_with_samples(recording, stride=facts.stride, samples=proof_set.modality.samples)
        parity = compare(expected.rows(present), got.rows(present), task=proof_set.task)
        require_parity(parity, tolerance=proof_set.tolerance, what=f"{what}, along a recording")
        runs = [
            follow_recording(backend, facts, window, proof_set.modality)
            for window in proof_set.real.windows[:_MAX_GOLDEN]
        ]
        got = NetworkAnswers(*(np.stack([output[-1] for output in outputs]) for outputs in zip(*runs, strict=True)))
        windows = compare(proof_set.answers.rows(np.arange(len(runs))), got, task=proof_set.task)
        require_parity(windows, tolerance=proof_set.tolerance, what=f"{what}, window by window")
    file = f"{proof_set.modality.name}/step"
    stated = manifest_parity(parity, tolerance=proof_set.tolerance)
    artifact = describe_artifact(model, file, precision="fp32", file_format=file_format, parity=stated)
    report = StepReport(
        file=artifact.file,
        size_bytes=len(model),
        stride=facts.stride,
        steps=parity.windows,
        parity=parity,
        parity_of_windows=windows,
        mflops=mflops,
    )
    return StepGraph(model=model, artifact=artifact, report=report)


def _join_recording(proof_set: ProofSet, *, stride: int) -> NDArray[Any]:
    samples, real = proof_set.modality.samples, proof_set.real.windows
    count = -(-max(_MIN_STEPS * stride, _MIN_WINDOWS * samples) // samples)
    pieces = [(proof_set.gaps if number % 2 else real)[number // 2 % len(real)] for number in range(count)]
    recording = join_samples(pieces)
    return recording[: len(recording) // stride * stride]


def _blocks_with_samples(recording: NDArray[Any], *, stride: int, samples: int) -> NDArray[np.bool_]:
    whole = np.isfinite(recording).any(1) if recording.ndim == 2 else ~missing_frames(recording)
    blocks = whole.reshape(-1, stride).any(1)
    length = -(-samples // stride)
    counts = np.cumsum(np.concatenate([np.zeros(length, np.int64), blocks]))
    return np.asarray(counts[length:] > counts[:-length])
