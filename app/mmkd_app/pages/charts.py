"""Line charts as inline SVG; the style sheet colours roles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mmkd_app.words import is_number, plain

if TYPE_CHECKING:
    from markupsafe import Markup

LEFT, RIGHT, TOP = 42.0, 332.0, 10.0
LINE_BOTTOM = 138.0
MAX_POINTS = 160  # per line: more than a phone shows
SELF_CLOSING = ("line", "rect", "circle", "path", "image", "input")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range and the round numbers to label."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return a position from 0 to 1, clipped."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart with a caption above."""

    kind: ClassVar = "chart"
    svg: Markup
    caption: str = ""
    style: str = ""


def axis(values: Iterable[float | None], *, floor: float = -math.inf, ceiling: float = math.inf, most: int = 5) -> Axis:
    """Return an axis with round ends and at most `most` steps, inside `floor` and `ceiling`; 0 to 1 without values."""
    known = [value for value in values if is_number(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = max(0.1 * abs(high), 1e-3)
        low, high = max(floor, low - pad), min(ceiling, high + pad)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    inside = tuple(round(value, 12) for value in ticks if floor - 1e-9 <= value <= ceiling + 1e-9)
    return Axis(low=max(floor, ticks[0]), high=min(ceiling, ticks[-1]), ticks=inside)


def tight_axis(values: Iterable[float | None]) -> Axis:
    """Return an axis that ends with `values`."""
    known = [value for value in values if is_number(value)]
    is_wide = bool(known) and min(known) < max(known)
    return axis(known, floor=min(known), ceiling=max(known)) if is_wide else axis(known)


def element(name: str, *content: str, **attributes: object) -> Markup:
    """Return an escaped XML element; `_` in attribute names becomes `-`, or nothing at the end."""
    from markupsafe import Markup

    head = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{value:g}" if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    inner = Markup("").join(content)
    if name in SELF_CLOSING and not content:
        return Markup("<{}{}/>").format(Markup(name), head)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), head, inner)


def bar(width: float, role: str) -> Markup:
    """Return a horizontal bar of `width` percent."""
    track = element("rect", class_="bar-track", width="100%", height=12, rx=2)
    fill = element("rect", class_="bar-fill", width=f"{width}%", height=12, rx=2)
    return element("svg", track, fill, class_=f"bar role-{role}", aria_hidden="true", width="100%", height=12)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points, broken by None or NaN; `low` and `high` span a band."""

    role: str
    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    x_label: str,
    x_axis: Axis,
    y_axis: Axis,
    x_text: Callable[[float], str] = lambda value: f"{value:g}",
    y_text: Callable[[float], str] = plain,
) -> Chart:
    """Draw lines over two axes; `x_text` and `y_text` write tick labels."""

    def x_at(value: float) -> float:
        return round(LEFT + x_axis.place(value) * (RIGHT - LEFT), 1)

    def y_at(value: float) -> float:
        return round(LINE_BOTTOM - y_axis.place(value) * (LINE_BOTTOM - TOP), 1)

    parts = []
    for value in y_axis.ticks:
        y = y_at(value)
        parts.append(element("line", class_="grid", x1=42, x2=332, y1=y, y2=y))
        parts.append(element("text", y_text(value), class_="tick", x=36, y=y + 4, text_anchor="end"))
    for value in x_axis.ticks:
        x = x_at(value)
        parts.append(element("line", class_="notch", x1=x, x2=x, y1=LINE_BOTTOM, y2=LINE_BOTTOM + 4))
        parts.append(element("text", x_text(value), class_="tick", x=x, y=LINE_BOTTOM + 16, text_anchor="middle"))
    parts.append(element("text", x_label, class_="axis", x=332, y=LINE_BOTTOM + 31, text_anchor="end"))
    for line in lines:
        most = min(len(line.x), MAX_POINTS)
        shown = sorted({round(index * (len(line.x) - 1) / max(1, most - 1)) for index in range(most)})
        marks = []
        if line.low and line.high:
            ends = [(x_at(line.x[at]), line.low[at], line.high[at]) for at in shown]
            edges = [(x, y_at(low), y_at(high)) for x, low, high in ends if is_number(low) and is_number(high)]
            if len(edges) > 1:
                outline = [(x, low) for x, low, _ in edges] + [(x, high) for x, _, high in reversed(edges)]
                marks.append(element("path", class_="band", d=_path(outline) + "Z"))
        values = [(line.x[at], line.y[at]) for at in shown]
        points = [(x_at(x), y_at(y)) if is_number(y) else None for x, y in values]
        marks.append(element("path", element("title", line.name), class_="line", d=_path(points)))
        if sum(point is not None for point in points) <= 12:
            for x, level in values:
                if is_number(level):
                    text = element("title", f"{line.name}: {x_text(x)}, {y_text(level)}")
                    marks.append(element("circle", text, class_="point", cx=x_at(x), cy=y_at(level), r=3))
        parts.append(element("g", *marks, class_=f"role-{line.role}"))
    texts = element("title", title), element("desc", description)
    drawn = element("svg", *texts, *parts, class_="chart", role="img", viewBox="0 0 340 172")
    return Chart(svg=drawn, caption=title)


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    written, pen = "", "M"
    for point in points:
        written += "" if point is None else f"{pen}{point[0]:g} {point[1]:g}"
        pen = "M" if point is None else "L"
    return written
