"""The page of a dataset: what is to be doubted, signals, sensors, balance, channels, labels.

Owns sentences, tables and figures; judges nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmkd_report.charts.plots import LineChart, PlotSeries, axis, line_chart, tight_axis
from mmkd_report.documents.data import ChannelFacts, DataReport, DriftFacts, ExampleWindow, ProbeFacts, read_data_report
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import NOTHING, THIN, count, fixed, percent, significant, things, with_unit

_ROLES = ("student", "teacher", "other", "baseline")
_MOST_SUSPECTS = 50
_MOST_DRIFTS = 6


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The examples of one modality, and what its lines are."""

    name: str
    key: tuple[tuple[str, str], ...]
    charts: tuple[LineChart, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """What one sensor tells of the class, as written; `width` is in percent of the full bar."""

    name: str
    score: str
    low: str
    width: float
    is_better: bool


def render_data_report(document: Mapping[str, Any]) -> str:
    """The page of one dataset as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        document: What `mmkd-data report --json` writes.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_data_report(document)
    sensors = [one for one in found.probes if one.asked == "class"]
    return render_page(
        "data.html.j2",
        {
            "found": found,
            "answer": tuple(_answer(found, sensors)),
            "doubts": [(one, _set(one.sentence), _set(one.advice)) for one in found.suspicions],
            "not_judged": [_set(text) for text in found.not_judged],
            "signals": tuple(_signals(found)),
            "sensors": [_probe_row(one) for one in sensors],
            "guess": percent(sensors[0].guessing) if sensors else NOTHING,
            "others": [
                (one.asked, _probe_row(one), percent(one.guessing)) for one in found.probes if one not in sensors
            ],
            "classes": list(found.splits[0].classes),
            "channels": [(one, _channel_cells(one)) for one in found.channels],
            "drifts": tuple(_drift_chart(one) for one in _largest(found.drift)),
            "suspects": found.label_suspects[:_MOST_SUSPECTS],
        },
    )


def _set(sentence: str) -> str:
    """A sentence of the document as the page sets it: a thin space before percent signs, as in its figures."""
    return re.sub(r"(?<=\d)%", f"{THIN}%", sentence)


def _answer(found: DataReport, sensors: list[ProbeFacts]) -> Iterator[str]:
    """What a reader wants to know first."""
    grave = sum(one.is_grave for one in found.suspicions)
    if not found.suspicions:
        yield "Nothing was found that is to be doubted."
    elif grave:
        yield (
            f"{things(grave, 'finding')} would make scores or students wrong; "
            f"{things(len(found.suspicions) - grave, 'more is', 'more are')} worth knowing."
        )
    else:
        known = things(len(found.suspicions), "finding is", "findings are")
        yield f"Nothing would make scores wrong; {known} worth knowing."
    single = [one for one in sensors if one.modality is not None]
    if len(single) > 1:
        best, all_of_them = max(single, key=lambda one: one.score), sensors[0]
        verdict = "" if best.is_better else ", which is no better than guessing"
        yield (
            f"Of single sensors {best.modality} tells the classes best: a quick probe reaches "
            f"{with_unit(percent(best.score), '%')} balanced accuracy{verdict}; all sensors together reach "
            f"{with_unit(percent(all_of_them.score), '%')}, guessing {with_unit(percent(best.guessing), '%')}."
        )


def _probe_row(one: ProbeFacts) -> ProbeRow:
    return ProbeRow(
        name=one.modality or "all sensors",
        score=percent(one.score),
        low=f"{percent(one.low)} to {percent(one.high)}",
        width=round(100 * one.score, 1),
        is_better=one.is_better,
    )


def _signals(found: DataReport) -> Iterator[Signals]:
    for name in dict.fromkeys(one.modality for one in found.examples):
        examples = [one for one in found.examples if one.modality == name]
        unit = next(one.unit for one in found.channels if one.modality == name)
        yield Signals(
            name=f"{name}, {unit}" if unit else name,
            key=tuple(zip(_ROLES, examples[0].channels, strict=False)),
            charts=tuple(_example_chart(one, examples) for one in examples),
        )


def _example_chart(one: ExampleWindow, examples: list[ExampleWindow]) -> LineChart:
    """One window; all of a modality share one axis."""
    step_s = one.duration_s / max(1, len(one.values[0]))
    seconds = [number * step_s for number in range(len(one.values[0]))]
    known = [value for other in examples for line in other.values for value in line if value is not None]
    gaps = "" if one.missing == 0 else f", {percent(one.missing)} % missing"
    where = f"{one.split} window {one.window}{gaps}"
    return line_chart(
        [
            PlotSeries(role=role, name=channel, x=seconds, y=line)
            for role, channel, line in zip(_ROLES, one.channels, one.values, strict=False)
        ],
        title=one.label,
        description=f"{one.label}: {where}, {', '.join(one.channels)} over {one.duration_s:g} seconds.",
        x_label=f"seconds; {where}",
        x_axis=tight_axis([0.0, one.duration_s]),
        y_axis=axis(known),
        x_text=lambda value: f"{value:g}",
        y_text=lambda value: f"{value:g}".replace("-", "\u2212"),
    )


def _largest(drift: tuple[DriftFacts, ...]) -> list[DriftFacts]:
    return sorted(drift, key=lambda one: -abs(one.shift))[:_MOST_DRIFTS]


def _drift_chart(one: DriftFacts) -> LineChart:
    places = [float(number + 1) for number in range(len(one.levels))]
    spoken = ", ".join(f"{level:.4g}" for level in one.levels)
    return line_chart(
        [PlotSeries(role="student", name=one.channel, x=places, y=one.levels)],
        title=f"{one.modality} {one.channel}",
        description=f"Mean level of each tenth: {spoken}.",
        x_label=f"tenth of the campaign; {fixed(one.shift)} standard deviations",
        x_axis=tight_axis(places),
        y_axis=axis(one.levels),
        x_text=lambda value: count(value),
        y_text=lambda value: f"{value:g}".replace("-", "\u2212"),
    )


def _channel_cells(one: ChannelFacts) -> tuple[tuple[str, str], ...]:
    """Label and text of each cell of a row."""
    worst = max(one.missing.values())
    return (
        ("Rate, Hz", f"{one.rate_hz:g}"),
        ("Lowest", significant(one.low)),
        ("Mean", significant(one.mean)),
        ("Highest", significant(one.high)),
        ("Spread", significant(one.std)),
        ("Missing, %", percent(worst)),
        ("Flat windows, %", percent(one.flat)),
        ("At the limit, %", percent(one.at_limit, 2)),
    )
