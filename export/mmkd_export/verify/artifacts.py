"""An artifact with the proof of it: what the manifest and the report say of one model file.

Owns the judgement of one artifact: it is run as a device runs it, and compared with the checkpoint's answers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from mmkd_edge.backends.base import Backend, backend_for, open_backend
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
from mmkd_export.verify.batch import require_batches
from mmkd_export.verify.confidence import confidence_of
from mmkd_export.verify.gate import NOTHING_WRITTEN, GateRule, answer_scores, gate_result, require_gate, require_windows
from mmkd_export.verify.parity import (
    NOVELTY_TOLERANCE,
    NetworkAnswers,
    answers_from_backend,
    compare,
    require_parity,
    stated_parity,
)
from mmkd_export.verify.proof_set import ProofSet
from mmkd_models.data.labels import is_labelled
from mmkd_models.evaluation.confidence import confidence_facts
from mmkd_models.metrics.measures import measures_of
from mmkd_models.metrics.scores import of_classes
from mmkd_report.schema.export import (
    ArtifactParity,
    ArtifactReport,
    BackendRun,
    BatchFacts,
)
from mmkd_report.schema.figures import ClassScores

_SELF_TEST_FACTOR = 2.0
"""Room for another engine's rounding: INT8 and FP16 values on the edge between two steps fall to either side."""


@dataclass(frozen=True, kw_only=True)
class ProvenArtifact:
    """A model file with what is known of it."""

    model: bytes
    artifact: Artifact
    report: ArtifactReport

    @property
    def name(self) -> str:
        """What messages call it."""
        return file_name(self.artifact.precision, self.artifact.format)


class RejectedError(GateError):
    """An artifact did not pass its gate.

    Attributes:
        report: what was measured of it.
    """

    def __init__(self, message: str, *, report: ArtifactReport) -> None:
        super().__init__(message)
        self.report = report


def file_name(precision: str, file_format: ArtifactFormat) -> str:
    """What messages call a model file: `int8 graph`, `fp32 .tflite`."""
    return f"{precision} graph" if file_format == "onnx" else f"{precision} .{file_format}"


def open_format(model: bytes, file_format: ArtifactFormat) -> Backend:
    """Opens an artifact in the backend that is there for its format, with one thread."""
    return open_backend(backend_for(file_format), model, threads=1)


def prove_fp32(
    model: bytes,
    proof_set: ProofSet,
    *,
    format: ArtifactFormat = "onnx",  # noqa: A002 - the manifest's word
    batch: BatchRange | None = None,
) -> ProvenArtifact:
    """Runs an fp32 artifact over all windows in the backend of its format and holds it against the checkpoint.

    Raises:
        GateError: an answer differs from the checkpoint's by more than the proof set's tolerance.
    """
    answered, what = _answer_all(open_format(model, format), proof_set), file_name("fp32", format)
    stated = require_parity(answered.parity, tolerance=proof_set.tolerance, what=what)
    require_parity(answered.gap_parity, tolerance=proof_set.tolerance, what=f"{what}, windows with gaps")
    proven = _described(model, answered, proof_set, precision="fp32", stated=stated, format=format)
    return _with_batch(proven, batch, proof_set)


def measure_lower_precision(
    model: bytes,
    proof_set: ProofSet,
    rule: GateRule,
    *,
    precision: Precision,
    format: ArtifactFormat = "onnx",  # noqa: A002 - the manifest's word
    batch: BatchRange | None = None,
) -> ProvenArtifact:
    """Runs an artifact of lower precision in the backend of its format; whether it passed is in its report's `gate`.

    Raises:
        GateError: it does not take every batch of the range.
        RejectedError: its answers differ from the checkpoint's by more than a device allows.
    """
    answered = _answer_all(open_format(model, format), proof_set)
    tolerance = _SELF_TEST_FACTOR * answered.parity.max_abs_error + proof_set.tolerance
    stated = stated_parity(answered.parity, tolerance=tolerance)
    proven = _described(model, answered, proof_set, precision=precision, stated=stated, format=format)
    result = gate_result(answered.judging, proof_set.judging, rule, proof_set.task)
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
            f"of {answered.parity.max_abs_error:.3g}{NOTHING_WRITTEN}. Leave this precision out",
            report=proven.report,
        )
    return _with_batch(proven, batch, proof_set)


def require_passed(proven: ProvenArtifact, *, what: str, advice: str) -> ProvenArtifact:
    """The same artifact of lower precision, where it passed its gate.

    Raises:
        RejectedError: it did not; the message has the figures.
    """
    assert proven.report.gate is not None
    try:
        require_gate(proven.report.gate, what=what, advice=advice)
    except GateError as error:
        raise RejectedError(str(error), report=proven.report) from error
    return proven


def _with_batch(proven: ProvenArtifact, batch: BatchRange | None, proof_set: ProofSet) -> ProvenArtifact:
    """Proves the range, where there is one, and gives the artifact that says so."""
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
    """Holds an earlier artifact of lower precision to its gate once more; what was tried to make it stays known.

    Raises:
        GateError: it does not pass on these windows, or they are too few.
    """
    before, artifact, what = proven.report, proven.artifact, f"the earlier {proven.name}"
    require_windows(len(proof_set.judging.labels), what=what, rule=rule)
    again = measure_lower_precision(
        proven.model, proof_set, rule, precision=artifact.precision, format=artifact.format, batch=artifact.batch
    )
    assert again.report.gate is not None
    advice = f"Export with another -o, or make it again with --precision {artifact.precision}"
    require_gate(again.report.gate, what=what, advice=advice)
    report = msgspec.structs.replace(
        again.report,
        float_layers=before.float_layers,
        attempts=before.attempts,
        sensitivity=before.sensitivity,
        activations=before.activations,
    )
    return replace(again, report=report)


def answers_as_before(proven: ProvenArtifact, proof_set: ProofSet) -> ProvenArtifact:
    """The same artifact of lower precision, where it answers the windows that its bundle carries as it did.

    For bundles that carry fewer windows than judged them: that judgement holds.

    Raises:
        GateError: it answers otherwise here.
    """
    backend = open_format(proven.model, proven.artifact.format)
    try:
        answers = answers_from_backend(backend, proof_set.real.windows, proof_set.modality)
    finally:
        backend.close()
    # Novelty of lower precision has scores of its own, which the device's self-test looks at.
    parity = compare(proof_set.answers, replace(answers, novelty=None), task=proof_set.task)
    tolerance = proven.artifact.parity.tolerance
    require_parity(parity, tolerance=tolerance, what=f"the earlier {proven.name} on this machine")
    return proven


def rescored(proven: ProvenArtifact, proof_set: ProofSet) -> ProvenArtifact:
    """Gives an artifact with its scores on these judging windows; its parity was proven before."""
    backend = open_format(proven.model, proven.artifact.format)
    try:
        answers = answers_from_backend(backend, proof_set.judging.windows, proof_set.modality)
        return _with_scores(proven, answers, _calibrated(backend, proof_set), proof_set)
    finally:
        backend.close()


def _calibrated(backend: Backend, proof_set: ProofSet) -> Confidence | None:
    """Calibrates the confidence of an opened classifier; None for other tasks, and without labelled windows."""
    if proof_set.task.kind != "classification":
        return None
    rows = np.flatnonzero(proof_set.calibration_labels >= 0)
    if len(rows) == 0:
        return None
    answers = answers_from_backend(backend, proof_set.calibration[rows], proof_set.modality)
    labels = proof_set.calibration_labels[rows]
    return confidence_of(answers.probabilities, labels, temperature=proof_set.temperature)


def _with_scores(
    proven: ProvenArtifact, answers: NetworkAnswers, confidence: Confidence | None, proof_set: ProofSet
) -> ProvenArtifact:
    """Gives an artifact its calibration, and what its answers for the judging windows are worth."""
    task, labels = proof_set.task, proof_set.judging.labels
    scores: ClassScores | None = None
    figures: dict[str, float | None] | msgspec.UnsetType = msgspec.UNSET
    rows = np.flatnonzero(is_labelled(labels))
    if len(rows):
        found = answer_scores(answers, labels[rows], rows, task)
        if task.kind == "classification":
            of = of_classes(found)
            scores = ClassScores(accuracy=of.accuracy, balanced_accuracy=of.balanced_accuracy, macro_f1=of.macro_f1)
        else:
            figures = {measure.name: found.metric(measure.name) for measure in measures_of(task)}
    facts = None
    if confidence is not None:
        facts = confidence_facts(confidence, answers.logits, answers.probabilities, labels)
    return replace(
        proven,
        artifact=msgspec.structs.replace(proven.artifact, confidence=confidence),
        report=msgspec.structs.replace(proven.report, scores=scores, figures=figures, confidence=facts),
    )


def proven_in(proven: ProvenArtifact, backend: Backend, proof_set: ProofSet, rule: GateRule) -> ProvenArtifact:
    """Runs an artifact in another backend as well, closes it, and holds the artifact to the same gate.

    Raises:
        GateError: it answers otherwise there.
    """
    answered = _answer_all(backend, proof_set)
    precision, what = proven.report.precision, f"{proven.name} in {backend.version}"
    if precision == "fp32":
        require_parity(answered.parity, tolerance=proof_set.tolerance, what=what)
    else:
        result = gate_result(answered.judging, proof_set.judging, rule, proof_set.task)
        advice = f"Export without --target {backend.name}, or without --precision {precision}"
        require_gate(result, what=what, advice=advice)
    others = tuple(run for run in proven.report.backends if run.backend != backend.name)
    return replace(proven, report=msgspec.structs.replace(proven.report, backends=(*others, answered.run)))


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """What a backend answered for all windows of the proof set."""

    parity: ArtifactParity
    gap_parity: ArtifactParity
    judging: NetworkAnswers
    confidence: Confidence | None
    novelty: tuple[float, ...]
    run: BackendRun


def _answer_all(backend: Backend, proof_set: ProofSet) -> _Answered:
    """Runs a backend over all windows and closes it."""
    modality, task = proof_set.modality, proof_set.task
    try:
        got, with_gaps, judging = (
            answers_from_backend(backend, windows, modality)
            for windows in (proof_set.real.windows, proof_set.gaps, proof_set.judging.windows)
        )
        parity = compare(proof_set.answers, got, task=task)
        return _Answered(
            parity=parity,
            gap_parity=compare(proof_set.gap_answers, with_gaps, task=task),
            judging=judging,
            confidence=_calibrated(backend, proof_set),
            novelty=_novelty_scores(backend, got, proof_set),
            run=BackendRun(
                backend=backend.name,
                version=backend.version,
                max_abs_error=parity.max_abs_error,
                label_agreement=parity.label_agreement,
            ),
        )
    finally:
        backend.close()


def _novelty_scores(backend: Backend, got: NetworkAnswers, proof_set: ProofSet) -> tuple[float, ...]:
    """Scores of recorded windows, rising: of those that were answered already, where they are recorded."""
    if got.novelty is None or len(proof_set.recorded) == 0:
        return ()
    answers = answers_from_backend(backend, proof_set.recorded, proof_set.modality) if proof_set.real.synthetic else got
    assert answers.novelty is not None
    return tuple(np.sort(answers.novelty[:MOST_NOVELTY_WINDOWS, 0].astype(np.float64)).tolist())


def _novelty(answered: _Answered, proof_set: ProofSet, *, precision: Precision) -> Novelty | msgspec.UnsetType:
    """What an artifact's novelty is worth: in fp32 by the validation's scores, else by its own."""
    parity = answered.parity.novelty
    scores = proof_set.novelty_scores if precision == "fp32" else answered.novelty
    if parity is msgspec.UNSET or not scores or not math.isfinite(parity.max_error):
        return msgspec.UNSET
    found = parity.max_error if precision != "fp32" else 0.0
    tolerance = _SELF_TEST_FACTOR * found + NOVELTY_TOLERANCE
    if tolerance > MOST_TOLERANCE[precision]:
        return msgspec.UNSET
    return Novelty(scores=scores, max_error=parity.max_error, tolerance=tolerance)


def artifact_of(model: bytes, file: str, *, precision: Precision, format: ArtifactFormat, parity: Parity) -> Artifact:  # noqa: A002 - the manifest's word
    """What the manifest says of a model file."""
    return Artifact(
        file=f"{file}.{precision}.{format}",
        format=format,
        precision=precision,
        opset=FORMAT_VERSIONS[format],
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        parity=parity,
    )


def _described(
    model: bytes,
    answered: _Answered,
    proof_set: ProofSet,
    *,
    precision: Precision,
    stated: Parity,
    format: ArtifactFormat,  # noqa: A002 - the manifest's word
) -> ProvenArtifact:
    file = f"{proof_set.modality.name}/model"
    artifact = artifact_of(model, file, precision=precision, format=format, parity=stated)
    artifact = msgspec.structs.replace(artifact, novelty=_novelty(answered, proof_set, precision=precision))
    report = ArtifactReport(
        file=artifact.file,
        format=format,
        precision=precision,
        opset=artifact.opset,
        size_bytes=artifact.size_bytes,
        parity=answered.parity,
        parity_with_gaps=answered.gap_parity,
        scores=None,
        backends=(answered.run,),
    )
    proven = ProvenArtifact(model=model, artifact=artifact, report=report)
    return _with_scores(proven, answered.judging, answered.confidence, proof_set)
