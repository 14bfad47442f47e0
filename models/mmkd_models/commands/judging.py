"""`mmkd-evaluate --suite`: how what suites found looks on a terminal."""

from __future__ import annotations

from typing import get_args

from mmkd_edge.cli.show import plain_table, show_table
from mmkd_report.schema.cost import CostFacts
from mmkd_report.schema.figures import Measure
from mmkd_report.schema.judging import (
    FaultsFacts,
    GroupMeasure,
    GroupsFacts,
    JudgingDocument,
    ShiftFacts,
    TrustFacts,
)

_MEASURES: tuple[GroupMeasure, ...] = get_args(GroupMeasure)


def show_judging(document: JudgingDocument) -> None:
    """Prints the verdict, and a table for each suite."""
    data = document.data
    print(
        f"{', '.join(one.name for one in document.models)} on {data.windows} {data.part} of {data.name} ({data.apart})"
    )
    for sentence in document.verdict:
        print(f"{sentence}.")
    if document.faults is not None:
        _show_faults(document, document.faults)
    if document.shift is not None:
        _show_shift(document.shift)
    if document.groups is not None:
        _show_groups(document, document.groups)
    if document.confidence is not None:
        _show_confidence(document, document.confidence)
    if document.cost is not None:
        _show_cost(document.cost)
    for caution in document.cautions:
        print(f"caution: {caution}")


def _show_faults(document: JudgingDocument, found: FaultsFacts) -> None:
    names = [one.name for one in document.models]
    is_share = found.measure != "rmse"
    what = f"error, {'% below full ' + found.measure.replace('_', ' ') if is_share else 'rmse'}"
    table = plain_table([f"fault of {', '.join(found.sensors)}", *names, "practised", *_against(document)])
    scale = 100 if is_share else 1
    sound = [f"{scale * found.sound[name]:.3g}" for name in names]
    table.add_row("none", *sound, "", *("" for _ in _against(document)))
    for one in found.faults:
        errors = [f"{scale * sum(one.errors[name]) / len(one.errors[name]):.3g}" for name in names]
        known = one.practised[names[0]]
        beside = [f"{one.relative[names[0]]:.0%}" if names[0] in one.relative else "-" for _ in _against(document)]
        table.add_row(one.name, *errors, "unknown" if known is None else "yes" if known else "unseen", *beside)
    print(f"{what}, mean of severities {', '.join(f'{one:g}' for one in found.severities)}:")
    show_table(table)
    if found.left_out:
        print(f"left out, these sensors cannot have it: {', '.join(found.left_out)}")


def _show_shift(found: ShiftFacts) -> None:
    """Prints a row for each domain, the mean with its interval, and what the student is better by."""
    measure, names = found.measure, list(found.models)
    print(
        f"trained anew without one {found.by} at a time, for {found.sensor}; {found.labels}; {_heading(measure)} on it:"
    )
    if found.unknown:
        print(f"windows without a value of {found.by}, which neither train nor judge: {found.unknown}")
    table = plain_table([found.by, "windows", *names])
    for one in found.domains:
        cells = [_cell(one.figures[name], measure) for name in names]
        table.add_row(one.name, str(one.windows), *cells)
    table.add_row("mean", "", *(_cell(found.models[name].mean, measure) for name in names))
    ends = [found.models[name] for name in names]
    table.add_row("95 % interval", "", *(_ends(one.low, one.high, measure.scale) for one in ends))
    gains = [found.gains.get(name) for name in names]
    table.add_row("student better by", "", *("" if one is None else f"{one.mean:+.3g}" for one in gains))
    table.add_row("95 % interval", "", *("" if one is None else _ends(one.low, one.high, 1.0) for one in gains))
    show_table(table)
    for name, why in found.absent.items():
        print(f"{name}: {why}")
    if found.time is not None:
        train, valid, test = found.time.windows
        figures = ", ".join(f"{name} {_cell(value, found.time.measure)}" for name, value in found.time.figures.items())
        print(
            f"the end of the campaign ({test} windows, trained on the first {train}, chosen by the {valid} between): "
            f"{_heading(found.time.measure)} {figures}"
        )


def _heading(measure: Measure) -> str:
    return f"{measure.words}, {measure.unit}" if measure.unit else measure.words


def _cell(value: float, measure: Measure) -> str:
    return f"{measure.scale * value:.1f}" if measure.is_share else f"{value:.3g}"


def _ends(low: float | None, high: float | None, scale: float) -> str:
    return "-" if low is None or high is None else f"{scale * low:.3g} to {scale * high:.3g}"


def _show_groups(document: JudgingDocument, found: GroupsFacts) -> None:
    names = [one.name for one in document.models]
    print(f"by {found.by}, in percent; below {found.least_windows} windows a value is not judged")
    if found.unknown:
        print(f"windows without a value of {found.by}, not judged by it: {found.unknown}")
    for what in _MEASURES:
        table = plain_table([what, "windows", *names])
        for one in found.values:
            cells = [f"{100 * one.figures[name][what]:.1f}" for name in names]
            table.add_row(one.value + ("" if one.is_judged else " (not judged)"), str(one.windows), *cells)
        gaps = [found.gaps.get(what, {}).get(name) for name in names]
        if all(gap is not None for gap in gaps):
            table.add_row("gap", "", *(f"{100 * gap.gap:.1f}" for gap in gaps if gap is not None))
            ends = [f"{100 * gap.low:.1f} to {100 * gap.high:.1f}" for gap in gaps if gap is not None]
            table.add_row("95 % interval", "", *ends)
        show_table(table)
    for change in found.changes:
        print(f"gap of {change.measure}: {change.change} ({100 * change.low:+.1f} to {100 * change.high:+.1f} points)")


def _show_confidence(document: JudgingDocument, found: TrustFacts) -> None:
    names = [one.name for one in document.models]
    table = plain_table(["estimated without labels / true accuracy / label sets that hold, %", *names])
    for rows in zip(*(found.models[name].rows for name in names), strict=True):
        held = ["-" if row.covered is None else f"{100 * row.covered:.1f}" for row in rows]
        cells = [
            f"{100 * row.estimated:.1f} / {100 * row.accuracy:.1f} / {of}" for row, of in zip(rows, held, strict=True)
        ]
        table.add_row(rows[0].condition, *cells)
    print(f"faults at severity {found.severity:g}; label sets promise {1 - found.set_level:.0%}:")
    show_table(table)


def _show_cost(found: CostFacts) -> None:
    headings = (
        "investment",
        "gain a year",
        "net present value",
        "payback month",
        "break-even stations",
        "a station-year",
    )
    example = "example, " if found.to_enter else ""
    table = plain_table([f"{example}everywhere, {found.currency}", *headings, "detection", "false alarms"])
    for way, one in found.results.items():
        sums = [f"{value:,.0f}" for value in (one.investment, one.yearly, one.net_present_value)]
        never = ["never" if value is None else str(value) for value in (one.payback_month, one.break_even_stations)]
        seen = found.equipment[way]
        shares = [f"{seen.detection:.1%}", f"{seen.false_alarms:.2%}"]
        table.add_row(way, *sums, *never, f"{one.cost_per_station_year:,.0f}", *shares)
    show_table(table)
    print(f"healthy: {', '.join(found.healthy)}; detection and false alarms are shares of {found.unit}")
    widest = [f"{one.path} ({one.at_low:,.0f} to {one.at_high:,.0f})" for one in found.swings[:3]]
    if widest:
        print(f"what decides most: {'; '.join(widest)}")


def _against(document: JudgingDocument) -> list[str]:
    """The heading of the comparison with labels alone, where there is one."""
    return [f"of {document.baseline}'s"] if document.baseline is not None else []
