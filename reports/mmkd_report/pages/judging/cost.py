"""The section on cost: what each way to equip comes to, the tornado, and sliders whose figures the page recomputes.

The script is plain, holds the formulas of the training side, and is named in the page's policy by its hash: no other
script runs, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from mmkd_report.documents.cost import EITHER_WAY, SHARES, WHOLE, Assumption, CostFacts, CostResult, Swing, example_text
from mmkd_report.pages.page import TEMPLATES
from mmkd_report.words.formats import count, percent

_MOST_SWINGS = 12
FIGURES = {
    "investment": "Investment",
    "yearly": "Gain a year",
    "net_present_value": "Net present value",
    "payback_month": "Payback month",
    "break_even_stations": "Break-even stations",
    "cost_per_station_year": "Cost a station and year",
}


@dataclass(frozen=True, kw_only=True)
class Slider:
    """One assumption: what it is now, how far it goes, and where it comes from."""

    path: str
    name: str
    value: str
    most: str
    step: str
    mark: str


@dataclass(frozen=True, kw_only=True)
class SwingRow:
    """One bar of the tornado: from `start`, `width` percent of the axis."""

    path: str
    name: str
    at_low: str
    at_high: str
    start: float
    width: float


@dataclass(frozen=True, kw_only=True)
class CostSection:
    """All of the section; `rows` are by way, with key and text of each figure."""

    currency: str
    example: str
    unit: str
    healthy: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    sliders: tuple[tuple[str, tuple[Slider, ...]], ...]
    swings: tuple[SwingRow, ...]
    zero: float
    beats: str
    data: dict[str, Any]
    script: str
    policy: str


def cost_section(found: CostFacts) -> CostSection:
    """The section."""
    script = "\n" + (TEMPLATES / "cost.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    swings, zero = _swings(found.swings[:_MOST_SWINGS])
    sections = ["plant", *found.equipment]
    return CostSection(
        currency=found.currency,
        example=example_text(found.to_enter) if found.to_enter else "",
        unit=found.unit,
        healthy=", ".join(found.healthy),
        headings=tuple(FIGURES.values()),
        rows=tuple((way, _cells(result)) for way, result in found.results.items()),
        sliders=tuple(
            (section, tuple(_slider(one) for one in found.assumptions if one.path.partition(".")[0] == section))
            for section in sections
        ),
        swings=swings,
        zero=zero,
        beats="" if found.student_beats_teacher is None or found.to_enter else percent(found.student_beats_teacher, 0),
        data={
            "plant": msgspec.to_builtins(found.plant),
            "equipment": msgspec.to_builtins(found.equipment),
            "assumptions": [
                {"path": one.path, "low": one.low, "high": one.high, "follows": one.follows}
                for one in found.assumptions
            ],
            "shares": SHARES,
            "whole": WHOLE,
            "either_way": EITHER_WAY,
            "most_swings": _MOST_SWINGS,
        },
        script=script,
        policy=f"; script-src 'sha256-{digest}'",
    )


def _cells(result: CostResult) -> tuple[tuple[str, str], ...]:
    values = msgspec.to_builtins(result)
    return tuple((key, "never" if values[key] is None else count(values[key])) for key in FIGURES)


def _slider(one: Assumption) -> Slider:
    key = one.path.partition(".")[2]
    most = 1.0 if key in SHARES else max(2 * one.high, 2 * one.value, 1.0)
    if key in WHOLE:
        most, step = round(most), 1.0
    else:
        step = most / 1000
    return Slider(
        path=one.path,
        name=key.replace("_", " "),
        value=f"{one.value:.10g}",
        most=f"{most:.10g}",
        step="any" if key not in WHOLE else f"{step:g}",
        mark=one.mark,
    )


def _swings(swings: tuple[Swing, ...]) -> tuple[tuple[SwingRow, ...], float]:
    """Bars over one axis, and where 0 lies on it, in percent."""
    ends = [0.0, *(value for one in swings for value in (one.at_low, one.at_high))]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    rows = tuple(
        SwingRow(
            path=one.path,
            name=one.path.replace("_", " ").replace(".", ": "),
            at_low=count(one.at_low),
            at_high=count(one.at_high),
            start=round(100 * (min(one.at_low, one.at_high) - low) / span, 2),
            width=round(100 * abs(one.at_high - one.at_low) / span, 2),
        )
        for one in swings
    )
    return rows, round(100 * (0 - low) / span, 2)
