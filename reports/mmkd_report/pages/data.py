"""The page of a dataset: warnings, sensors, signals, balance, channels and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_report.charts import Chart, Line, axis, bar, line_chart, tight_axis
from mmkd_report.page import (
    Block,
    Cell,
    Columns,
    Findings,
    Heading,
    Heads,
    Legend,
    Page,
    Picture,
    Row,
    Section,
    Text,
    label,
    render,
    table,
)
from mmkd_report.schema.data import ChannelFacts, DataReport, DriftFacts, ExampleWindow, ProbeFacts, read_data_report
from mmkd_report.words import NOTHING, THIN, count, counted, fixed, percent, plain, significant, with_unit

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
    sampled = f"Probes and comparisons used {count(data.looked_at)} of them, evenly spaced."
    return render(
        Page(
            title=f"{data.name}: contents and warnings",
            kind="data",
            headline=f"What is in {data.name}, and what looks wrong?",
            lede=[
                (True, counted(data.windows, "window")),
                (False, f"of {groups}{classes}{campaign}."),
                *([(False, sampled)] if data.looked_at < data.windows else []),
            ],
            answer=list(_answer(data, probes)),
            sections=[section for part in parts for section in part],
            footer=f"Made by mmkd-edge from the dataset with the SHA-256 {data.sha256}. The same figures, unrounded, "
            "are "
            "in the JSON document of mmkd-data report --json.",
        )
    )


def _sentence(text: str) -> str:
    """Return a sentence of the document as the page sets it: capitalised, a thin space before percent signs."""
    text = re.sub(r"(?<=\d)%", f"{THIN}%", text)
    return f"{text[:1].upper()}{text[1:]}."


def _answer(data: DataReport, probes: Sequence[ProbeFacts]) -> Iterator[str]:
    grave = sum(one.is_grave for one in data.suspicions)
    if not data.suspicions:
        yield "No problems were found."
    elif grave:
        yield (
            f"{counted(grave, 'finding')} would make scores or students wrong; "
            f"{counted(len(data.suspicions) - grave, 'more is', 'more are')} worth knowing."
        )
    else:
        known = counted(len(data.suspicions), "finding is", "findings are")
        yield f"Nothing would make scores wrong; {known} worth knowing."
    single = [one for one in probes if one.modality is not None]
    if len(single) > 1:
        best, together = max(single, key=lambda one: one.score), probes[0]
        verdict = "" if best.is_better else ", no better than chance"
        yield (
            f"The best single sensor is {best.modality}: a quick probe reaches "
            f"{with_unit(percent(best.score), '%')} balanced accuracy{verdict}; all sensors together reach "
            f"{with_unit(percent(together.score), '%')}, chance {with_unit(percent(best.guessing), '%')}."
        )


def _findings(data: DataReport) -> Section:
    looked_for = (
        "Copies, groups under two names, gaps that reveal the class, dead, stuck and clipped channels, wrong labels, "
        "drift and balance were checked; no problems were found."
    )
    blocks: list[Block] = [Text(looked_for)]
    if data.suspicions:
        items = [
            (
                one.kind.capitalize() + ("" if one.is_grave else ", worth knowing"),
                _sentence(one.sentence),
                _sentence(one.advice),
                one.is_grave,
            )
            for one in data.suspicions
        ]
        blocks = [Findings(items=items)]
    if data.not_judged:
        reasons = "; ".join(_sentence(text)[:-1][:1].lower() + _sentence(text)[1:-1] for text in data.not_judged)
        blocks.append(Text(f"Not judged: {reasons}."))
    return Section(key="findings", title="Warnings", blocks=blocks)


def _interval(one: ProbeFacts) -> str:
    return f"{percent(one.low)} to {percent(one.high)}"


def _sensors(probes: Sequence[ProbeFacts]) -> Iterator[Section]:
    if not probes:
        return
    rows = [
        Row(
            one.modality or "all sensors",
            [
                percent(one.score),
                Cell(content=bar(round(100 * one.score, 1), "student" if number else "teacher")),
                _interval(one),
            ],
        )
        for number, one in enumerate(probes)
    ]
    heads: Heads = [label("Sensor"), "Balanced"]
    heads += [label("Bar", "wide", hidden=True), "Interval"]
    caption = (
        "Balanced accuracy in percent of extra-trees on window statistics, for groups they never saw; chance is "
        f"{percent(probes[0].guessing)}. The 99 % interval resamples whole groups."
    )
    yield Section(
        key="sensors", title="Which sensor separates the classes?", blocks=[table(heads, rows, caption=caption)]
    )


def _other_probes(probes: Sequence[ProbeFacts]) -> Iterator[Section]:
    if not probes:
        return
    rows = [
        Row(one.asked, [percent(one.score), _interval(one), percent(one.guessing), "yes" if one.is_better else "no"])
        for one in probes
    ]
    heads: Heads = [label("Predicted"), "Balanced, %", "Interval", "Chance, %"]
    caption = "Probes of facts that a model should not need. A fact leaks if its interval begins above chance."
    leaks = table([*heads, label("Leaks")], rows, caption=caption)
    yield Section(key="leaks", title="What else windows reveal", blocks=[leaks])


def _signals(data: DataReport) -> Section:
    blocks: list[Block] = []
    for name in dict.fromkeys(one.modality for one in data.examples):
        examples = [one for one in data.examples if one.modality == name]
        unit = next(one.unit for one in data.channels if one.modality == name)
        blocks += [
            Heading(f"{name}, {unit}" if unit else name),
            Legend(list(zip(LINE_ROLES, examples[0].channels, strict=False))),
            Columns(items=[[Picture(_example(one, examples))] for one in examples]),
        ]
    lead = (
        "For each class the window most like the others, and one with gaps if there are any. A gap is a break of the "
        "line; windows of one sensor share an axis."
    )
    return Section(key="signals", title="Signals", lead=lead, blocks=blocks, style="lines")


def _example(one: ExampleWindow, examples: Sequence[ExampleWindow]) -> Chart:
    step_s = one.duration_s / max(1, len(one.values[0]))
    seconds = [number * step_s for number in range(len(one.values[0]))]
    gaps = "" if one.missing == 0 else f", {percent(one.missing)} % missing"
    where = f"{one.split} window {one.window}{gaps}"
    return line_chart(
        [
            Line(role=role, name=channel, x=seconds, y=line)
            for role, channel, line in zip(LINE_ROLES, one.channels, one.values, strict=False)
        ],
        title=one.label,
        description=f"{one.label}: {where}, {', '.join(one.channels)} over {one.duration_s:g} seconds.",
        x_label=f"seconds; {where}",
        x_axis=tight_axis([0.0, one.duration_s]),
        y_axis=axis(value for other in examples for line in other.values for value in line),
    )


def _balance(data: DataReport) -> Section:
    splits = data.splits
    rows = [Row(name, [count(one.classes[name]) for one in splits]) for name in splits[0].classes]
    rows += [
        Row("unlabelled", [count(one.unlabelled) for one in splits]),
        Row("all", [count(one.windows) for one in splits]),
        Row("groups", [count(one.groups) for one in splits]),
        Row("largest group, %", [percent(one.largest_group) for one in splits]),
    ]
    heads: Heads = [label(""), *(one.split for one in splits)]
    return Section(
        key="balance", title="Classes and groups", blocks=[table(heads, rows, caption="Windows of each split.")]
    )


def _channels(data: DataReport) -> Section:
    heads = [
        "Rate, Hz",
        "Lowest",
        "Mean",
        "Highest",
        "Standard deviation",
        "Missing, %",
        "Flat windows, %",
        "At the limit, %",
    ]
    rows = [
        Row(Cell(f"{one.modality} {one.channel}", note="" if one.is_continuous else "few values"), _channel_cells(one))
        for one in data.channels
    ]
    caption = (
        "Over all windows. Missing is of the worst split; flat windows have one value throughout; at the limit are "
        "samples three times in a row at the lowest or highest value. Flat and limit are judged for channels with many "
        "different values."
    )
    channels = table([label("Channel"), *heads], rows, caption=caption, style="results")
    return Section(key="channels", title="Channels", blocks=[channels])


def _channel_cells(one: ChannelFacts) -> list[str]:
    return [
        f"{one.rate_hz:g}",
        significant(one.low),
        significant(one.mean),
        significant(one.high),
        significant(one.std),
        percent(max(one.missing.values())),
        percent(one.flat),
        percent(one.at_limit, 2),
    ]


def _drift(data: DataReport) -> Iterator[Section]:
    largest = sorted(data.drift, key=lambda one: -abs(one.shift))[:MOST_DRIFTS]
    if largest:
        lead = (
            "Mean level of each tenth of the windows in order of time, without the part that the classes explain; the "
            "channels that move most."
        )
        charts = Columns(items=[[Picture(_drift_chart(one))] for one in largest])
        yield Section(key="drift", title="Over the campaign", lead=lead, blocks=[charts])


def _drift_chart(one: DriftFacts) -> Chart:
    places = [float(number + 1) for number in range(len(one.levels))]
    return line_chart(
        [Line(role="student", name=one.channel, x=places, y=one.levels)],
        title=f"{one.modality} {one.channel}",
        description=f"Mean level of each tenth: {', '.join(f'{level:.4g}' for level in one.levels)}.",
        x_label=f"tenth of the campaign; {fixed(one.shift)} standard deviations",
        x_axis=tight_axis(places),
        y_axis=axis(one.levels),
        x_text=count,
        y_text=plain,
    )


def _suspects(data: DataReport) -> Iterator[Section]:
    suspects, total = data.label_suspects[:MOST_SUSPECTS], len(data.label_suspects)
    if not suspects:
        return
    rows = [
        Row(
            f"{one.split} {one.window}",
            [one.group or NOTHING, one.label, one.likely, percent(one.likely_probability, 0)],
        )
        for one in suspects
    ]
    heads = [label(name) for name in ("Window", "Group", "Label", "Probably")]
    first = f" These are the first {len(suspects)} of {total}." if len(suspects) < total else ""
    caption = (
        "Labels that a probe contradicts which never saw the window's group; first those for which the votes for "
        f"another class are farthest ahead.{first}"
    )
    yield Section(key="labels", title="Labels to look at", blocks=[table([*heads, "Votes, %"], rows, caption=caption)])


def _label_next(data: DataReport) -> Iterator[Section]:
    if not data.to_label:
        return
    rows = [
        Row(
            f"train {one.window}", [one.group or NOTHING, one.start or NOTHING, one.likely, percent(one.probability, 0)]
        )
        for one in data.to_label
    ]
    heads = [label(name) for name in ("Window", "Group", "From", "Probably")]
    caption = (
        "Unlabelled training windows that a probe is least certain about, far from each other. mmkd-data report DIR "
        "--label-next FILE.csv writes them for the importer."
    )
    yield Section(key="next", title="Label these next", blocks=[table([*heads, "Votes, %"], rows, caption=caption)])
