"""The section on shift: a row for each domain that was left out, means with intervals, and the end of the campaign."""

from __future__ import annotations

from dataclasses import dataclass

from mmkd_report.documents.figures import Measure
from mmkd_report.documents.judging import DomainSpread, ShiftFacts
from mmkd_report.pages.judging.rows import FigureRow
from mmkd_report.words.formats import NOTHING, count, fixed, is_figure, significant
from mmkd_report.words.measures import figure, gain_interval


@dataclass(frozen=True, kw_only=True)
class ShiftSection:
    """All of the section."""

    about: str
    by: str
    measure: str
    names: tuple[str, ...]
    rows: tuple[FigureRow, ...]
    absent: tuple[str, ...]
    time: str


def shift_section(found: ShiftFacts) -> ShiftSection:
    """The section; contestants stand in the order of the document."""
    names = tuple(found.models)
    rows = [
        FigureRow(
            name=one.name,
            aside=f"{one.shared_groups} groups in training too" if one.shared_groups else "",
            windows=count(one.windows),
            figures=tuple(figure(one.figures[name], found.measure) for name in names),
        )
        for one in found.domains
    ]
    means = tuple(_spread(found.models[name], found.measure) for name in names)
    gains = tuple(_gain(found.gains.get(name), found.measure) for name in names)
    unit = found.measure.gain_unit
    return ShiftSection(
        about=(
            f"Trained anew without one {found.by} at a time and judged on it: a {found.teacher} teacher of all sensors "
            f"({found.steps[0]} steps), and for {found.sensor} a {found.student} student taught by it and one taught by"
            f" labels alone ({found.steps[1]} steps each), {found.labels}. {_choosing(found)}{_unknown(found)} "
            "Intervals are 95 % over domains, by Student's t."
        ),
        by=found.by,
        measure=_title(found.measure),
        names=names,
        rows=(
            *rows,
            FigureRow(name="mean", aside="95 % interval", windows="", figures=means),
            FigureRow(name="student better by", aside=unit, windows="", figures=gains),
        ),
        absent=tuple(f"{name}: {why}" for name, why in found.absent.items()),
        time=_time(found),
    )


def _choosing(found: ShiftFacts) -> str:
    if found.has_groups:
        return "Groups that chose are unseen in training too."
    return "The dataset has no groups: its own validation windows chose, and nobody knows whose they are."


def _unknown(found: ShiftFacts) -> str:
    return f" {count(found.unknown)} windows without a value of {found.by} were left out." if found.unknown else ""


def _time(found: ShiftFacts) -> str:
    if found.time is None:
        return ""
    train, valid, test = (count(windows) for windows in found.time.windows)
    measure = found.time.measure
    figures = ", ".join(f"{name} {figure(value, measure)}" for name, value in found.time.figures.items())
    return (
        f"Trained on the first {train} windows of the campaign, chosen by the {valid} after them, judged on the last "
        f"{test}: {_title(measure)} {figures}."
    )


def _title(measure: Measure) -> str:
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def _spread(one: DomainSpread, measure: Measure) -> str:
    if not (is_figure(one.low) and is_figure(one.high)):
        return figure(one.mean, measure)
    return f"{figure(one.mean, measure)} ({figure(one.low, measure)} to {figure(one.high, measure)})"


def _gain(one: DomainSpread | None, measure: Measure) -> str:
    if one is None:
        return NOTHING
    written = fixed if measure.is_share else significant
    ends = f" ({gain_interval(one.low, one.high, measure)})" if is_figure(one.low) and is_figure(one.high) else ""
    return f"{written(one.mean)}{ends}"
