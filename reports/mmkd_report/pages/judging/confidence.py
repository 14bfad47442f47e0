"""The section on confidence: estimates without labels beside the truth, and how often label sets hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmkd_report.documents.judging import ConfidenceRow, JudgingDocument, ModelConfidence, TrustFacts
from mmkd_report.words.formats import fixed, percent


@dataclass(frozen=True, kw_only=True)
class TrustRow:
    """One condition as written: by model estimate, truth, calibration error and share of label sets that hold.

    With each whether the estimate misleads.
    """

    condition: str
    cells: tuple[tuple[str, str, str, str, bool], ...]


@dataclass(frozen=True, kw_only=True)
class ConfidenceSection:
    """All of the section; `sets` are label sets: model, error level, coverage, interval, size."""

    severity: str
    beyond: str
    promised: str
    rows: tuple[TrustRow, ...]
    sets: tuple[tuple[str, ...], ...]


def confidence_section(found: JudgingDocument, trust: TrustFacts) -> ConfidenceSection:
    """The section; models stand in the order of the document."""
    models = [trust.models[one.name] for one in found.models]
    return ConfidenceSection(
        severity=f"{trust.severity:g}",
        beyond=percent(trust.misleads_beyond, 0),
        promised=percent(1 - trust.set_level, 0),
        rows=tuple(
            TrustRow(condition=rows[0].condition, cells=tuple(_cells(row, trust.misleads_beyond) for row in rows))
            for rows in zip(*(one.rows for one in models), strict=True)
        ),
        sets=tuple(row for one, facts in zip(found.models, models, strict=True) for row in _sets(one.name, facts)),
    )


def _cells(row: ConfidenceRow, beyond: float) -> tuple[str, str, str, str, bool]:
    misleads = abs(row.estimated - row.accuracy) > beyond
    covered = "-" if row.covered is None else percent(row.covered)
    return percent(row.estimated), percent(row.accuracy), percent(row.calibration_error), covered, misleads


def _sets(name: str, facts: ModelConfidence) -> Iterator[tuple[str, ...]]:
    for one in facts.coverages:
        ends = f"{percent(one.low)} to {percent(one.high)}"
        yield name, f"{one.error_level:g}", percent(one.coverage), ends, fixed(one.mean_set_size, 2)
