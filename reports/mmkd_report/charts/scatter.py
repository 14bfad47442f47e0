"""Scatter charts: points over two axes, with the front of those that no other beats.

Owns their geometry; `templates/export_figures.html.j2` draws it, colours come from the style sheet by role.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmkd_report.charts.plots import PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, Axis, AxisTick

SCATTER_BOTTOM = 190.0
"""Lower edge of the plot; the view box ends 34 below it."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing that was measured: small `x` is good, large `y` is good. Only a `kept` one may be on the front."""

    role: str
    shape: str
    title: str
    x: float
    y: float
    kept: bool = True


@dataclass(frozen=True, kw_only=True)
class DrawnPoint:
    """A drawn point."""

    role: str
    shape: str
    title: str
    x: float
    y: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Points, their front as SVG path data, and a floor that points should stay above; None where there is none."""

    title: str
    description: str
    x_label: str
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    marks: tuple[DrawnPoint, ...]
    front: str
    floor_y: float | None


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The kept points that no other kept one beats: smaller `x` without a smaller `y`; from left to right."""
    front: list[Point] = []
    for point in sorted((point for point in points if point.kept), key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return tuple(front)


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    description: str,
    x_label: str,
    x_axis: Axis,
    y_axis: Axis,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    floor: float | None = None,
) -> Scatter:
    """The points inside the axes; `x_text` and `y_text` write the labels of ticks, `floor` is a value of y."""
    return Scatter(
        title=title,
        description=description,
        x_label=x_label,
        x_ticks=tuple(AxisTick(at=_x(x_axis, tick), label=x_text(tick)) for tick in x_axis.ticks),
        y_ticks=tuple(AxisTick(at=_y(y_axis, tick), label=y_text(tick)) for tick in y_axis.ticks),
        marks=tuple(
            DrawnPoint(
                role=point.role,
                shape=point.shape,
                title=point.title,
                x=_x(x_axis, point.x),
                y=_y(y_axis, point.y),
                kept=point.kept,
            )
            for point in points
        ),
        front=_steps([(_x(x_axis, point.x), _y(y_axis, point.y)) for point in pareto_front(points)]),
        floor_y=None if floor is None else _y(y_axis, floor),
    )


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """A staircase through the front: what can be had for a latency, to the right end of the plot."""
    if not points:
        return ""
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for x, y in points[1:]:
        path += f"H{x:g}V{y:g}"
    return f"{path}H{PLOT_RIGHT:g}"


def _x(over: Axis, value: float) -> float:
    return round(PLOT_LEFT + over.place(value) * (PLOT_RIGHT - PLOT_LEFT), 1)


def _y(over: Axis, value: float) -> float:
    return round(SCATTER_BOTTOM - over.place(value) * (SCATTER_BOTTOM - PLOT_TOP), 1)
