"""An artifact with the evidence for it: what the manifest and the report say of one model file.

Owns the judgement of one artifact: it is run as a device runs it, and compared with the checkpoint's answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from mmkd_edge.backends.base import Backend, backend_for, open_backend
from mmkd_edge.bundle.manifest import Artifact, ArtifactFormat, BatchRange, Confidence, Parity, Precision
from mmkd_edge.errors import GateError
from mmkd_export.graph.onnx_graph import OPSET
from mmkd_export.judge.batch import require_batches
from mmkd_export.judge.confidence import confidence_of
from mmkd_export.judge.gate import GateFacts, gate_facts, require_gate, require_judging
from mmkd_export.judge.parity import (
    FP32_TOLERANCE,
    Answers,
    ArtifactParity,
    answers_from_backend,
    compare,
    require_parity,
)
from mmkd_export.judge.reference_answers import Evidence
from mmkd_export.plan import ExportPlan
from mmkd_export.report import ArtifactReport, BackendRun, BatchFacts, judged_figures, judged_scores
from mmkd_export.targets.litert import SCHEMA_VERSION
from mmkd_models.evaluate.confidence import confidence_facts
from mmkd_models.metrics.scores import AnyMetric

_SELF_TEST_FACTOR = 2.0
"""Room for another engine's rounding: INT8 and FP16 values on the edge between two steps fall to either side."""


@dataclass(frozen=True, kw_only=True)
class JudgedArtifact:
    """A model file that passed its gate."""

    model: bytes
    artifact: Artifact
    report: ArtifactReport


class RejectedError(GateError):
    """An artifact did not pass its gate.

    Attributes:
        report: what was measured of it.
    """

    def __init__(self, message: str, *, report: ArtifactReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, kw_only=True)
class TaskGate:
    """What the gate for lower precision asks: the metric, and the points of it that may be lost.

    `accept_unjudged` takes an artifact though fewer than `LEAST_JUDGING` windows judge it, and marks it.
    """

    metric: AnyMetric
    max_drop_points: float
    accept_unjudged: bool = False


def task_gate(metric: AnyMetric, plan: ExportPlan) -> TaskGate:
    """The gate that a plan asks for."""
    return TaskGate(metric=metric, max_drop_points=plan.max_drop_points, accept_unjudged=plan.accept_unjudged)


def judge_fp32(
    model: bytes,
    evidence: Evidence,
    *,
    format: ArtifactFormat = "onnx",  # noqa: A002 - the manifest's word
    batch: BatchRange | None = None,
) -> JudgedArtifact:
    """Runs an fp32 artifact over all windows in the backend of its format and compares it with the checkpoint.

    Raises:
        GateError: an answer differs from the checkpoint's by more than `FP32_TOLERANCE`.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend does not run it.
    """
    answered = _answer_all(open_format(model, format), evidence)
    what = "fp32 graph" if format == "onnx" else f"fp32 .{format}"
    proof = require_parity(answered.parity, tolerance=FP32_TOLERANCE, what=what)
    require_parity(answered.gap_parity, tolerance=FP32_TOLERANCE, what=f"{what}, windows with gaps")
    judged = _judged(model, answered, evidence, precision="fp32", proof=proof, format=format)
    return _with_batch(judged, batch, evidence)


def open_format(model: bytes, format: ArtifactFormat) -> Backend:  # noqa: A002 - the manifest's word
    """Opens an artifact in the backend of its format, with one thread."""
    return open_backend(backend_for(format), model, threads=1)


def judge_lower(
    model: bytes,
    evidence: Evidence,
    gate: TaskGate,
    *,
    precision: Precision,
    format: ArtifactFormat = "onnx",  # noqa: A002 - the manifest's word
    batch: BatchRange | None = None,
) -> JudgedArtifact:
    """Runs an artifact of lower precision in the backend of its format; whether it passed is in its report's `gate`.

    Raises:
        GateError: it does not take every batch of the range.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend does not run it.
    """
    answered = _answer_all(open_format(model, format), evidence)
    parity = answered.parity
    proof = Parity(
        windows=parity.windows,
        max_abs_error=parity.logits.max_abs_error,
        mean_abs_error=parity.logits.mean_abs_error,
        label_agreement=parity.label_agreement,
        tolerance=_SELF_TEST_FACTOR * parity.max_abs_error + FP32_TOLERANCE,
    )
    judged = _judged(model, answered, evidence, precision=precision, proof=proof, format=format)
    facts = task_gate_facts(answered.judging, evidence, gate)
    judged = replace(
        judged,
        artifact=msgspec.structs.replace(judged.artifact, unjudged=facts.unjudged),
        report=msgspec.structs.replace(judged.report, gate=facts),
    )
    return _with_batch(judged, batch, evidence) if facts.passed else judged


def _with_batch(judged: JudgedArtifact, batch: BatchRange | None, evidence: Evidence) -> JudgedArtifact:
    """Proves the range, where there is one, and gives the artifact that says so."""
    if batch is None:
        return judged
    precision, tolerance = judged.artifact.precision, judged.artifact.parity.tolerance
    error = require_batches(judged.model, batch, evidence, tolerance=tolerance, what=f"{precision} graph")
    facts = BatchFacts(minimum=batch.minimum, optimum=batch.optimum, maximum=batch.maximum, max_abs_error=error)
    return replace(
        judged,
        artifact=msgspec.structs.replace(judged.artifact, batch=batch),
        report=msgspec.structs.replace(judged.report, batch=facts),
    )


def judge_again(judged: JudgedArtifact, evidence: Evidence, gate: TaskGate) -> JudgedArtifact:
    """Holds an earlier artifact of lower precision to its gate once more; what was tried to make it stays known.

    Raises:
        GateError: it does not pass on these windows, or they are too few.
        BackendError: the backend of its format does not run it.
    """
    before, artifact = judged.report, judged.artifact
    precision, kind = artifact.precision, "graph" if artifact.format == "onnx" else f".{artifact.format}"
    what = f"the earlier {precision} {kind}"
    require_judging(len(evidence.judging.labels), what=what, accept_unjudged=gate.accept_unjudged)
    again = judge_lower(judged.model, evidence, gate, precision=precision, format=artifact.format, batch=artifact.batch)
    assert again.report.gate is not None
    advice = f"Export with another -o, or make it again with --precision {precision}"
    require_gate(again.report.gate, what=what, advice=advice)
    report = msgspec.structs.replace(
        again.report,
        float_layers=before.float_layers,
        attempts=before.attempts,
        sensitivity=before.sensitivity,
        activations=before.activations,
    )
    return replace(again, report=report)


def rescored(judged: JudgedArtifact, evidence: Evidence) -> JudgedArtifact:
    """Gives an artifact with its scores on these judging windows; its parity was proven before."""
    backend = open_format(judged.model, judged.artifact.format)
    try:
        answers = answers_from_backend(backend, evidence.judging.windows, evidence.modality)
        confidence = _calibrate(backend, evidence)
    finally:
        backend.close()
    scores = judged_scores(answers, evidence.judging, evidence.task)
    figures = judged_figures(answers, evidence.judging, evidence.task)
    report = msgspec.structs.replace(judged.report, scores=scores, figures=figures)
    return _with_confidence(replace(judged, report=report), confidence, answers, evidence)


def _calibrate(backend: Backend, evidence: Evidence) -> Confidence | None:
    """Calibrates the confidence of an opened classifier; None for other tasks, and without labelled windows."""
    if evidence.task.kind != "classification":
        return None
    rows = np.flatnonzero(evidence.calibration_labels >= 0)
    if len(rows) == 0:
        return None
    answers = answers_from_backend(backend, evidence.calibration[rows], evidence.modality)
    labels = evidence.calibration_labels[rows]
    return confidence_of(answers.probabilities, labels, temperature=evidence.temperature)


def _with_confidence(
    judged: JudgedArtifact, confidence: Confidence | None, judging: Answers, evidence: Evidence
) -> JudgedArtifact:
    """Gives an artifact its calibration, and what this is worth on the judging windows."""
    facts = None
    if confidence is not None:
        facts = confidence_facts(confidence, judging.logits, judging.probabilities, evidence.judging.labels)
    return replace(
        judged,
        artifact=msgspec.structs.replace(judged.artifact, confidence=confidence),
        report=msgspec.structs.replace(judged.report, confidence=facts),
    )


def task_gate_facts(answers: Answers, evidence: Evidence, gate: TaskGate) -> GateFacts:
    """Holds answers for the judging windows against the checkpoint's."""
    return gate_facts(
        answers,
        evidence.judging,
        metric=gate.metric,
        task=evidence.task,
        max_drop_points=gate.max_drop_points,
    )


def with_backend(
    judged: JudgedArtifact, evidence: Evidence, gate: TaskGate, *, open_backend: Callable[[bytes], Backend]
) -> JudgedArtifact:
    """Runs a judged artifact in another backend as well and holds it to the same gate.

    Raises:
        GateError: it answers otherwise there.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend does not run it.
    """
    backend = open_backend(judged.model)
    answered = _answer_all(backend, evidence)
    what = f"{judged.report.precision} graph in {backend.version}"
    if judged.report.precision == "fp32":
        require_parity(answered.parity, tolerance=FP32_TOLERANCE, what=what)
    else:
        advice = f"Export without --target {backend.name}, or without --precision {judged.report.precision}"
        require_gate(task_gate_facts(answered.judging, evidence, gate), what=what, advice=advice)
    others = tuple(run for run in judged.report.backends if run.backend != backend.name)
    return replace(judged, report=msgspec.structs.replace(judged.report, backends=(*others, answered.run)))


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """What a backend answered for all windows of the evidence."""

    parity: ArtifactParity
    gap_parity: ArtifactParity
    judging: Answers
    confidence: Confidence | None
    run: BackendRun


def _answer_all(backend: Backend, evidence: Evidence) -> _Answered:
    """Runs a backend over all windows and closes it."""
    modality = evidence.modality
    try:
        task, real = evidence.task, evidence.real
        parity = compare(evidence.answers, answers_from_backend(backend, real.windows, modality), task=task)
        return _Answered(
            parity=parity,
            gap_parity=compare(evidence.gap_answers, answers_from_backend(backend, evidence.gaps, modality), task=task),
            judging=answers_from_backend(backend, evidence.judging.windows, modality),
            confidence=_calibrate(backend, evidence),
            run=BackendRun(
                backend=backend.name,
                version=backend.version,
                max_abs_error=parity.max_abs_error,
                label_agreement=parity.label_agreement,
            ),
        )
    finally:
        backend.close()


def _judged(
    model: bytes,
    answered: _Answered,
    evidence: Evidence,
    *,
    precision: Precision,
    proof: Parity,
    format: ArtifactFormat = "onnx",  # noqa: A002 - the manifest's word
) -> JudgedArtifact:
    file = f"{evidence.modality.name}/model.{precision}.{format}"
    opset = OPSET if format == "onnx" else SCHEMA_VERSION
    artifact = Artifact(
        file=file,
        format=format,
        precision=precision,
        opset=opset,
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        parity=proof,
    )
    report = ArtifactReport(
        file=file,
        format=format,
        precision=precision,
        opset=opset,
        size_bytes=len(model),
        parity=answered.parity,
        parity_with_gaps=answered.gap_parity,
        scores=judged_scores(answered.judging, evidence.judging, evidence.task),
        figures=judged_figures(answered.judging, evidence.judging, evidence.task),
        backends=(answered.run,),
    )
    judged = JudgedArtifact(model=model, artifact=artifact, report=report)
    return _with_confidence(judged, answered.confidence, answered.judging, evidence)
