"""The section on faults: a table, worst first, and a chart for each fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmkd_report.charts.plots import LineChart, PlotSeries, axis, line_chart, tight_axis
from mmkd_report.documents.judging import FaultFigures, FaultsFacts, JudgingDocument, RelativeError
from mmkd_report.words.formats import NOTHING, is_figure, percent, significant


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """One fault as written: mean error of each model, and what its error is of that of labels alone."""

    name: str
    what: str
    practised: str
    errors: tuple[str, ...]
    relative: str


@dataclass(frozen=True, kw_only=True)
class FaultsSection:
    """All of the section."""

    sensors: str
    measure: str
    unit: str
    sound: tuple[str, ...]
    rows: tuple[FaultRow, ...]
    relative: tuple[tuple[str, str], ...]
    charts: tuple[LineChart, ...]


def faults_section(found: JudgingDocument, faults: FaultsFacts, roles: Mapping[str, str]) -> FaultsSection:
    """The section; models stand in the order of the document."""
    names = [one.name for one in found.models]
    is_share = faults.measure != "rmse"
    written = percent if is_share else significant
    return FaultsSection(
        sensors=" + ".join(faults.sensors),
        measure=faults.measure.replace("_", " "),
        unit="%" if is_share else "",
        sound=tuple(written(faults.sound[name]) for name in names),
        rows=tuple(
            FaultRow(
                name=one.name,
                what=one.what,
                practised=_practised(one, names[0]),
                errors=tuple(written(sum(one.errors[name]) / len(one.errors[name])) for name in names),
                relative=percent(one.relative.get(names[0]), 0),
            )
            for one in faults.faults
        ),
        relative=tuple((name, _relative(one)) for name, one in faults.relative.items()),
        charts=tuple(_chart(one, faults, names, roles, is_share=is_share) for one in faults.faults),
    )


def _practised(one: FaultFigures, name: str) -> str:
    known = one.practised.get(name)
    return NOTHING if known is None else "practised" if known else "unseen"


def _relative(one: RelativeError | None) -> str:
    if one is None:
        return NOTHING
    ends = f" ({percent(one.low, 0)} to {percent(one.high, 0)})" if is_figure(one.low) and is_figure(one.high) else ""
    return f"{percent(one.mean, 0)} %{ends}"


def _chart(
    one: FaultFigures, faults: FaultsFacts, names: list[str], roles: Mapping[str, str], *, is_share: bool
) -> LineChart:
    severities = [0.0, *faults.severities]
    lines = {name: [faults.sound[name], *one.errors[name]] for name in names}
    every = [value for other in faults.faults for errors in other.errors.values() for value in errors]
    over = axis([*every, *faults.sound.values()], floor=0.0, ceiling=1.0 if is_share else float("inf"))

    def text(value: float) -> str:
        return percent(value, 0) if is_share else f"{value:g}"

    spoken = "; ".join(f"{name} {' '.join(text(value) for value in line)}" for name, line in lines.items())
    return line_chart(
        [PlotSeries(role=roles[name], name=name, x=severities, y=line) for name, line in lines.items()],
        title=one.name,
        description=f"Error at severities {' '.join(f'{value:g}' for value in severities)}: {spoken}.",
        x_label=f"severity; 1 is {one.what}",
        x_axis=tight_axis(severities),
        y_axis=over,
        x_text=lambda value: f"{value:g}",
        y_text=text,
    )
