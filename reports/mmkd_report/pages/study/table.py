"""The main table of a study, as written on its page and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.documents.figures import CONTESTANTS, Measure
from mmkd_report.documents.study import NONE, EntryRow, ScoreTable, StudyDocument, TeacherRow
from mmkd_report.pages.study.charts import entry_name
from mmkd_report.words.formats import NOTHING, is_figure, magnitude, plain, share, significant, with_unit
from mmkd_report.words.measures import difference, gain_interval, spread_of_seeds


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One written row of the main table; `scores` are those of the document's measures."""

    role: str
    name: str
    scores: tuple[str, ...]
    mark: str = ""
    gain: str = NOTHING
    gain_interval: str = NOTHING
    gap_recovered: str = NOTHING
    parameters: str = NOTHING
    latency: str = NOTHING
    rates: str = ""


def result_groups(study: StudyDocument) -> list[tuple[str, list[TableRow]]]:
    """Teachers, then every student size with labels alone first, then the rivals."""
    groups: list[tuple[str, list[TableRow]]] = []
    teachers = [
        TableRow(
            role="teacher",
            name=one.name,
            scores=_scores(one.test, study.measures),
            parameters=magnitude(one.parameters),
            mark=_mark(one, study),
        )
        for one in study.teachers
    ]
    if teachers:
        groups.append(("teachers", teachers))
    for size in dict.fromkeys(entry.student for entry in study.entries):
        rows = [_row(entry, study) for entry in study.entries if entry.student == size]
        groups.append((f"{size} student", rows))
    rivals = [
        TableRow(role="extra_trees", name=CONTESTANTS.get(one.name, one.name), scores=_scores(one.test, study.measures))
        for one in study.rivals
        if one.test is not None
    ]
    if rivals:
        groups.append(("without a network", rivals))
    return groups


def _row(entry: EntryRow, study: StudyDocument) -> TableRow:
    measure = study.told_by
    gain = None if entry.gain_points is None else entry.gain_points[measure.name]
    return TableRow(
        role="baseline" if entry.method == NONE else "student" if entry.chosen else "candidate",
        name=entry_name(entry, study),
        mark="chosen" if entry.chosen else "",
        scores=_scores(entry.test, study.measures),
        gain=NOTHING if gain is None else difference(gain.mean, measure) + _spread_of_gain(gain.std, measure),
        gain_interval=NOTHING if gain is None else gain_interval(gain.low, gain.high, measure),
        gap_recovered=NOTHING if entry.gap_recovered is None else share(round(entry.gap_recovered, 2)),
        parameters=magnitude(entry.parameters),
        latency=with_unit(significant(entry.latency_ms), "ms"),
        rates=", ".join(plain(rate) for rate in dict.fromkeys(entry.learning_rates)),
    )


def _spread_of_gain(std: float | None, measure: Measure) -> str:
    return f" ± {difference(std, measure).lstrip('+')}" if is_figure(std) else ""


def _mark(teacher: TeacherRow, study: StudyDocument) -> str:
    """Where several sizes can be compared, which one is the smallest within half a point of the best on validation."""
    single = [one for one in study.teachers if one.valid_score is not None]
    return "smallest near the best" if teacher.is_reference and len(single) > 1 else ""


def _scores(test: ScoreTable, measures: Sequence[Measure]) -> tuple[str, ...]:
    return tuple(spread_of_seeds(test[one.name].mean, test[one.name].std, one) for one in measures)
