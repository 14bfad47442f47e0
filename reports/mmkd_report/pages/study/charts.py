"""The figures of the study page: scores, gains and effects with seeds as points, and accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.charts.dots import SeedFigures, dot_panel
from mmkd_report.charts.plots import Axis, DotPanel, axis
from mmkd_report.charts.scatter import Point, Scatter, scatter
from mmkd_report.documents.figures import Measure
from mmkd_report.documents.study import NONE, Effect, EntryRow, StudyDocument, teacher_of
from mmkd_report.words.formats import is_figure, significant, with_unit
from mmkd_report.words.measures import tick, told

_SHAPES = {"baseline": "circle", "student": "square", "teacher": "diamond"}
_ROLE_NAMES = {"baseline": "Labels alone", "student": "Distilled", "teacher": "Chosen by validation"}


@dataclass(frozen=True, kw_only=True)
class StudyPareto:
    """Accuracy against latency, and its key: role, shape, name, hollow."""

    chart: Scatter
    key: tuple[tuple[str, str, str, bool], ...]


def entry_name(entry: EntryRow, study: StudyDocument) -> str:
    """Method, and the teacher where there are several."""
    if entry.method == NONE:
        return "labels alone"
    return entry.method if len(study.teachers) < 2 else f"{entry.method}, {entry.teacher}"


def score_panels(study: StudyDocument) -> tuple[DotPanel, ...]:
    """One panel per student size: the score of every entry, one dot per seed, the best teacher as a line."""
    measure = study.told_by
    teachers = [teacher.test[measure.name].mean for teacher in study.teachers]
    values = [value for entry in study.entries for value in entry.test[measure.name].per_seed]
    over = axis([*values, *teachers], floor=measure.floor, ceiling=measure.ceiling)
    panels = []
    for size in _sizes(study):
        rows = [entry for entry in study.entries if entry.student == size]
        taught = [teacher_of(study, entry.teacher) for entry in rows]
        means = [one.test[measure.name].mean for one in taught if one is not None]
        best = max(means, key=measure.rank, default=None)
        panels.append(_scores(size, rows, study, over, best))
    return tuple(panels)


def _sizes(study: StudyDocument) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.student for entry in study.entries))


def _scores(size: str, rows: Sequence[EntryRow], study: StudyDocument, over: Axis, reference: float | None) -> DotPanel:
    measure = study.told_by
    figures = [
        SeedFigures(
            role="baseline" if entry.method == NONE else "student",
            name=entry_name(entry, study),
            mean=entry.test[measure.name].mean,
            std=entry.test[measure.name].std,
            seeds=entry.seeds,
            per_seed=entry.test[measure.name].per_seed,
        )
        for entry in rows
    ]
    about = f"{measure.title}, mean over seeds"
    return dot_panel(figures, over, measure, title=f"{size} student", about=about, reference=reference)


def gain_panels(study: StudyDocument) -> tuple[DotPanel, ...]:
    """One panel per student size: what every method gains over labels alone, seed by seed; the line is no gain."""
    measure = study.told_by
    gains = {
        size: [
            (entry, entry.gain_points[measure.name])
            for entry in study.entries
            if entry.student == size and entry.gain_points is not None
        ]
        for size in _sizes(study)
    }
    over = axis([0.0, *(value for rows in gains.values() for _, gain in rows for value in gain.per_seed)])
    about, panels = _counted("Gain over labels alone", measure), []
    for size, rows in gains.items():
        figures = [
            SeedFigures(
                role="student",
                name=entry_name(entry, study),
                mean=gain.mean,
                std=gain.std,
                seeds=entry.seeds,
                per_seed=gain.per_seed,
            )
            for entry, gain in rows
        ]
        if figures:
            title = f"{size} student"
            panels.append(dot_panel(figures, over, measure, title=title, about=about, reference=0.0, of_gains=True))
    return tuple(panels)


def effect_panels(study: StudyDocument) -> tuple[DotPanel, ...]:
    """One panel per factor: what each of its values does to validation, seed by seed."""
    over = axis([0.0, *(value for effect in study.effects for value in (effect.points, *effect.per_seed))])
    measure, panels = study.chosen_by, []
    for factor in dict.fromkeys(effect.factor for effect in study.effects):
        figures = [
            SeedFigures(
                role="student",
                name=_effect_name(effect),
                mean=effect.points,
                std=None,
                seeds=study.effect_seeds,
                per_seed=effect.per_seed,
            )
            for effect in study.effects
            if effect.factor == factor
        ]
        about = _counted(f"Effect of {factor}", measure)
        panels.append(dot_panel(figures, over, measure, title=factor, about=about, reference=0.0, of_gains=True))
    return tuple(panels)


def _counted(what: str, measure: Measure) -> str:
    return f"{what} in {measure.gain_unit}" if measure.gain_unit else what


def _effect_name(effect: Effect) -> str:
    return "labels alone" if effect.value == NONE and effect.factor == "method" else effect.value


def pareto(study: StudyDocument) -> StudyPareto | None:
    """The score of every entry against the latency of its student; None where latencies were not measured.

    Better is up: of an error the axis is upside down.
    """
    measure = study.told_by
    timed = [(entry, entry.latency_ms) for entry in study.entries if is_figure(entry.latency_ms)]
    if not timed:
        return None
    marks = [
        Point(
            role=_role(entry),
            shape=_SHAPES[_role(entry)],
            title=f"{entry.student}, {entry_name(entry, study)}: "
            f"{told(entry.test[measure.name].mean, measure)} in {with_unit(significant(latency), 'ms')}",
            x=latency,
            y=measure.rank(entry.test[measure.name].mean),
        )
        for entry, latency in sorted(timed, key=lambda one: one[0].chosen)
        if latency is not None
    ]
    best = max(marks, key=lambda point: point.y)
    ends = measure.rank(measure.floor), measure.rank(measure.ceiling)
    chart = scatter(
        marks,
        title=f"{measure.title} against latency",
        description=f"{len(marks)} entries; the best on test is {best.title}.",
        x_label="median latency of one window, ms",
        x_axis=axis([0.0, *(point.x for point in marks)]),
        y_axis=axis((point.y for point in marks), floor=min(ends), ceiling=max(ends)),
        x_text=significant,
        y_text=lambda value: tick(measure.rank(value), measure),
    )
    roles = [role for role in _SHAPES if any(point.role == role for point in marks)]
    return StudyPareto(chart=chart, key=tuple((role, _SHAPES[role], _ROLE_NAMES[role], False) for role in roles))


def _role(entry: EntryRow) -> str:
    if entry.chosen:
        return "teacher"  # the page's second accent; no teacher is drawn here
    return "baseline" if entry.method == NONE else "student"
