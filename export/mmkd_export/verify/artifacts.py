"""Run a model file, compare it with the checkpoint, describe it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_documents.export import ArtifactParity, ArtifactReport
from mmkd_documents.figures import ClassScores
from mmkd_edge.backends.base import Backend
from mmkd_edge.bundle.golden import same_answers
from mmkd_edge.bundle.manifest import (
    MAX_CONFIDENCE_WINDOWS,
    MAX_NOVELTY_WINDOWS,
    MAX_TOLERANCE,
    Artifact,
    ArtifactFormat,
    Confidence,
    Novelty,
    Parity,
    Precision,
)
from mmkd_edge.errors import GateError
from mmkd_export.graph.onnx_graph import FORMAT_VERSIONS
from mmkd_export.verify.answers import (
    NOVELTY_TOLERANCE,
    NetworkAnswers,
    answers_from_backend,
    compare,
    manifest_parity,
    open_format,
    require_agreement,
    require_parity,
)
from mmkd_export.verify.gate import NOTHING_WRITTEN, answer_scores, gate_result, gate_summary
from mmkd_export.verify.proof_set import ProofSet
from mmkd_models.data.labels import is_labelled
from mmkd_models.evaluation.confidence import confidence_facts
from mmkd_models.metrics.scores import known_score, measures_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


_CONFIDENCE_DIGITS = 1e7

# Room for other engines' rounding of INT8 and FP16 values between two steps
_SELF_TEST_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class ProvenArtifact:
    """A model file with its manifest and report entries."""

    model: bytes
    artifact: Artifact
    report: ArtifactReport

    @property
    def name(self) -> str:
        """`int8 graph`, `fp32 .tflite`."""
        kind = "graph" if self.artifact.format == "onnx" else f".{self.artifact.format}"
        return f"{self.artifact.precision} {kind}"


class RejectedError(GateError):
    """An artifact failed its gate; `report` has the measurements."""

    def __init__(self, message: str, *, report: ArtifactReport) -> None:
        super().__init__(message)
        self.report = report


def prove_fp32(model: bytes, proof_set: ProofSet, *, file_format: ArtifactFormat = "onnx") -> ProvenArtifact:
    """Compare with the checkpoint; raise GateError if out of tolerance."""
    proven = _judge(model, proof_set, precision="fp32", file_format=file_format)
    parity = proven.report.parity
    require_parity(parity, tolerance=proof_set.tolerance, what=proven.name)
    require_agreement(parity.label_agreement, what=proven.name)
    gaps = proven.report.parity_with_gaps
    require_parity(gaps, tolerance=proof_set.tolerance, what=f"{proven.name}, windows with gaps")
    return proven


def prove_lower_precision(
    model: bytes, proof_set: ProofSet, *, precision: Precision, file_format: ArtifactFormat = "onnx"
) -> ProvenArtifact:
    """Judge an artifact, in its report's `gate`. Raise RejectedError if answers differ by more than devices allow."""
    proven = _judge(model, proof_set, precision=precision, file_format=file_format)
    most, error = MAX_TOLERANCE[precision], proven.report.parity.max_abs_error
    if proven.report.gate and proven.report.gate.passed and proven.artifact.parity.tolerance > most:
        raise RejectedError(
            f"{proven.name}: expected logits within {most / _SELF_TEST_FACTOR:g} of the checkpoint's, got a difference "
            f"of {error:.3g}{NOTHING_WRITTEN}. Leave this precision out",
            report=proven.report,
        )
    return proven


def require_passed(proven: ProvenArtifact, *, advice: str) -> ProvenArtifact:
    """Return a passed artifact, else raise RejectedError with the figures."""
    gate = proven.report.gate
    assert gate is not None
    if not gate.passed:
        raise RejectedError(f"{proven.name}: {gate_summary(gate)}{NOTHING_WRITTEN}. {advice}", report=proven.report)
    return proven


def _judge(model: bytes, proof_set: ProofSet, *, precision: Precision, file_format: ArtifactFormat) -> ProvenArtifact:
    modality, task, recorded = proof_set.modality, proof_set.task, proof_set.recorded
    with open_format(model, file_format) as backend:
        answers, with_gaps, judging = (
            answers_from_backend(backend, windows, modality)
            for windows in (proof_set.real.windows, proof_set.gaps, proof_set.judging.windows)
        )
        novelty = answers.novelty
        if novelty is not None and proof_set.real.synthetic and len(recorded):
            novelty = answers_from_backend(backend, recorded, modality).novelty
        confidence = _calibrate(backend, proof_set)
    parity = compare(proof_set.answers.rows(proof_set.clear), answers.rows(proof_set.clear), task=task)
    same = same_answers(task, proof_set.answers.logits, answers.logits)  # of all windows, clear or not
    parity = msgspec.structs.replace(parity, label_agreement=float(same.mean()))
    is_fp32, tolerance = precision == "fp32", proof_set.tolerance
    if not is_fp32:
        tolerance += _SELF_TEST_FACTOR * parity.max_abs_error
    gate = None if is_fp32 else gate_result(judging, proof_set.judging, proof_set.rule, task)
    scores = proof_set.novelty_scores
    if not is_fp32:
        own: NDArray[np.float32] = np.zeros((0, 1), np.float32) if novelty is None or not len(recorded) else novelty
        scores = tuple(np.sort(own[:MAX_NOVELTY_WINDOWS, 0].astype(np.float64)).tolist())
    artifact = describe_artifact(
        model,
        f"{proof_set.name or modality.name}/model",
        precision=precision,
        file_format=file_format,
        parity=manifest_parity(parity, tolerance=tolerance),
    )
    artifact = msgspec.structs.replace(
        artifact,
        novelty=_novelty(parity, scores, precision=precision),
        confidence=confidence,
        unjudged=None if gate is None else gate.unjudged,
    )
    class_scores, figures = _score(judging, proof_set)
    labels = proof_set.judging.labels
    report = ArtifactReport(
        file=artifact.file,
        format=file_format,
        precision=precision,
        opset=artifact.opset,
        size_bytes=artifact.size_bytes,
        parity=parity,
        parity_with_gaps=compare(proof_set.gap_answers, with_gaps, task=task),
        scores=class_scores,
        figures=figures,
        gate=gate,
        confidence=None
        if confidence is None
        else confidence_facts(confidence, judging.logits, judging.probabilities, labels),
        backend=backend.version,
    )
    return ProvenArtifact(model=model, artifact=artifact, report=report)


def _calibrate(backend: Backend, proof_set: ProofSet) -> Confidence | None:
    rows = np.flatnonzero(proof_set.calibration_labels >= 0) if proof_set.task.kind == "classification" else ()
    if len(rows) == 0:
        return None
    answers = answers_from_backend(backend, proof_set.calibration[rows], proof_set.modality)
    labels = proof_set.calibration_labels[rows]
    return fit_confidence(answers.probabilities, labels, temperature=proof_set.temperature)


def _score(answers: NetworkAnswers, proof_set: ProofSet) -> tuple[ClassScores | None, dict[str, float | None] | None]:
    task, labels = proof_set.task, proof_set.judging.labels
    rows = np.flatnonzero(is_labelled(labels))
    if len(rows) == 0:
        return None, None
    measured = answer_scores(answers, labels[rows], rows, task)
    if task.kind != "classification":
        names = [measure.name for measure in measures_of(task)]
        return None, {name: known_score(name, measured.metric(name)) for name in names}
    return msgspec.convert(measured, ClassScores, from_attributes=True), None


def describe_artifact(
    model: bytes, file: str, *, precision: Precision, file_format: ArtifactFormat, parity: Parity
) -> Artifact:
    """Return the manifest's entry."""
    return Artifact(
        file=f"{file}.{precision}.{file_format}",
        format=file_format,
        precision=precision,
        opset=FORMAT_VERSIONS[file_format],
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        parity=parity,
    )


def _novelty(parity: ArtifactParity, scores: tuple[float, ...], *, precision: Precision) -> Novelty | None:
    novelty = parity.novelty
    if novelty is None or not scores or not math.isfinite(novelty.max_error):
        return None
    error = 0.0 if precision == "fp32" else novelty.max_error
    tolerance = _SELF_TEST_FACTOR * error + NOVELTY_TOLERANCE
    if tolerance > MAX_TOLERANCE[precision]:
        return None
    return Novelty(scores=scores, max_error=novelty.max_error, tolerance=tolerance)


def fit_confidence(probabilities: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float) -> Confidence:
    """Return the probabilities (N, K) of true labels (N,), all known."""
    rows = np.arange(min(len(labels), MAX_CONFIDENCE_WINDOWS))
    true = np.sort(probabilities[rows, labels[rows]].astype(np.float64))
    rounded = (
        np.floor(np.clip(true, 0.0, 1.0) * _CONFIDENCE_DIGITS) / _CONFIDENCE_DIGITS
    )  # downwards: a set may only become larger
    return Confidence(temperature=temperature, true_probabilities=tuple(rounded.tolist()))
