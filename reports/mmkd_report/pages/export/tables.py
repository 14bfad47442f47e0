"""The tables of the export page: the rows of its artifacts, and the texts of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.documents.confidence import ConfidenceFacts
from mmkd_report.documents.export import ArtifactReport, ExportDocument, GateResult
from mmkd_report.documents.figures import Measure
from mmkd_report.pages.export.answer import backend_name, latency_text, size_text
from mmkd_report.pages.export.charts import precision_role
from mmkd_report.words.formats import NOTHING, count, fixed, is_figure, share
from mmkd_report.words.measures import figure

METHOD_NAMES = {
    "minmax": "largest value",
    "percentile": "99.99th percentile",
    "entropy": "least entropy",
    "learnt": "learnt in training",
}


@dataclass(frozen=True, kw_only=True)
class ArtifactRow:
    """One artifact: `scores` by measure, `latencies` by backend; `verdict` says whether the bundle holds it."""

    role: str
    name: str
    file: str
    size: str
    size_width: float
    scores: tuple[str, ...]
    agreement: str
    latencies: tuple[str, ...]
    verdict: str


def measured_artifacts(export: ExportDocument) -> tuple[tuple[ArtifactReport, str | None], ...]:
    """Every artifact that was measured, with the reason where it was left out."""
    kept: list[tuple[ArtifactReport, str | None]] = [(artifact, None) for artifact in export.report.artifacts]
    return (*kept, *((one.artifact, one.reason) for one in export.report.left_out if one.artifact is not None))


def artifact_rows(export: ExportDocument, backends: tuple[str, ...]) -> tuple[ArtifactRow, ...]:
    """All artifacts, those that were left out last."""
    measured = measured_artifacts(export)
    largest = max(artifact.size_bytes for artifact, _ in measured)
    measures = export.report.told_in
    return tuple(_artifact_row(artifact, reason, measures, backends, largest) for artifact, reason in measured)


def _artifact_row(
    artifact: ArtifactReport,
    reason: str | None,
    measures: Sequence[Measure],
    backends: tuple[str, ...],
    largest: int,
) -> ArtifactRow:
    latencies = {backend_name(run.backend): latency_text(run.latency_us) for run in artifact.backends}
    return ArtifactRow(
        role=precision_role(artifact.precision),
        name=artifact.name,
        file=artifact.file,
        size=size_text(artifact.size_bytes),
        size_width=round(100 * artifact.size_bytes / largest, 1),
        scores=tuple(figure(artifact.score(one.name), one, digits=2) for one in measures),
        agreement=share(artifact.parity.label_agreement),
        latencies=tuple(latencies.get(name, NOTHING) for name in backends),
        verdict=_verdict(artifact.gate, left_out=reason is not None),
    )


def _verdict(gate: GateResult | None, *, left_out: bool) -> str:
    if left_out:
        return "left out" if gate is None or gate.passed else "gate not passed"
    return "in the bundle, unjudged" if gate is not None and gate.unjudged is True else "in the bundle"


def calibration_text(facts: ConfidenceFacts) -> str:
    """What one artifact's probabilities are worth, in a few sentences."""
    before, after = facts.before, facts.after
    return (
        f"Temperature {fixed(facts.temperature, 2)} from {count(facts.calibrated_by)} windows. On "
        f"{count(facts.windows)} others the calibration error is {fixed(before.calibration_error, 3)} without it and "
        f"{fixed(after.calibration_error, 3)} with it, the log loss {fixed(before.log_loss, 3)} and "
        f"{fixed(after.log_loss, 3)}."
    )


def drop_text(gate: GateResult) -> str:
    """The points that an artifact lost, or why they are not known."""
    if not gate.finite:
        return "not numbers"
    return fixed(gate.drop_points, 2) if is_figure(gate.drop_points) else "no labels"


def tried(artifact: ArtifactReport) -> str:
    """What the attempts came to, in a sentence."""
    rows = artifact.attempts
    if not rows[-1].gate.passed:
        return "No remedy passed the gate."
    if len(rows) == 1:
        return "The first attempt passed the gate; no remedy was needed."
    failed = len(rows) - 1
    earlier = "one attempt before it" if failed == 1 else f"{failed} attempts before it"
    return f"“{rows[-1].remedy}” repaired it, on top of the {earlier}."
