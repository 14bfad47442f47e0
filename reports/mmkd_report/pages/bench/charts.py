"""The figures of the benchmark page: distributions, latency over time, stages, and devices beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.charts.plots import (
    Axis,
    AxisTick,
    Dot,
    DotPanel,
    DotRow,
    LineChart,
    PlotSeries,
    axis,
    line_chart,
    row_height,
)
from mmkd_report.documents.bench import BenchReport
from mmkd_report.words.formats import NOTHING, is_figure, significant, with_unit

PLOT_LEFT, PLOT_RIGHT, PLOT_BOTTOM = 8.0, 332.0, 120.0
LABEL_HEIGHT = 12.0  # of a label of 11 px
PLOT_TOP = 8.0 + 3 * LABEL_HEIGHT  # below the labels of three percentiles
CHARACTER = 6.2  # the widest digit of a label of 11 px
EDGE = 24.0  # nearer to an end of the picture a label stands beside its tick
MARKED = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))


@dataclass(frozen=True, kw_only=True)
class PercentileLine:
    """A percentile in a distribution; its label stands at `label_y`, so that neighbours do not cover each other."""

    name: str
    x: float
    label_y: float


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """All samples of a run in bins over a logarithmic axis: one path, and the percentiles as lines."""

    title: str
    description: str
    path: str
    lines: tuple[PercentileLine, ...]
    ticks: tuple[AxisTick, ...]


@dataclass(frozen=True, kw_only=True)
class StageBar:
    """One step: its share of the sum of all medians as a width in percent, and its figures written."""

    name: str
    width: float
    p50: str
    p90: str


def time_text(microseconds: float | None) -> str:
    """A length of time in the unit that fits it.

    >>> time_text(339.4), time_text(12_345.0), time_text(None)
    ('339\u202fµs', '12.3\u202fms', '–')
    """
    if not is_figure(microseconds):
        return NOTHING
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if microseconds / size < 999.5:
            return with_unit(significant(microseconds / size), unit)
    return with_unit(significant(microseconds / 1e6), "s")


def distribution(document: BenchReport, *, name: str) -> Distribution | None:
    """The distribution of a run; None where the document has none."""
    histogram = document.result.histogram
    if histogram is None or not sum(histogram.counts):
        return None
    low, high = math.log10(histogram.edges_us[0]), math.log10(histogram.edges_us[-1])

    def place(value_us: float) -> float:
        """Position of a length of time."""
        share = (math.log10(value_us) - low) / (high - low)
        return round(PLOT_LEFT + min(1.0, max(0.0, share)) * (PLOT_RIGHT - PLOT_LEFT), 1)

    most = max(histogram.counts)
    steps = [f"M{PLOT_LEFT:g} {PLOT_BOTTOM:g}"]
    for number, one in enumerate(histogram.counts):
        # The square root keeps a bin with few samples visible beside one with thousands: the tail is what matters.
        top = round(PLOT_BOTTOM - math.sqrt(one / most) * (PLOT_BOTTOM - PLOT_TOP), 1)
        steps.append(f"V{top:g}H{place(histogram.edges_us[number + 1]):g}")
    latency = document.result.latency
    marked = [(label, value) for quantile, label in MARKED if (value := latency.value_us(quantile)) is not None]
    told = ", ".join(f"{label} {time_text(value)}" for label, value in marked)
    return Distribution(
        title=name,
        description=f"{latency.count} calls: {told}, largest {time_text(latency.max_us)}.",
        path="".join(steps) + f"V{PLOT_BOTTOM:g}Z",
        lines=tuple(
            PercentileLine(name=label, x=place(value), label_y=8.0 + LABEL_HEIGHT * number)
            for number, (label, value) in enumerate(marked)
        ),
        ticks=_log_ticks(histogram.edges_us[0], histogram.edges_us[-1], place),
    )


def _log_ticks(low_us: float, high_us: float, place: object) -> tuple[AxisTick, ...]:
    """1, 2 and 5 times powers of ten inside the ends, thinned until labels have room."""
    assert callable(place)
    decades = range(math.floor(math.log10(low_us)), math.ceil(math.log10(high_us)) + 1)
    found: list[AxisTick] = []
    for value in (factor * 10.0**power for power in decades for factor in (1, 2, 5)):
        if low_us <= value <= high_us:
            tick = AxisTick(at=place(value), label=time_text(value))
            if not found or label_ends(tick)[0] >= label_ends(found[-1])[1] + CHARACTER:
                found.append(tick)
    return tuple(found) or (AxisTick(at=PLOT_LEFT, label=time_text(low_us)),)


def label_ends(tick: AxisTick) -> tuple[float, float]:
    """Where the label of a tick of a distribution begins and ends: the template keeps it inside the plot."""
    width = CHARACTER * len(tick.label)
    start = tick.at if tick.at < EDGE else tick.at - width if tick.at > PLOT_RIGHT + PLOT_LEFT - EDGE else None
    return (start, start + width) if start is not None else (tick.at - width / 2, tick.at + width / 2)


def timeline(document: BenchReport) -> LineChart | None:
    """The median of each stretch of time with a band up to its p90, launch by launch; None without stretches."""
    launch_s = document.configuration.duration_s / max(1, document.configuration.launches)
    series = []
    for number, launch in enumerate(document.launches):
        parts = launch.windows
        if parts:
            middle = [window.p50_us for window in parts]
            series.append(
                PlotSeries(
                    role="student",
                    name=f"launch {number + 1}",
                    x=[(number + (part + 0.5) / len(parts)) * launch_s for part in range(len(parts))],
                    y=middle,
                    low=middle,
                    high=[window.p90_us for window in parts],
                )
            )
    if not series:
        return None
    values = [value for one in series for value in (*one.y, *one.high)]
    ms = max(value for value in values if value is not None) >= 999.5
    low, high = (min(x for one in series for x in one.x), max(x for one in series for x in one.x))
    medians = [value for one in series for value in one.y if value is not None]
    return line_chart(
        series,
        title="Latency over the run",
        description=f"Medians of {len(medians)} stretches of time run from {time_text(min(medians))} "
        f"to {time_text(max(medians))}.",
        x_label="measured seconds, launch after launch",
        x_axis=axis([0.0, low, high, document.configuration.duration_s]),
        y_axis=axis([0.0, *values], floor=0.0),
        x_text=significant,
        y_text=lambda value: significant(value / 1e3) if ms else significant(value),
    )


def timeline_unit(document: BenchReport) -> str:
    """The unit of the figures beside the timeline."""
    values = [window.p90_us for launch in document.launches for window in launch.windows]
    return "ms" if values and max(values) >= 999.5 else "µs"


def stage_bars(document: BenchReport) -> tuple[StageBar, ...]:
    """The steps of a call, each with its share of them all."""
    stages = document.result.stages
    total = sum(stage.p50_us for stage in stages) or 1.0
    return tuple(
        StageBar(
            name=stage.name,
            width=round(100 * stage.p50_us / total, 2),
            p50=time_text(stage.p50_us),
            p90=time_text(stage.p90_us),
        )
        for stage in stages
    )


def device_panel(documents: Sequence[BenchReport], names: Sequence[str]) -> DotPanel:
    """Runs beside each other: p50 of every launch as a dot, p50 of the run as a bar."""
    values = [launch.latency.value_us(0.5) for document in documents for launch in document.launches]
    over = axis([0.0, *values, *(document.result.latency.value_us(0.5) for document in documents)], floor=0.0)
    height = row_height(names)
    rows = tuple(
        _device_row(document, name, (number + 0.5) * height, over)
        for number, (document, name) in enumerate(zip(documents, names, strict=True))
    )
    spoken = "; ".join(f"{row.name} {row.mean}" for row in rows)
    return DotPanel(
        title="p50, one dot per launch",
        description=f"Median latency: {spoken}.",
        rows=rows,
        links=(),
        ticks=tuple(AxisTick(at=_percent(over, tick), label=time_text(tick) if tick else "0") for tick in over.ticks),
        reference_x=None,
        height=len(rows) * height,
    )


def _device_row(document: BenchReport, name: str, y: float, over: Axis) -> DotRow:
    p50_us = document.result.latency.value_us(0.5)
    return DotRow(
        role="student",
        name=name,
        mean=time_text(p50_us),
        spread="",
        y=y,
        mean_x=None if p50_us is None else _percent(over, p50_us),
        dots=tuple(
            Dot(x=_percent(over, value), title=f"launch {number}: {time_text(value)}")
            for number, launch in enumerate(document.launches, start=1)
            if (value := launch.latency.value_us(0.5)) is not None
        ),
    )


def _percent(over: Axis, value: float) -> float:
    return round(100 * over.place(value), 2)
