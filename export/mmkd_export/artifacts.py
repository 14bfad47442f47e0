"""An artifact with the evidence for it: what the manifest and the report say of one model file.

Owns the judgement of one artifact: it is run as a device runs it, and compared with the checkpoint's answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.manifest import Artifact, Precision
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph import OPSET
from mmkd_export.parity import Answers, answers_from_backend, compare, require_parity
from mmkd_export.report import ArtifactReport, judged_scores
from mmkd_export.windows import RealWindows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What every artifact of one student is judged by.

    Attributes:
        modality: what the student takes.
        task: what it answers.
        real: recorded windows.
        answers: of the checkpoint for them.
        gaps: copies of the windows that miss samples, (N, T, C).
        gap_answers: of the checkpoint for these.
    """

    modality: ModalitySpec
    task: TaskSpec
    real: RealWindows
    answers: Answers
    gaps: NDArray[np.float32]
    gap_answers: Answers


@dataclass(frozen=True, kw_only=True)
class JudgedArtifact:
    """A model file that passed its gate."""

    model: bytes
    artifact: Artifact
    report: ArtifactReport


def judge_artifact(model: bytes, evidence: Evidence, *, precision: Precision, tolerance: float) -> JudgedArtifact:
    """Runs an ONNX artifact over all windows in onnxruntime and holds it against the checkpoint.

    Raises:
        GateError: an answer differs from the checkpoint's by more than the tolerance.
        BackendError: onnxruntime does not run it.
    """
    modality = evidence.modality
    backend = OrtBackend(model)
    try:
        answers = answers_from_backend(backend, evidence.real.windows, modality)
        gap_answers = answers_from_backend(backend, evidence.gaps, modality)
    finally:
        backend.close()
    parity, gap_parity = compare(evidence.answers, answers), compare(evidence.gap_answers, gap_answers)
    file = f"{modality.name}/model.{precision}.onnx"
    proof = require_parity(parity, tolerance=tolerance, what=f"{precision} graph")
    require_parity(gap_parity, tolerance=tolerance, what=f"{precision} graph, windows with gaps")
    artifact = Artifact(
        file=file,
        format="onnx",
        precision=precision,
        opset=OPSET,
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        parity=proof,
    )
    report = ArtifactReport(
        file=file,
        format="onnx",
        precision=precision,
        opset=OPSET,
        size_bytes=len(model),
        parity=parity,
        parity_with_gaps=gap_parity,
        scores=judged_scores(answers, evidence.real, evidence.task),
    )
    return JudgedArtifact(model=model, artifact=artifact, report=report)
