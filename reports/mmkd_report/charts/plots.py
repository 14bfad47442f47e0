"""The geometry of figures: figures in, positions and labels out; `templates/figures.html.j2` draws them.

Owns axes, dot panels, line charts and attention maps, and knows nothing of colours (that is `figures.css`) or of what
is plotted. Horizontal positions of dot panels are percentages of the width, so that dots and letters keep their size on
every screen; line charts and maps have a fixed view box and are laid out in columns instead.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmkd_report.words.formats import is_figure

CHART_WIDTH, CHART_HEIGHT = 340.0, 172.0
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 42.0, 332.0, 10.0, 138.0
MOST_POINTS = 160  # per line: more than a phone shows, and enough for every bend of a training run
MAP_SIZE = 240.0
MOST_MAP_CELLS = 96  # per side: a cell of a larger map would be smaller than a point on a phone
ROW_HEIGHT = 30.0
NAME_LINE = 15.0  # of a name in a dot panel, see figures.css
NAME_CHARACTERS = 13  # in a line of 7rem, with room for words that break


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A stretch of numbers and the round ones in it that get a label."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where `value` lies between the ends: 0 at `low`, 1 at `high`; values outside stay at the nearer end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True, kw_only=True)
class AxisTick:
    """A label at a position, in percent of the width or in view-box units."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One seed's figure: `x` in percent of the width."""

    x: float
    title: str


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """One competitor in a dot panel; `spread` is empty where there is none.

    `y` is the middle of its row in pixels, `mean_x` a percentage of the width.
    """

    role: str
    name: str
    mean: str
    spread: str
    y: float
    mean_x: float | None
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class SeedLink:
    """Two dots of one seed, joined: x in percent, y in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, kw_only=True)
class DotPanel:
    """One modality in the figure of accuracies: rows of dots over a shared axis."""

    title: str
    description: str
    rows: tuple[DotRow, ...]
    links: tuple[SeedLink, ...]
    ticks: tuple[AxisTick, ...]
    reference_x: float | None
    height: float


@dataclass(frozen=True, kw_only=True)
class PlotSeries:
    """The points of one line: None or NaN breaks it. `low` and `high` span a band around it."""

    role: str
    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True, kw_only=True)
class PlotLine:
    """One drawn line: SVG path data of the line and its band, and its points where there are few."""

    role: str
    name: str
    path: str
    band: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over two axes inside a view box of `CHART_WIDTH` x `CHART_HEIGHT`."""

    title: str
    description: str
    x_label: str
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    lines: tuple[PlotLine, ...]


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """One attention map as a transparent picture, with time along both sides of `MAP_SIZE`.

    `low` and `high` are the weights without colour and in full colour.
    """

    role: str
    title: str
    description: str
    picture: str
    low: float
    high: float
    ticks: tuple[AxisTick, ...]


def row_height(names: Iterable[str]) -> float:
    """The height of the rows of a dot panel in pixels, so that the longest name stands whole on a narrow screen."""
    lines = max((math.ceil(len(name) / NAME_CHARACTERS) for name in names), default=1)
    return max(ROW_HEIGHT, NAME_LINE * lines)


def axis(values: Iterable[float | None], *, floor: float = -math.inf, ceiling: float = math.inf, most: int = 5) -> Axis:
    """Round ends around `values` and at most `most` steps of 1, 2 or 5 times a power of ten between them.

    The ends never pass `floor` and `ceiling` (a share has nothing above 1). Missing figures do not count;
    without any, the axis runs from 0 to 1.
    """
    known = [value for value in values if is_figure(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = max(0.1 * abs(high), 1e-3)
        low, high = max(floor, low - pad), min(ceiling, high + pad)
    step = _round_step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    inside = tuple(round(tick, 12) for tick in ticks if floor - 1e-9 <= tick <= ceiling + 1e-9)
    return Axis(low=max(floor, ticks[0]), high=min(ceiling, ticks[-1]), ticks=inside)


def tight_axis(values: Iterable[float | None]) -> Axis:
    """An axis that ends where `values` end, with the round numbers between: for what grows, as time and steps do."""
    known = [value for value in values if is_figure(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if high <= low:
        return axis(known)
    return axis(known, floor=low, ceiling=high)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def thinned(length: int, most: int = MOST_POINTS) -> list[int]:
    """Indexes of at most `most` evenly spread points out of `length`, the first and the last among them."""
    if length <= most:
        return list(range(length))
    return sorted({round(index * (length - 1) / (most - 1)) for index in range(most)})


def line_chart(
    series: Sequence[PlotSeries],
    *,
    title: str,
    description: str,
    x_label: str,
    x_axis: Axis,
    y_axis: Axis,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> LineChart:
    """The lines of `series` inside the axes; `x_text` and `y_text` write the labels of ticks."""
    return LineChart(
        title=title,
        description=description,
        x_label=x_label,
        x_ticks=tuple(AxisTick(at=_chart_x(x_axis, tick), label=x_text(tick)) for tick in x_axis.ticks),
        y_ticks=tuple(AxisTick(at=_chart_y(y_axis, tick), label=y_text(tick)) for tick in y_axis.ticks),
        lines=tuple(_line(one, x_axis, y_axis) for one in series),
    )


def _line(series: PlotSeries, x_axis: Axis, y_axis: Axis) -> PlotLine:
    keep = thinned(len(series.x))

    def placed(values: Sequence[float | None]) -> list[tuple[float, float] | None]:
        picked = [(series.x[index], values[index]) for index in keep]
        return [(_chart_x(x_axis, x), _chart_y(y_axis, y)) if is_figure(y) else None for x, y in picked]

    middle = placed(series.y)
    points = tuple(point for point in middle if point is not None)
    band = ""
    if series.low and series.high:
        edges = [pair for pair in zip(placed(series.low), placed(series.high), strict=True) if None not in pair]
        outline = [low for low, _ in edges] + [high for _, high in reversed(edges)]
        band = _path(outline) + "Z" if len(edges) > 1 else ""
    return PlotLine(
        role=series.role, name=series.name, path=_path(middle), band=band, points=points if len(points) <= 12 else ()
    )


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    """SVG path data; a missing point lifts the pen."""
    written, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        written.append(f"{pen}{point[0]:g} {point[1]:g}")
        pen = "L"
    return "".join(written)


def _chart_x(over: Axis, value: float) -> float:
    return round(PLOT_LEFT + over.place(value) * (PLOT_RIGHT - PLOT_LEFT), 1)


def _chart_y(over: Axis, value: float) -> float:
    return round(PLOT_BOTTOM - over.place(value) * (PLOT_BOTTOM - PLOT_TOP), 1)


def attention_map(
    weights: Sequence[Sequence[float]],
    *,
    role: str,
    title: str,
    description: str,
    rgb: tuple[int, int, int],
    ticks: tuple[AxisTick, ...],
) -> AttentionMap:
    """A map of (queries, keys) weights as a picture in one colour: the larger the weight, the less transparent.

    No colour stands for the 1st percentile of the weights and full colour for the 99th, so that neither one peak nor a
    common floor hides the rest; both are told as `low` and `high`, since a flat map would look as lively as any other.
    """
    pooled = _pooled(weights)
    known = sorted(weight for row in pooled for weight in row if is_figure(weight)) or [0.0]
    low, high = known[math.floor(0.01 * (len(known) - 1))], known[math.ceil(0.99 * (len(known) - 1))]
    picture = base64.b64encode(png_from_shades(_shades(pooled, low, high), rgb)).decode("ascii")
    return AttentionMap(
        role=role,
        title=title,
        description=description,
        picture=f"data:image/png;base64,{picture}",
        low=low,
        high=high,
        ticks=ticks,
    )


def _pooled(weights: Sequence[Sequence[float]]) -> list[list[float]]:
    """The map with at most `MOST_MAP_CELLS` rows and columns: means over blocks."""
    rows, columns = _blocks(len(weights)), _blocks(len(weights[0]))
    return [
        [
            math.fsum(weights[row][column] for row in range(*tall) for column in range(*wide))
            / ((tall[1] - tall[0]) * (wide[1] - wide[0]))
            for wide in columns
        ]
        for tall in rows
    ]


def _blocks(length: int) -> list[tuple[int, int]]:
    parts = min(length, MOST_MAP_CELLS)
    return [(index * length // parts, (index + 1) * length // parts) for index in range(parts)]


def _shades(weights: Sequence[Sequence[float]], low: float, high: float) -> list[bytes]:
    """Rows of opacities: 0 up to `low` and where a weight is missing, 255 from `high` on."""
    scale = 255.0 / (high - low) if high > low else 0.0
    return [
        bytes(round(min(255.0, max(0.0, (weight - low) * scale))) if is_figure(weight) else 0 for weight in row)
        for row in weights
    ]


def png_from_shades(shades: Sequence[bytes], rgb: tuple[int, int, int]) -> bytes:
    """A PNG whose pixels all have the colour `rgb` and the opacity of `shades` (rows of bytes).

    Format: PNG specification (ISO/IEC 15948), an 8-bit palette of one colour with a transparency table (tRNS).
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", len(shades[0]), len(shades), 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in shades), 9)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", bytes(rgb) * 256),
            chunk(b"tRNS", bytes(range(256))),
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        )
    )
