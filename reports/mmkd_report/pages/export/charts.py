"""The figures of the export page: accuracy against latency, sensitivity of layers, histograms of activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.charts.plots import PLOT_RIGHT, Axis, AxisTick, axis, tight_axis
from mmkd_report.charts.scatter import Point, Scatter, scatter
from mmkd_report.documents.export import ActivationHistogram, ArtifactReport, ExportDocument, LayerSensitivity
from mmkd_report.documents.figures import Measure
from mmkd_report.pages.export.answer import TimedArtifact, backend_name, error_text, latency_text, timed
from mmkd_report.words.formats import TIMES, count, fixed, is_figure, percent, plain, significant, with_unit
from mmkd_report.words.measures import figure, tick

SHAPES = {"ort": "circle", "openvino": "square"}
ROLES = ("fp32", "fp16", "int8")

HISTOGRAM_LEFT, HISTOGRAM_TOP, HISTOGRAM_BOTTOM = 8.0, 6.0, 86.0


@dataclass(frozen=True, kw_only=True)
class ArtifactPareto:
    """Accuracy against latency: the chart, its key (role, shape, name, hollow), and what its height is."""

    chart: Scatter
    key: tuple[tuple[str, str, str, bool], ...]
    measure: str


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """One layer: its product, a bar in percent of the largest, its figures, and why it stays float32, if it does."""

    layer: str
    product: str
    width: float
    divergence: str
    max_abs_error: str
    kept_float: str | None


@dataclass(frozen=True, kw_only=True)
class ClippingHistogram:
    """One tensor: SVG path data of what INT8 represents and of what it clips, and where the clipping begins."""

    title: str
    description: str
    caption: str
    path: str
    clipped_path: str
    limit_x: float | None
    ticks: tuple[AxisTick, ...]


def precision_role(precision: str) -> str:
    """The role that gives a precision its colour."""
    return precision if precision in ROLES else "other"


def pareto(export: ExportDocument) -> ArtifactPareto | None:
    """The chart; None where fewer than two ways to run were timed."""
    found = timed(export)
    if len(found) < 2:
        return None
    metric = export.report.chosen_by
    scored = all(is_figure(one.artifact.score(metric.name)) for one in found)
    points = [_point(one, metric=metric, scored=scored) for one in found]
    floor = _floor(export, metric=metric) if scored else None
    agreeing = f"share of windows with the checkpoint's {export.report.answered}"
    percents = metric.is_share or not scored
    measure = (metric.words if scored else agreeing) + " on the judging windows" + (", in percent" if percents else "")
    heights = [point.y for point in points] + ([floor] if floor is not None else [])
    over = axis(heights, floor=metric.floor if scored else 0.0, ceiling=1.0)
    unit, scale = ("ms", 1000.0) if found[-1].latency_us >= 1000 else ("µs", 1.0)
    points = [_scaled(point, scale) for point in points]
    chart = scatter(
        points,
        title="Accuracy against latency",
        description="; ".join(point.title for point in points) + ".",
        x_label=f"median latency of one window, {unit}",
        x_axis=axis([0.0, *(point.x for point in points)], floor=0.0),
        y_axis=over,
        x_text=plain,
        y_text=(lambda value: percent(value, _digits(over))) if percents else (lambda value: tick(value, metric)),
        floor=floor,
    )
    key = tuple((precision_role(one.artifact.precision), _shape(one), one.name, not one.kept) for one in found)
    return ArtifactPareto(chart=chart, key=key, measure=measure)


def _point(one: TimedArtifact, *, metric: Measure, scored: bool) -> Point:
    value = one.artifact.score(metric.name) if scored else one.artifact.parity.label_agreement
    height = value if is_figure(value) else 0.0
    percents = metric.is_share or not scored
    written = with_unit(percent(height, 2), "%") if percents else f"{metric.words} {figure(height, metric)}"
    title = f"{one.name}: {latency_text(one.latency_us)}, {written}"
    return Point(
        role=precision_role(one.artifact.precision),
        shape=_shape(one),
        title=title if one.kept else f"{title}, left out",
        x=one.latency_us,
        y=height,
        kept=one.kept,
    )


def _scaled(point: Point, scale: float) -> Point:
    return Point(role=point.role, shape=point.shape, title=point.title, x=point.x / scale, y=point.y, kept=point.kept)


def _shape(one: TimedArtifact) -> str:
    return SHAPES.get(one.run.backend, "diamond")


def _floor(export: ExportDocument, *, metric: Measure) -> float | None:
    """What fp32 scores less the largest drop that was allowed; None without a gate."""
    first = export.report.artifacts[0]
    measured = [*export.report.artifacts, *(one.artifact for one in export.report.left_out if one.artifact)]
    allowed = [artifact.gate.allowed_drop_points for artifact in measured if artifact.gate]
    score = first.score(metric.name)
    return score - max(allowed) / 100 if allowed and is_figure(score) else None


def _digits(over: Axis) -> int:
    return 0 if (over.high - over.low) >= 0.04 else 1 if (over.high - over.low) >= 0.004 else 2


def sensitivity_rows(artifact: ArtifactReport) -> tuple[SensitivityRow, ...]:
    """The layers of an INT8 artifact, the most sensitive first."""
    largest = max((row.divergence for row in artifact.sensitivity if is_figure(row.divergence)), default=0.0)
    return tuple(_sensitivity_row(row, largest, artifact.float_layers) for row in artifact.sensitivity)


def _sensitivity_row(row: LayerSensitivity, largest: float, float_layers: dict[str, str]) -> SensitivityRow:
    known = row.divergence if is_figure(row.divergence) else 0.0
    return SensitivityRow(
        layer=row.layer,
        product=f"{row.rows} {TIMES} {row.inputs} {TIMES} {row.outputs}",
        width=round(100 * max(0.0, known) / largest, 1) if largest > 0 else 0.0,
        divergence=error_text(row.divergence),
        max_abs_error=error_text(row.max_abs_error),
        kept_float=float_layers.get(row.layer),
    )


def histograms(artifact: ArtifactReport) -> tuple[ClippingHistogram, ...]:
    """What the layers of an INT8 artifact read on the calibration windows, in their order."""
    return tuple(_histogram(one) for one in artifact.activations if one.bin_width > 0)


def _histogram(one: ActivationHistogram) -> ClippingHistogram:
    end = max(one.bin_width * len(one.counts), one.represented or 0.0)
    heights = [math.log10(1 + number) for number in one.counts]
    tallest = max(heights) or 1.0
    limit = one.represented
    inside = len(heights) if limit is None else min(len(heights), math.ceil(limit / one.bin_width - 1e-9))
    over = tight_axis((0.0, end))
    beyond = sum(one.counts[inside:])
    if limit is None:
        caption = f"up to {significant(one.largest)}; stays float32"
    elif beyond:
        caption = f"up to {significant(one.largest)}; INT8 to {significant(limit)}, {_share(one, beyond)} beyond it"
    else:
        caption = f"up to {significant(one.largest)}; INT8 to {significant(limit)}"
    return ClippingHistogram(
        title=_title(one.layers),
        description=f"{count(sum(one.counts))} values, {caption}.",
        caption=caption,
        path=_bars(heights[:inside], tallest, one.bin_width / end, start=0),
        clipped_path=_bars(heights[inside:], tallest, one.bin_width / end, start=inside),
        limit_x=None if limit is None else _across(limit / end),
        ticks=tuple(AxisTick(at=_across(tick / end), label=plain(tick)) for tick in over.ticks),
    )


def _share(one: ActivationHistogram, beyond: int) -> str:
    total = sum(one.counts)
    share = 100 * beyond / total
    return with_unit(fixed(share, 2), "%") if share >= 0.005 else f"{beyond} of {count(total)} values"


def _title(layers: Sequence[str]) -> str:
    """One layer by its name; several by what their names share."""
    if len(layers) == 1:
        return layers[0]
    return ", ".join((layers[0], *(name.rpartition(".")[2] for name in layers[1:])))


def _bars(heights: Sequence[float], tallest: float, width: float, *, start: int) -> str:
    """The outline of bars that touch each other: one path, however many bars there are."""
    if not heights:
        return ""
    path = f"M{_across(start * width):g} {HISTOGRAM_BOTTOM:g}"
    for number, height in enumerate(heights, start=start):
        top = HISTOGRAM_BOTTOM - height / tallest * (HISTOGRAM_BOTTOM - HISTOGRAM_TOP)
        path += f"V{top:.1f}H{_across((number + 1) * width):g}"
    return f"{path}V{HISTOGRAM_BOTTOM:g}Z"


def _across(share: float) -> float:
    return round(HISTOGRAM_LEFT + min(1.0, share) * (PLOT_RIGHT - HISTOGRAM_LEFT), 1)


def backends_of(export: ExportDocument) -> tuple[str, ...]:
    """The backends that anything was timed in, by the names of their makers."""
    return tuple(dict.fromkeys(backend_name(one.run.backend) for one in timed(export)))
