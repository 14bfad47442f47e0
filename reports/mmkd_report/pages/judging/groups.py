"""The section on groups: figures by value, gaps with their intervals, and what teaching did to them."""

from __future__ import annotations

from dataclasses import dataclass

from mmkd_report.documents.judging import Gap, GroupsFacts, JudgingDocument
from mmkd_report.words.formats import NOTHING, count, fixed, percent


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One value as written: by model accuracy, recall and calibration error."""

    value: str
    windows: str
    is_judged: bool
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class GapRow:
    """One measure's gap of one model as written."""

    measure: str
    model: str
    gap: str
    interval: str
    ends: str


@dataclass(frozen=True, kw_only=True)
class GroupsSection:
    """All of the section; `headings` stand above the figures of a row."""

    by: str
    least: int
    headings: tuple[str, ...]
    rows: tuple[GroupRow, ...]
    gaps: tuple[GapRow, ...]
    changes: tuple[tuple[str, str, str], ...]


def groups_section(found: JudgingDocument, groups: GroupsFacts) -> GroupsSection:
    """The section; models stand in the order of the document."""
    names, measures = [one.name for one in found.models], list(groups.values[0].figures[found.models[0].name])
    headings = tuple(f"{name}: {measure}" for name in names for measure in measures)
    return GroupsSection(
        by=groups.by,
        least=groups.least_windows,
        headings=headings,
        rows=tuple(
            GroupRow(
                value=one.value,
                windows=count(one.windows),
                is_judged=one.is_judged,
                figures=tuple(
                    zip(
                        headings,
                        (percent(one.figures[name][measure]) for name in names for measure in measures),
                        strict=True,
                    )
                ),
            )
            for one in groups.values
        ),
        gaps=tuple(_gap(measure, name, gap) for measure, of in groups.gaps.items() for name, gap in of.items()),
        changes=tuple(
            (one.measure, one.change, f"{fixed(100 * one.low)} to {fixed(100 * one.high)}") for one in groups.changes
        ),
    )


def _gap(measure: str, name: str, gap: Gap | None) -> GapRow:
    if gap is None:
        return GapRow(measure=measure, model=name, gap=NOTHING, interval=NOTHING, ends=NOTHING)
    return GapRow(
        measure=measure,
        model=name,
        gap=percent(gap.gap),
        interval=f"{percent(gap.low)} to {percent(gap.high)}",
        ends=f"{gap.worst} worst, {gap.best} best",
    )
