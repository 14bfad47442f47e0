"""The page of a dataset: warnings, sensors, signals, balance, channels and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_report import charts
from mmkd_report.page import (
    BAR,
    Block,
    Cell,
    Findings,
    Heading,
    Legend,
    Page,
    Row,
    Section,
    bar_cell,
    columns,
    label,
    render,
    table,
)
from mmkd_report.schema.data import DataReport, DriftFacts, ExampleWindow, ProbeFacts, read_data_report
from mmkd_report.words import NOTHING, THIN, count, counted, fixed, percent, significant, with_unit

LINE_ROLES = ("student", "teacher", "other", "baseline")
MOST_SUSPECTS = 50
MOST_DRIFTS = 6


def render_data_report(document: Mapping[str, Any]) -> str:
    """Return the page of one dataset as HTML.

    Args:
        document: What `mmkd-data report --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    data = read_data_report(document)
    probes = [one for one in data.probes if one.asked == "class"]
    parts = (
        [_findings(data)],
        _sensors(probes),
        _other_probes([one for one in data.probes if one.asked != "class"]),
        [_signals(data), _balance(data), _channels(data)],
        _drift(data),
        _suspects(data),
        _label_next(data),
    )
    groups = counted(data.groups, "group") if data.groups else "no groups"
    classes = f", {counted(len(data.labels), 'class', 'classes')}" if data.kind == "classification" else ""
    campaign = f", from {data.campaign}" if data.campaign else ""
    lede = [counted(data.windows, "window"), f"of {groups}{classes}{campaign}."]
    if data.looked_at < data.windows:
        lede.append(f"Probes and comparisons used {count(data.looked_at)} of them, evenly spaced.")
    return render(
        Page(
            title=f"{data.name}: contents and warnings",
            kind="data",
            headline=f"What is in {data.name}, and what looks wrong?",
            lede=lede,
            answer=_answer(data, probes),
            sections=[section for part in parts for section in part],
            document=f"the output of mmkd-data report --json; the dataset has the SHA-256 {data.sha256}",
        )
    )


def _sentence(text: str) -> str:
    """Return a sentence of the document as the page sets it: capitalised, a thin space before percent signs."""
    text = re.sub(r"(?<=\d)%", f"{THIN}%", text)
    return f"{text[:1].upper()}{text[1:]}."


def _answer(data: DataReport, probes: Sequence[ProbeFacts]) -> Iterator[str]:
    grave = sum(one.is_grave for one in data.suspicions)
    others = counted(len(data.suspicions) - grave, "other warning")
    wrong = f"{counted(grave, 'warning')} that would make scores or students wrong, {others}."
    yield wrong if data.suspicions else "No problems were found."
    single = [one for one in probes if one.modality is not None]
    if len(single) > 1:
        best, together = max(single, key=lambda one: one.score), probes[0]
        verdict = "" if best.is_better else ", no better than chance"
        yield (
            f"The best single sensor is {best.modality}: extra-trees reach {with_unit(percent(best.score), '%')} "
            f"balanced accuracy{verdict}, with all sensors {with_unit(percent(together.score), '%')} (chance "
            f"{with_unit(percent(best.guessing), '%')})."
        )


def _findings(data: DataReport) -> Section:
    findings = [
        (
            one.kind.capitalize() + ("" if one.is_grave else ", worth knowing"),
            _sentence(one.sentence),
            _sentence(one.advice),
            one.is_grave,
        )
        for one in data.suspicions
    ]
    checks = (
        "Copies, groups under two names, gaps that reveal the class, dead, stuck and clipped channels, wrong labels, "
        "drift and balance were checked; no problems were found."
    )
    blocks: list[Block] = [Findings(findings) if findings else checks]
    if data.not_judged:
        blocks.append(f"Not judged: {' '.join(map(_sentence, data.not_judged))}")
    return Section("findings", "Warnings", blocks)


def _interval(one: ProbeFacts) -> str:
    return f"{percent(one.low)} to {percent(one.high)}"


def _sensors(probes: Sequence[ProbeFacts]) -> Iterator[Section]:
    if probes:
        rows = [
            Row(
                [
                    one.modality or "all sensors",
                    percent(one.score),
                    bar_cell(one.score, "student" if number else "teacher"),
                    _interval(one),
                ]
            )
            for number, one in enumerate(probes)
        ]
        caption = (
            "Extra-trees on window statistics, for groups they never saw; chance is "
            f"{with_unit(percent(probes[0].guessing), '%')}. The interval resamples whole groups."
        )
        heads = ["Sensor", "Balanced accuracy, %", BAR, "99 % interval"]
        yield Section("sensors", "Which sensor separates the classes?", [table(heads, rows, caption=caption)])


def _other_probes(probes: Sequence[ProbeFacts]) -> Iterator[Section]:
    if probes:
        rows = [
            [one.asked, percent(one.score), _interval(one), percent(one.guessing), "yes" if one.is_better else "no"]
            for one in probes
        ]
        heads = ["Predicted", "Balanced accuracy, %", "99 % interval", "Chance, %", label("Leaks")]
        caption = "Facts that a model should not need. A fact leaks if its interval begins above chance."
        yield Section("leaks", "What else windows reveal", [table(heads, rows, caption=caption)])


def _signals(data: DataReport) -> Section:
    blocks: list[Block] = []
    for name in dict.fromkeys(one.modality for one in data.examples):
        examples = [one for one in data.examples if one.modality == name]
        unit = next(one.unit for one in data.channels if one.modality == name)
        blocks += [
            Heading(f"{name}, {unit}" if unit else name),
            Legend(list(zip(LINE_ROLES, examples[0].channels, strict=False))),
            columns(_example(one, examples) for one in examples),
        ]
    lead = (
        "For each class the window most like the others, and one with gaps if there are any. A gap breaks the line; "
        "windows of one sensor share an axis."
    )
    return Section("signals", "Signals", blocks, lead, "lines")


def _example(one: ExampleWindow, examples: Sequence[ExampleWindow]) -> charts.Chart:
    step_s = one.duration_s / max(1, len(one.values[0]))
    seconds = [number * step_s for number in range(len(one.values[0]))]
    gaps = "" if one.missing == 0 else f", {percent(one.missing)} % missing"
    where = f"{one.split} window {one.window}{gaps}"
    return charts.line_chart(
        [
            charts.Line(role=role, name=channel, x=seconds, y=line)
            for role, channel, line in zip(LINE_ROLES, one.channels, one.values, strict=False)
        ],
        title=one.label,
        description=f"{one.label}: {where}, {', '.join(one.channels)} over {one.duration_s:g} seconds.",
        x_label=f"seconds; {where}",
        x_axis=charts.tight_axis([0.0, one.duration_s]),
        y_axis=charts.axis(value for other in examples for line in other.values for value in line),
    )


def _balance(data: DataReport) -> Section:
    splits = data.splits
    rows = [[name, *(count(one.classes[name]) for one in splits)] for name in splits[0].classes]
    rows += [
        ["unlabelled", *(count(one.unlabelled) for one in splits)],
        ["all", *(count(one.windows) for one in splits)],
        ["groups", *(count(one.groups) for one in splits)],
        ["largest group, %", *(percent(one.largest_group) for one in splits)],
    ]
    heads = ["", *(one.split for one in splits)]
    return Section("balance", "Classes and groups", [table(heads, rows, caption="Windows of each split.")])


def _channels(data: DataReport) -> Section:
    heads = [
        *("Channel", "Rate, Hz", "Lowest", "Mean", "Highest", "Standard deviation"),
        *("Missing, %", "Flat windows, %", "At the limit, %"),
    ]
    rows = [
        Row(
            [
                Cell(f"{one.modality} {one.channel}", note="" if one.is_continuous else "few values"),
                f"{one.rate_hz:g}",
                *map(significant, (one.low, one.mean, one.high, one.std)),
                percent(max(one.missing.values())),
                percent(one.flat),
                percent(one.at_limit, 2),
            ]
        )
        for one in data.channels
    ]
    caption = (
        "Over all windows; missing is of the worst split. A flat window has one value; at the limit are samples that "
        "have the lowest or highest value three times in a row. Both are judged for channels with many values."
    )
    return Section("channels", "Channels", [table(heads, rows, caption=caption, style="results")])


def _drift(data: DataReport) -> Iterator[Section]:
    largest = sorted(data.drift, key=lambda one: -abs(one.shift))[:MOST_DRIFTS]
    if largest:
        lead = (
            "Mean level of each tenth of the windows in order of time, without the part that the classes explain; the "
            "channels that move most."
        )
        yield Section("drift", "Over the campaign", [columns(map(_drift_chart, largest))], lead)


def _drift_chart(one: DriftFacts) -> charts.Chart:
    places = [float(number + 1) for number in range(len(one.levels))]
    return charts.line_chart(
        [charts.Line(role="student", name=one.channel, x=places, y=one.levels)],
        title=f"{one.modality} {one.channel}",
        description=f"Mean level of each tenth: {', '.join(f'{level:.4g}' for level in one.levels)}.",
        x_label=f"tenth of the campaign; {fixed(one.shift)} standard deviations",
        x_axis=charts.tight_axis(places),
        y_axis=charts.axis(one.levels),
        x_text=count,
    )


def _suspects(data: DataReport) -> Iterator[Section]:
    suspects, total = data.label_suspects[:MOST_SUSPECTS], len(data.label_suspects)
    if suspects:
        rows = [
            [
                f"{one.split} {one.window}",
                one.group or NOTHING,
                one.label,
                one.likely,
                percent(one.likely_probability, 0),
            ]
            for one in suspects
        ]
        first = f" These are the first {len(suspects)} of {total}." if len(suspects) < total else ""
        caption = (
            "Labels that a probe contradicts which never saw the window's group, the largest majority for another "
            f"class first.{first}"
        )
        heads = [*(label(name) for name in ("Window", "Group", "Label", "Probably")), "Votes, %"]
        yield Section("labels", "Labels to look at", [table(heads, rows, caption=caption)])


def _label_next(data: DataReport) -> Iterator[Section]:
    if data.to_label:
        rows = [
            [f"train {one.window}", one.group or NOTHING, one.start or NOTHING, one.likely, percent(one.probability, 0)]
            for one in data.to_label
        ]
        caption = (
            "Unlabelled training windows that a probe is least certain about, far from each other. mmkd-data report "
            "DIR --label-next FILE.csv writes them for the importer."
        )
        heads = [*(label(name) for name in ("Window", "Group", "From", "Probably")), "Votes, %"]
        yield Section("next", "Label these next", [table(heads, rows, caption=caption)])
