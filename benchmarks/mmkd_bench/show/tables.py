"""Reports of searches and contests as one table each, for other programs (CSV) and for pull requests (Markdown).

Figures of a CSV are plain numbers with their unit in the column's name; a cell of what was not measured is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmkd_bench.capacity import CapacityReport
from mmkd_bench.contest import RivalsReport
from mmkd_bench.measuring.load import Level
from mmkd_bench.measuring.percentiles import QUANTILES, quantile_name
from mmkd_bench.paired import OverheadReport, PairReport, Spread
from mmkd_bench.plan import PlanReport
from mmkd_bench.show.text import (
    carried_text,
    csv_text,
    interruption_lines,
    markdown_table,
    model_text,
    plural,
    ratio_text,
    significant,
    spared_lines,
)
from mmkd_bench.teacher import TeacherReport

Cell = str | float | int | bool | None
AnyReport = CapacityReport | OverheadReport | PairReport | PlanReport | RivalsReport | TeacherReport


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under names, with a heading and what else is to be said.

    Attributes:
        heading: of the Markdown.
        names: of the columns.
        rows: one cell per name.
        notes: sentences below.
    """

    heading: str
    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def csv_of(report: AnyReport) -> str:
    """The table of a report as CSV."""
    table = table_of(report)
    return csv_text(table.names, table.rows)


def markdown_of(report: AnyReport) -> str:
    """The table of a report as Markdown."""
    table = table_of(report)
    rows = [tuple(_cell(cell) for cell in row) for row in table.rows]
    notes = [*table.notes, *interruption_lines(complete=report.complete)]
    lines = [f"### {table.heading}", "", *markdown_table(table.names, rows), "", *(f"- {note}" for note in notes)]
    return "\n".join(lines).rstrip() + "\n"


def table_of(report: AnyReport) -> Table:
    """The one table of a report."""
    if isinstance(report, RivalsReport):
        return _rivals(report)
    if isinstance(report, CapacityReport):
        return _capacity(report)
    if isinstance(report, TeacherReport):
        return _teacher(report)
    if isinstance(report, PlanReport):
        return _plan(report)
    return _overhead(report) if isinstance(report, OverheadReport) else _pair(report)


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return significant(cell) if isinstance(cell, float) else str(cell)


def _spread(spread: Spread | None) -> tuple[Cell, Cell, Cell]:
    return (None, None, None) if spread is None else (spread.median, spread.min, spread.max)


def _rivals(report: RivalsReport) -> Table:
    return Table(
        heading=f"{report.subject.bundle} through other engines, {plural(report.threads, 'thread')}, called in turn",
        names=(
            *("engine", "version", "p50_us", "low_us", "high_us", "p99_us", "to_predict", "load_ms", "max_abs_error"),
            *("gflops", "reason"),
        ),
        rows=tuple(
            (
                rival.name,
                rival.version,
                *_spread(rival.p50_us),
                None if rival.p99_us is None else rival.p99_us.median,
                None if rival.ratio is None else rival.ratio.median,
                rival.load_ms,
                None if rival.max_abs_error is None else float(f"{rival.max_abs_error:.2g}"),
                None if rival.p50_us is None or not report.mflops else report.mflops * 1e3 / rival.p50_us.median,
                rival.reason,
            )
            for rival in report.rivals
        ),
        notes=(f"one core's product of float32 matrices: {report.peak_gflops:.0f} GFLOP/s",),
    )


def _capacity(report: CapacityReport) -> Table:
    percentiles = tuple(f"response_{quantile_name(quantile)}_us" for quantile in QUANTILES)
    levels = [("answer", report.at_answer), ("refused", report.refused)]
    return Table(
        heading=(
            f"{report.subject.bundle}, {report.rate_hz:g} per second within {report.deadline_ms:g} ms: "
            f"{carried_text(report)}"
        ),
        names=("load", "streams", "carried", "due", "missed", *percentiles, "response_max_us", "cpu_share"),
        rows=tuple(_level(name, level) for name, level in levels if level is not None)
        + tuple(_level(f"launch {number}", level) for number, level in enumerate(report.launches, start=1)),
        notes=tuple(f"beside it: {sentence}" for sentence in report.disturbances),
    )


def _level(name: str, level: Level) -> tuple[Cell, ...]:
    values = (level.response.value_us(quantile) for quantile in QUANTILES)
    figures = (*values, level.response.max_us, level.cpu_share)
    return (name, level.streams, level.carried, level.due, level.missed, *figures)


def _teacher(report: TeacherReport) -> Table:
    whole = [
        ("teacher", report.teacher_us),
        ("student", report.student_us),
        ("teacher's graph", report.teacher_engine_us),
        ("student's graph", report.student_engine_us),
    ]
    sensors = [
        row
        for sensor in report.sensors
        for row in (
            (
                f"gather {sensor.modality}",
                *_spread(sensor.gather_us),
                sensor.needed,
                sensor.bytes_per_s,
                sensor.power_mw,
            ),
            (f"front end {sensor.modality}", *_spread(sensor.front_end_us), sensor.needed, None, None),
        )
    ]
    return Table(
        heading=f"End to end {ratio_text(report.subject.bundle, report.teacher, report.ratio)}",
        names=("what", "p50_us", "low_us", "high_us", "student_needs_it", "bytes_per_s", "given_mw"),
        rows=(*((name, *_spread(spread), None, None, None) for name, spread in whole), *sensors),
        notes=tuple(spared_lines(report)),
    )


def _plan(report: PlanReport) -> Table:
    measured = [(one.cores, "measured", one.throughput_hz, one.low_hz, one.high_hz, None) for one in report.measured]
    forecast = [(one.cores, "forecast", one.throughput_hz, None, None, one.streams) for one in report.forecasts]
    return Table(
        heading=f"{report.subject.bundle}: throughput by cores",
        names=("cores", "kind", "throughput_hz", "low_hz", "high_hz", "streams"),
        rows=(*measured, *forecast),
        notes=(model_text(report),),
    )


def _pair(report: PairReport) -> Table:
    return Table(
        heading=ratio_text(report.second, report.first, report.ratio),
        names=("model", "p50_us", "low_us", "high_us", "p90_us", "p99_us"),
        rows=(
            (report.first, *_spread(report.first_p50_us), report.first_p90_us.median, report.first_p99_us.median),
            (report.second, *_spread(report.second_p50_us), report.second_p90_us.median, report.second_p99_us.median),
        ),
    )


def _overhead(report: OverheadReport) -> Table:
    return Table(
        heading=f"{report.bundle}: predict{', every check on,' if report.checks else ''} over the bare engine",
        names=("what", "p50_us", "low_us", "high_us"),
        rows=(
            ("predict", *_spread(report.predict_p50_us)),
            (report.bare, *_spread(report.bare_p50_us)),
            ("difference", *_spread(report.overhead_us)),
        ),
    )
