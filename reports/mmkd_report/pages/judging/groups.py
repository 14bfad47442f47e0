"""The section on groups: a table for each measure with the gap below it, and what teaching did to the gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmkd_report.documents.judging import Gap, GroupMeasure, GroupsFacts, JudgingDocument
from mmkd_report.pages.judging.rows import FigureRow
from mmkd_report.words.formats import NOTHING, count, fixed, percent


@dataclass(frozen=True, kw_only=True)
class GroupsSection:
    """All of the section."""

    by: str
    least: int
    unknown: str
    tables: tuple[tuple[str, tuple[FigureRow, ...]], ...]
    changes: tuple[tuple[str, str, str], ...]


def groups_section(found: JudgingDocument, groups: GroupsFacts) -> GroupsSection:
    """The section; models stand in the order of the document."""
    names = [one.name for one in found.models]
    measures: list[GroupMeasure] = list(groups.values[0].figures[names[0]])
    return GroupsSection(
        by=groups.by,
        least=groups.least_windows,
        unknown=count(groups.unknown) if groups.unknown else "",
        tables=tuple((measure, tuple(_rows(groups, measure, names))) for measure in measures),
        changes=tuple(
            (one.measure, one.change, f"{fixed(100 * one.low)} to {fixed(100 * one.high)}") for one in groups.changes
        ),
    )


def _rows(groups: GroupsFacts, measure: GroupMeasure, names: list[str]) -> Iterator[FigureRow]:
    for one in groups.values:
        yield FigureRow(
            name=one.value,
            aside="" if one.is_judged else "not judged",
            windows=count(one.windows),
            figures=tuple(percent(one.figures[name][measure]) for name in names),
        )
    gaps = groups.gaps.get(measure)
    if gaps is not None:
        yield FigureRow(name="gap", aside="points", windows="", figures=tuple(_gap(gaps[name]) for name in names))


def _gap(gap: Gap | None) -> str:
    return NOTHING if gap is None else f"{percent(gap.gap)} ({percent(gap.low)} to {percent(gap.high)})"
