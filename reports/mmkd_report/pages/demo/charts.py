"""The figures of the demo page: accuracies, learning curves, attention and missing samples, ready to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmkd_report.charts.dots import SeedFigures, dot_panel
from mmkd_report.charts.plots import (
    MAP_SIZE,
    AttentionMap,
    Axis,
    AxisTick,
    DotPanel,
    LineChart,
    PlotSeries,
    attention_map,
    axis,
    line_chart,
    tight_axis,
)
from mmkd_report.documents.demo import AttentionMaps, Contest, CurvePoint, DemoDocument, MissingSamples, Network
from mmkd_report.documents.figures import Measure, Spread
from mmkd_report.pages.demo.answer import best_student, has_spread, mean_of
from mmkd_report.pages.demo.tables import ROLE_NAMES
from mmkd_report.words.formats import count, is_figure, percent, plain, significant
from mmkd_report.words.measures import figure, tick

# Middle tones, legible on paper and on a dark screen: the maps are pictures and cannot follow the style sheet.
MAP_COLOURS = {"teacher": (191, 110, 24), "student": (45, 125, 200)}


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """The learning curves of one modality (or of the teacher): validation score and training loss."""

    title: str
    charts: tuple[LineChart, ...]


@dataclass(frozen=True, kw_only=True)
class AttentionPair:
    """The maps of teacher and student on the same window."""

    modality: str
    window_label: str | None
    maps: tuple[AttentionMap, ...]


def accuracy_panels(demo: DemoDocument) -> tuple[DotPanel, ...]:
    """One panel for the teacher and one per modality, over one shared axis."""
    measure = demo.told_by
    reference = demo.teacher.score(measure)
    groups: list[tuple[str, list[tuple[str, Spread]]]] = [
        ("All sensors", [] if reference is None else [("teacher", reference)])
    ]
    groups += [(name, list(_scores(contest, measure))) for name, contest in demo.students.items()]
    values = [value for _, rows in groups for _, spread in rows for value in (spread.mean, *spread.per_seed)]
    over = axis(values, floor=measure.floor, ceiling=measure.ceiling)
    return tuple(
        _dot_panel(title, rows, over, mean_of(reference), demo.seeds, measure) for title, rows in groups if rows
    )


def _scores(contest: Contest, measure: Measure) -> Iterator[tuple[str, Spread]]:
    """Role and score of every competitor of one modality that has one."""
    competitors = {
        "extra_trees": contest.extra_trees,
        "mini_rocket": contest.mini_rocket,
        "rocket_and_trees": contest.rocket_and_trees,
        "multi_rocket_hydra": contest.multi_rocket_hydra,
        "baseline": contest.baseline,
        "taught_rocket": contest.taught_rocket,
        "student": contest.student,
    }
    for role, competitor in competitors.items():
        spread = competitor.score(measure) if competitor is not None else None
        if spread is not None:
            yield role, spread


def _dot_panel(
    title: str,
    rows: Sequence[tuple[str, Spread]],
    over: Axis,
    reference: float | None,
    seeds: Sequence[int],
    measure: Measure,
) -> DotPanel:
    figures = [
        SeedFigures(
            role=role,
            name=ROLE_NAMES[role],
            mean=spread.mean,
            std=spread.std if has_spread(spread, seeds) else None,
            seeds=seeds if len(seeds) == len(spread.per_seed) else range(len(spread.per_seed)),
            per_seed=spread.per_seed,
        )
        for role, spread in rows
    ]
    about = f"{measure.title}, mean over seeds"
    return dot_panel(figures, over, measure, title=title, about=about, reference=reference, paired=True)


def curve_panels(demo: DemoDocument) -> tuple[CurvePanel, ...]:
    """Learning curves of the teacher and of each modality's baseline and student, where they were kept."""
    groups: list[tuple[str, list[tuple[str, Network]]]] = [("Teacher", [("teacher", demo.teacher)])]
    for name, contest in demo.students.items():
        baseline = [("baseline", contest.baseline)] if contest.baseline is not None else []
        groups.append((name, [*baseline, ("student", contest.student)]))
    scores = axis(
        (point.valid_score for _, networks in groups for _, one in networks for point in one.curve or ()), ceiling=1.0
    )
    panels = (_curve_panel(title, networks, scores, demo.chosen_by) for title, networks in groups)
    return tuple(panel for panel in panels if panel.charts)


def _curve_panel(title: str, networks: Sequence[tuple[str, Network]], scores: Axis, measure: Measure) -> CurvePanel:
    curves = {role: network.curve for role, network in networks if network.curve}
    steps = tight_axis(point.step for curve in curves.values() for point in (CurvePoint(step=0), *curve))
    losses = axis((point.train_loss for curve in curves.values() for point in curve), floor=0.0)
    charts = (
        _curve_chart(f"{title}: validation score", curves, "valid_score", steps, scores, measure),
        _curve_chart(f"{title}: training loss", curves, "train_loss", steps, losses, measure),
    )
    return CurvePanel(title=title, charts=tuple(chart for chart in charts if chart is not None))


def _curve_chart(
    title: str, curves: dict[str, tuple[CurvePoint, ...]], field: str, steps: Axis, over: Axis, measure: Measure
) -> LineChart | None:
    series = []
    for role, curve in curves.items():
        values = [getattr(point, field) for point in curve]
        if any(is_figure(value) for value in values):
            x = [float(point.step) for point in curve]
            series.append(PlotSeries(role=role, name=ROLE_NAMES[role], x=x, y=values))
    if not series:
        return None
    is_score = field == "valid_score"
    write = (lambda value: figure(value, measure)) if is_score else significant
    ends = "; ".join(f"{one.name} {_span(one.y, write)}" for one in series)
    return line_chart(
        series,
        title=title,
        description=f"From first to last step: {ends}.",
        x_label="training step",
        x_axis=steps,
        y_axis=over,
        x_text=count,
        y_text=(lambda value: tick(value, measure)) if is_score else plain,
    )


def _span(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    known = [value for value in values if is_figure(value)]
    return f"{write(known[0])} to {write(known[-1])}"


def attention_pair(demo: DemoDocument) -> AttentionPair | None:
    """Teacher and student attention of the best student, or else of the first that has some."""
    best = best_student(demo)
    order = ([best] if best is not None else []) + list(demo.students)
    for name in order:
        attention = demo.students[name].attention
        if attention is not None:
            return AttentionPair(
                modality=name,
                window_label=attention.window_label,
                maps=(_map("teacher", attention), _map("student", attention)),
            )
    return None


def _map(role: str, attention: AttentionMaps) -> AttentionMap:
    teacher = role == "teacher"
    weights = attention.teacher if teacher else attention.student
    layer = attention.teacher_layer if teacher else attention.student_layer
    name = "Teacher" if teacher else "Student"
    return attention_map(
        weights,
        role=role,
        title=f"{name}, {layer}" if layer else name,
        description=(
            f"Attention of the {name.lower()}: {len(weights)} positions that ask (down) by {len(weights[0])} positions "
            "that are looked at (across); the stronger the colour, the larger the weight."
        ),
        rgb=MAP_COLOURS[role],
        ticks=_time_ticks(attention.seconds),
    )


def _time_ticks(seconds: float | None) -> tuple[AxisTick, ...]:
    if not is_figure(seconds) or seconds <= 0:
        return (AxisTick(at=0.0, label="start"), AxisTick(at=MAP_SIZE, label="end"))
    over = tight_axis((0.0, seconds))
    return tuple(AxisTick(at=round(tick / seconds * MAP_SIZE, 1), label=plain(tick)) for tick in over.ticks)


def missing_charts(demo: DemoDocument) -> tuple[LineChart, ...]:
    """For each modality, the score of student and baseline against the share of missing samples, over shared axes."""
    tested = {name: contest.missing for name, contest in demo.students.items() if contest.missing is not None}
    spreads = [spread for missing in tested.values() for spread in (*missing.student, *missing.baseline) if spread]
    measure = demo.told_by
    edges = (value for spread in spreads for value in _edges(spread, demo.seeds, measure))
    over = axis(edges, floor=measure.floor, ceiling=measure.ceiling)
    return tuple(
        _missing_chart(name, missing, over, demo.seeds, measure) for name, missing in tested.items() if missing.shares
    )


def _missing_chart(name: str, missing: MissingSamples, over: Axis, seeds: Sequence[int], measure: Measure) -> LineChart:
    scores = (("baseline", missing.baseline), ("student", missing.student))
    series = [_missing_series(role, missing.shares, spreads, seeds, measure) for role, spreads in scores if spreads]
    spoken = "; ".join(
        f"{ROLE_NAMES[role]} {' '.join(figure(mean_of(spread), measure) for spread in spreads)}"
        for role, spreads in scores
        if spreads
    )
    shares = " ".join(percent(share, 0) for share in missing.shares)
    return line_chart(
        series,
        title=name,
        description=f"{_told_in(measure)} at {shares} percent of the samples missing: {spoken}.",
        x_label="samples missing, %",
        x_axis=tight_axis(missing.shares),
        y_axis=over,
        x_text=lambda value: percent(value, 0),
        y_text=lambda value: tick(value, measure),
    )


def _told_in(measure: Measure) -> str:
    unit = "percent" if measure.is_share else measure.unit
    return f"{measure.title} in {unit}" if unit else measure.title


def _missing_series(
    role: str, shares: Sequence[float], spreads: Sequence[Spread | None], seeds: Sequence[int], measure: Measure
) -> PlotSeries:
    edges = [_edges(spread, seeds, measure) if spread is not None else (None, None, None) for spread in spreads]
    banded = any(spread is not None and has_spread(spread, seeds) for spread in spreads)
    return PlotSeries(
        role=role,
        name=ROLE_NAMES[role],
        x=shares,
        y=[mean for _, mean, _ in edges],
        low=[low for low, _, _ in edges] if banded else (),
        high=[high for _, _, high in edges] if banded else (),
    )


def _edges(spread: Spread, seeds: Sequence[int], measure: Measure) -> tuple[float | None, float | None, float | None]:
    """Mean minus and plus one standard deviation, where there is one."""
    if not is_figure(spread.mean):
        return (None, None, None)
    reach = (spread.std or 0.0) if has_spread(spread, seeds) else 0.0
    return (max(measure.floor, spread.mean - reach), spread.mean, min(measure.ceiling, spread.mean + reach))
