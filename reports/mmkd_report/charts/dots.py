"""Figures over seeds as a dot panel: a row for each, a dot for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.charts.plots import ROW_HEIGHT, Axis, AxisTick, Dot, DotPanel, DotRow, SeedLink, row_height
from mmkd_report.documents.figures import Measure
from mmkd_report.words.formats import is_figure
from mmkd_report.words.measures import difference, figure, tick, told, with_gain_unit


@dataclass(frozen=True, kw_only=True)
class SeedFigures:
    """One row: `std` is None where there is no spread to write."""

    role: str
    name: str
    mean: float
    std: float | None
    seeds: Sequence[int]
    per_seed: Sequence[float | None]


def dot_panel(
    rows: Sequence[SeedFigures],
    over: Axis,
    measure: Measure,
    *,
    title: str,
    about: str,
    reference: float | None,
    paired: bool = False,
    of_gains: bool = False,
) -> DotPanel:
    """The panel; `about` begins its description.

    Figures are those of the measure, or differences of them. Rows that are paired have short names, and lines from the
    baseline to the student of the same seed.
    """
    written, unit = (difference, "") if of_gains else (figure, measure.unit)
    each = ROW_HEIGHT if paired else row_height(row.name for row in rows)
    drawn = tuple(
        DotRow(
            role=row.role,
            name=row.name,
            mean=written(row.mean, measure),
            spread=written(row.std, measure).lstrip("+") if is_figure(row.std) else "",
            y=(number + 0.5) * each,
            mean_x=place(over, row.mean),
            dots=tuple(
                Dot(x=place(over, value), title=f"seed {seed}: {_with_unit(value, measure, of_gains)}")
                for seed, value in zip(row.seeds, row.per_seed, strict=False)
                if is_figure(value)
            ),
        )
        for number, row in enumerate(rows)
    )
    spoken = "; ".join(f"{row.name} {row.mean} {unit}".rstrip() for row in drawn)
    return DotPanel(
        title=title,
        description=f"{about}: {spoken}.",
        rows=drawn,
        links=_links({row.role: row for row in rows}, drawn, over) if paired else (),
        ticks=tuple(AxisTick(at=place(over, at), label=_tick(at, measure, of_gains)) for at in over.ticks),
        reference_x=place(over, reference) if is_figure(reference) else None,
        height=len(drawn) * each,
    )


def _links(rows: dict[str, SeedFigures], drawn: Sequence[DotRow], over: Axis) -> tuple[SeedLink, ...]:
    """From the baseline to the student of the same seed: the gain, seed by seed."""
    heights = {row.role: row.y for row in drawn}
    baseline, student = rows.get("baseline"), rows.get("student")
    if baseline is None or student is None or len(baseline.per_seed) != len(student.per_seed):
        return ()
    return tuple(
        SeedLink(x1=place(over, before), y1=heights["baseline"], x2=place(over, after), y2=heights["student"])
        for before, after in zip(baseline.per_seed, student.per_seed, strict=True)
        if is_figure(before) and is_figure(after)
    )


def place(over: Axis, value: float) -> float:
    """Where a value lies, in percent of the width."""
    return round(100 * over.place(value), 2)


def _with_unit(value: float, measure: Measure, of_gains: bool) -> str:
    return with_gain_unit(difference(value, measure), measure) if of_gains else told(value, measure)


def _tick(at: float, measure: Measure, of_gains: bool) -> str:
    if not of_gains:
        return tick(at, measure)
    return difference(at, measure).removesuffix(".0") if measure.is_share else difference(float(f"{at:g}"), measure)
