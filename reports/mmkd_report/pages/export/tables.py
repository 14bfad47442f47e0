"""The tables of the export page: artifacts, parity, gates and attempts, as written rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmkd_report.documents.confidence import ConfidenceFacts, Coverage
from mmkd_report.documents.export import ArtifactReport, ExportDocument, GateResult
from mmkd_report.pages.export.answer import backend_name, error_text, latency_text, size_text
from mmkd_report.pages.export.charts import precision_role
from mmkd_report.words.formats import NOTHING, count, fixed, is_figure, percent, share
from mmkd_report.words.measures import Measure, figure

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


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One output of one artifact, against the checkpoint; `windows` says on which."""

    role: str
    artifact: str
    windows: str
    tensor: str
    largest: str
    mean: str
    cosine: str


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One artifact in one backend, against the checkpoint."""

    artifact: str
    role: str
    version: str
    largest: str
    agreement: str
    latency: str


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate: what was lost and what may be."""

    role: str
    name: str
    drop: str
    allowed: str
    agreement: str
    least: str
    windows: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One way to quantise that was tried."""

    remedy: str
    ranges: str
    layers: str
    drop: str
    agreement: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """What label sets do at one error level."""

    level: str
    coverage: str
    interval: str
    size: str
    single: str
    right: str


@dataclass(frozen=True, kw_only=True)
class ConfidenceTable:
    """What one artifact's confidence is worth: a sentence on its probabilities, and a row for each error level."""

    role: str
    name: str
    verdict: str
    rows: tuple[CoverageRow, ...]


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


def parity_rows(export: ExportDocument) -> tuple[ParityRow, ...]:
    """Each output of each artifact, on the windows as recorded and on copies with gaps."""
    return tuple(row for artifact, _ in measured_artifacts(export) for row in _parity_rows(artifact))


def _parity_rows(artifact: ArtifactReport) -> Iterator[ParityRow]:
    for windows, parity in (("as recorded", artifact.parity), ("with gaps", artifact.parity_with_gaps)):
        for name, tensor in parity.tensors:
            yield ParityRow(
                role=precision_role(artifact.precision),
                artifact=artifact.name,
                windows=windows,
                tensor=name,
                largest=error_text(tensor.max_abs_error),
                mean=error_text(tensor.mean_abs_error),
                cosine=fixed(tensor.cosine, 6),
            )


def run_rows(export: ExportDocument) -> tuple[RunRow, ...]:
    """Each artifact in each backend that it was run in."""
    return tuple(
        RunRow(
            artifact=artifact.name,
            role=precision_role(artifact.precision),
            version=run.version,
            largest=error_text(run.max_abs_error),
            agreement=share(run.label_agreement),
            latency=latency_text(run.latency_us),
        )
        for artifact, _ in measured_artifacts(export)
        for run in artifact.backends
    )


def gate_rows(export: ExportDocument) -> tuple[GateRow, ...]:
    """The gates of lower precision."""
    return tuple(
        GateRow(
            role=precision_role(artifact.precision),
            name=artifact.name,
            drop=_drop(artifact.gate),
            allowed=fixed(artifact.gate.allowed_drop_points, 2),
            agreement=share(artifact.gate.label_agreement),
            least=share(artifact.gate.least_agreement),
            windows=count(artifact.gate.windows),
            passed=artifact.gate.passed,
        )
        for artifact, _ in measured_artifacts(export)
        if artifact.gate is not None
    )


def confidence_tables(export: ExportDocument) -> tuple[ConfidenceTable, ...]:
    """The artifacts of the bundle whose confidence was calibrated."""
    return tuple(
        ConfidenceTable(
            role=precision_role(artifact.precision),
            name=artifact.name,
            verdict=_calibration(artifact.confidence),
            rows=tuple(_coverage_row(coverage) for coverage in artifact.confidence.coverages),
        )
        for artifact in export.report.artifacts
        if artifact.confidence is not None
    )


def _calibration(facts: ConfidenceFacts) -> str:
    before, after = facts.before, facts.after
    return (
        f"Temperature {fixed(facts.temperature, 2)} from {count(facts.calibrated_by)} windows. On "
        f"{count(facts.windows)} others the calibration error is {fixed(before.calibration_error, 3)} without it and "
        f"{fixed(after.calibration_error, 3)} with it, the log loss {fixed(before.log_loss, 3)} and "
        f"{fixed(after.log_loss, 3)}."
    )


def _coverage_row(coverage: Coverage) -> CoverageRow:
    return CoverageRow(
        level=percent(coverage.error_level, 1),
        coverage=percent(coverage.coverage),
        interval=f"{percent(coverage.low)} to {percent(coverage.high)}",
        size=fixed(coverage.mean_set_size, 2),
        single=percent(coverage.single_share),
        right=percent(coverage.single_accuracy),
    )


def attempt_rows(artifact: ArtifactReport) -> tuple[AttemptRow, ...]:
    """What was tried to quantise an artifact, in order."""
    return tuple(
        AttemptRow(
            remedy=attempt.remedy,
            ranges=METHOD_NAMES.get(attempt.method, attempt.method),
            layers=count(attempt.layers),
            drop=_drop(attempt.gate),
            agreement=share(attempt.gate.label_agreement),
            passed=attempt.gate.passed,
        )
        for attempt in artifact.attempts
    )


def _drop(gate: GateResult) -> str:
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
