"""The judgement of one model file: run as a device runs it, compared with the checkpoint's answers, described."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from mmkd_edge.backends.base import Backend
from mmkd_edge.bundle.manifest import (
    MOST_NOVELTY_WINDOWS,
    MOST_TOLERANCE,
    Artifact,
    ArtifactFormat,
    BatchRange,
    Confidence,
    Novelty,
    Parity,
    Precision,
)
from mmkd_edge.errors import GateError
from mmkd_export.graph.onnx_graph import FORMAT_VERSIONS
from mmkd_export.verify.answers import NetworkAnswers, answers_from_backend, answers_from_model, open_format
from mmkd_export.verify.batch import require_batches
from mmkd_export.verify.confidence import fit_confidence
from mmkd_export.verify.gate import NOTHING_WRITTEN, GateRule, answer_scores, gate_result, require_gate, require_windows
from mmkd_export.verify.parity import NOVELTY_TOLERANCE, compare, manifest_parity, require_parity
from mmkd_export.verify.proof_set import ProofSet
from mmkd_models.data.labels import is_labelled
from mmkd_models.evaluation.confidence import confidence_facts
from mmkd_models.metrics.measures import measures_of
from mmkd_models.metrics.scores import of_classes
from mmkd_report.schema.export import ArtifactParity, ArtifactReport, BackendRun, BatchFacts
from mmkd_report.schema.figures import ClassScores

_SELF_TEST_FACTOR = 2.0
"""Room for another engine's rounding: INT8 and FP16 values on the edge between two steps fall to either side."""


@dataclass(frozen=True, kw_only=True)
class ProvenArtifact:
    """A model file with its entry in the manifest and in the report."""

    model: bytes
    artifact: Artifact
    report: ArtifactReport

    @property
    def name(self) -> str:
        """`int8 graph`, `fp32 .tflite`: its name in messages."""
        return file_name(self.artifact.precision, self.artifact.format)


class RejectedError(GateError):
    """An artifact did not pass its gate; `report` has what was measured."""

    def __init__(self, message: str, *, report: ArtifactReport) -> None:
        super().__init__(message)
        self.report = report


def file_name(precision: str, file_format: ArtifactFormat) -> str:
    """Name a model file in messages: `int8 graph`, `fp32 .tflite`."""
    return f"{precision} graph" if file_format == "onnx" else f"{precision} .{file_format}"


def prove_fp32(
    model: bytes, proof_set: ProofSet, *, file_format: ArtifactFormat = "onnx", batch: BatchRange | None = None
) -> ProvenArtifact:
    """Run an fp32 artifact over all windows in the backend of its format and compare it with the checkpoint.

    Raises:
        GateError: an answer differs by more than the proof set's tolerance.
    """
    run, what = _run_all(open_format(model, file_format), proof_set), file_name("fp32", file_format)
    parity = require_parity(run.parity, tolerance=proof_set.tolerance, what=what)
    require_parity(run.gap_parity, tolerance=proof_set.tolerance, what=f"{what}, windows with gaps")
    proven = _describe(model, run, proof_set, precision="fp32", parity=parity, file_format=file_format)
    return _add_batch(proven, batch, proof_set)


def measure_lower_precision(
    model: bytes,
    proof_set: ProofSet,
    rule: GateRule,
    *,
    precision: Precision,
    file_format: ArtifactFormat = "onnx",
    batch: BatchRange | None = None,
) -> ProvenArtifact:
    """Run an artifact of lower precision in the backend of its format; its report's `gate` has the verdict.

    Raises:
        GateError: it does not take every batch of the range.
        RejectedError: its answers differ from the checkpoint's by more than a device allows.
    """
    run = _run_all(open_format(model, file_format), proof_set)
    tolerance = _SELF_TEST_FACTOR * run.parity.max_abs_error + proof_set.tolerance
    parity = manifest_parity(run.parity, tolerance=tolerance)
    proven = _describe(model, run, proof_set, precision=precision, parity=parity, file_format=file_format)
    result = gate_result(run.judging, proof_set.judging, rule, proof_set.task)
    proven = replace(
        proven,
        artifact=msgspec.structs.replace(proven.artifact, unjudged=result.unjudged),
        report=msgspec.structs.replace(proven.report, gate=result),
    )
    if not result.passed:
        return proven
    most = MOST_TOLERANCE[precision]
    if tolerance > most:
        raise RejectedError(
            f"{proven.name}: expected logits within {most / _SELF_TEST_FACTOR:g} of the checkpoint's, got a difference "
            f"of {run.parity.max_abs_error:.3g}{NOTHING_WRITTEN}. Leave this precision out",
            report=proven.report,
        )
    return _add_batch(proven, batch, proof_set)


def require_passed(proven: ProvenArtifact, *, advice: str) -> ProvenArtifact:
    """Return an artifact of lower precision that passed its gate.

    Raises:
        RejectedError: it did not; the message has the figures.
    """
    assert proven.report.gate is not None
    try:
        require_gate(proven.report.gate, what=proven.name, advice=advice)
    except GateError as error:
        raise RejectedError(str(error), report=proven.report) from error
    return proven


def _add_batch(proven: ProvenArtifact, batch: BatchRange | None, proof_set: ProofSet) -> ProvenArtifact:
    """Run every size of the range, if there is one, and add it to the artifact."""
    if batch is None:
        return proven
    tolerance = proven.artifact.parity.tolerance
    error = require_batches(proven.model, batch, proof_set, tolerance=tolerance, what=proven.name)
    facts = BatchFacts(minimum=batch.minimum, optimum=batch.optimum, maximum=batch.maximum, max_abs_error=error)
    return replace(
        proven,
        artifact=msgspec.structs.replace(proven.artifact, batch=batch),
        report=msgspec.structs.replace(proven.report, batch=facts),
    )


def prove_again(proven: ProvenArtifact, proof_set: ProofSet, rule: GateRule) -> ProvenArtifact:
    """Judge an earlier artifact of lower precision once more; its attempts stay in the report.

    Raises:
        GateError: it does not pass on these windows, or they are too few.
    """
    artifact, what = proven.artifact, f"the earlier {proven.name}"
    require_windows(len(proof_set.judging.labels), what=what, rule=rule)
    again = measure_lower_precision(
        proven.model, proof_set, rule, precision=artifact.precision, file_format=artifact.format, batch=artifact.batch
    )
    assert again.report.gate is not None
    advice = f"Export with another -o, or make it again with --precision {artifact.precision}"
    require_gate(again.report.gate, what=what, advice=advice)
    kept = ("float_layers", "attempts", "sensitivity", "activations")
    return replace(
        again, report=msgspec.structs.replace(again.report, **{name: getattr(proven.report, name) for name in kept})
    )


def check_stored(proven: ProvenArtifact, proof_set: ProofSet) -> ProvenArtifact:
    """Return an earlier artifact that answers the windows of its bundle as the manifest says.

    For bundles that carry fewer windows than judged them: that judgement stays valid.

    Raises:
        GateError: it answers differently here.
    """
    answers = answers_from_model(
        proven.model, proof_set.real.windows, proof_set.modality, file_format=proven.artifact.format
    )
    # Novelty of lower precision has scores of its own, which the device's self-test looks at.
    parity = compare(proof_set.answers, replace(answers, novelty=None), task=proof_set.task)
    tolerance = proven.artifact.parity.tolerance
    require_parity(parity, tolerance=tolerance, what=f"the earlier {proven.name} on this machine")
    return proven


def rescore(proven: ProvenArtifact, proof_set: ProofSet) -> ProvenArtifact:
    """Score an artifact, whose parity was proven before, on these judging windows."""
    backend = open_format(proven.model, proven.artifact.format)
    try:
        answers = answers_from_backend(backend, proof_set.judging.windows, proof_set.modality)
        return _add_scores(proven, answers, _calibrate(backend, proof_set), proof_set)
    finally:
        backend.close()


def prove_in(proven: ProvenArtifact, backend: Backend, proof_set: ProofSet, rule: GateRule) -> ProvenArtifact:
    """Run an artifact in another backend as well, close it, and apply the same gate.

    Raises:
        GateError: it answers differently there.
    """
    run = _run_all(backend, proof_set)
    precision, what = proven.report.precision, f"{proven.name} in {backend.version}"
    if precision == "fp32":
        require_parity(run.parity, tolerance=proof_set.tolerance, what=what)
    else:
        result = gate_result(run.judging, proof_set.judging, rule, proof_set.task)
        advice = f"Export without --target {backend.name}, or without --precision {precision}"
        require_gate(result, what=what, advice=advice)
    others = tuple(other for other in proven.report.backends if other.backend != backend.name)
    return replace(proven, report=msgspec.structs.replace(proven.report, backends=(*others, run.facts)))


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The answers of a backend for all windows of the proof set; `novelty` are scores of recorded windows, rising."""

    parity: ArtifactParity
    gap_parity: ArtifactParity
    judging: NetworkAnswers
    confidence: Confidence | None
    novelty: tuple[float, ...]
    facts: BackendRun


def _run_all(backend: Backend, proof_set: ProofSet) -> _Run:
    """Run a backend over all windows and close it."""
    modality, task, recorded = proof_set.modality, proof_set.task, proof_set.recorded
    try:
        got, with_gaps, judging = (
            answers_from_backend(backend, windows, modality)
            for windows in (proof_set.real.windows, proof_set.gaps, proof_set.judging.windows)
        )
        scores: tuple[float, ...] = ()
        if got.novelty is not None and len(recorded):
            answers = answers_from_backend(backend, recorded, modality) if proof_set.real.synthetic else got
            assert answers.novelty is not None
            scores = tuple(np.sort(answers.novelty[:MOST_NOVELTY_WINDOWS, 0].astype(np.float64)).tolist())
        parity = compare(proof_set.answers, got, task=task)
        return _Run(
            parity=parity,
            gap_parity=compare(proof_set.gap_answers, with_gaps, task=task),
            judging=judging,
            confidence=_calibrate(backend, proof_set),
            novelty=scores,
            facts=BackendRun(
                backend=backend.name,
                version=backend.version,
                max_abs_error=parity.max_abs_error,
                label_agreement=parity.label_agreement,
            ),
        )
    finally:
        backend.close()


def _calibrate(backend: Backend, proof_set: ProofSet) -> Confidence | None:
    """Calibrate the confidence of an opened classifier; None for other tasks, and without labelled windows."""
    rows = np.flatnonzero(proof_set.calibration_labels >= 0) if proof_set.task.kind == "classification" else ()
    if len(rows) == 0:
        return None
    answers = answers_from_backend(backend, proof_set.calibration[rows], proof_set.modality)
    labels = proof_set.calibration_labels[rows]
    return fit_confidence(answers.probabilities, labels, temperature=proof_set.temperature)


def _add_scores(
    proven: ProvenArtifact, answers: NetworkAnswers, confidence: Confidence | None, proof_set: ProofSet
) -> ProvenArtifact:
    """Add an artifact's calibration, and the scores of its answers for the judging windows."""
    task, labels = proof_set.task, proof_set.judging.labels
    scores: ClassScores | None = None
    figures: dict[str, float | None] | msgspec.UnsetType = msgspec.UNSET
    rows = np.flatnonzero(is_labelled(labels))
    if len(rows):
        measured = answer_scores(answers, labels[rows], rows, task)
        if task.kind == "classification":
            of = of_classes(measured)
            scores = ClassScores(accuracy=of.accuracy, balanced_accuracy=of.balanced_accuracy, macro_f1=of.macro_f1)
        else:
            figures = {measure.name: measured.metric(measure.name) for measure in measures_of(task)}
    facts = None
    if confidence is not None:
        facts = confidence_facts(confidence, answers.logits, answers.probabilities, labels)
    return replace(
        proven,
        artifact=msgspec.structs.replace(proven.artifact, confidence=confidence),
        report=msgspec.structs.replace(proven.report, scores=scores, figures=figures, confidence=facts),
    )


def describe_artifact(
    model: bytes, file: str, *, precision: Precision, file_format: ArtifactFormat, parity: Parity
) -> Artifact:
    """Describe a model file for the manifest."""
    return Artifact(
        file=f"{file}.{precision}.{file_format}",
        format=file_format,
        precision=precision,
        opset=FORMAT_VERSIONS[file_format],
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        parity=parity,
    )


def _describe(
    model: bytes, run: _Run, proof_set: ProofSet, *, precision: Precision, parity: Parity, file_format: ArtifactFormat
) -> ProvenArtifact:
    file = f"{proof_set.modality.name}/model"
    artifact = describe_artifact(model, file, precision=precision, file_format=file_format, parity=parity)
    artifact = msgspec.structs.replace(artifact, novelty=_novelty(run, proof_set, precision=precision))
    report = ArtifactReport(
        file=artifact.file,
        format=file_format,
        precision=precision,
        opset=artifact.opset,
        size_bytes=artifact.size_bytes,
        parity=run.parity,
        parity_with_gaps=run.gap_parity,
        scores=None,
        backends=(run.facts,),
    )
    proven = ProvenArtifact(model=model, artifact=artifact, report=report)
    return _add_scores(proven, run.judging, run.confidence, proof_set)


def _novelty(run: _Run, proof_set: ProofSet, *, precision: Precision) -> Novelty | msgspec.UnsetType:
    """Return the reference scores of an artifact's novelty: the validation's for fp32, else its own."""
    parity = run.parity.novelty
    scores = proof_set.novelty_scores if precision == "fp32" else run.novelty
    if parity is msgspec.UNSET or not scores or not math.isfinite(parity.max_error):
        return msgspec.UNSET
    error = 0.0 if precision == "fp32" else parity.max_error
    tolerance = _SELF_TEST_FACTOR * error + NOVELTY_TOLERANCE
    if tolerance > MOST_TOLERANCE[precision]:
        return msgspec.UNSET
    return Novelty(scores=scores, max_error=parity.max_error, tolerance=tolerance)
