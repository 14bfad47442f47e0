"""The page of a dataset."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from mmkd_app import words
from mmkd_app.pages import charts, page
from mmkd_app.words import NOTHING, THIN, count, count_noun, percent, significant, with_unit
from mmkd_documents.data import DataReport, ExampleWindow, Finding, LevelPicture, ProbeFacts
from mmkd_documents.figures import OF_CLASSES

SHOWN_CHANNELS = 4  # of a sensor; the others are folded
MAX_LIKE = 4  # findings with one advice whose sentences are shown
MAX_SUSPECTS = 50


def render_data_report(data: DataReport) -> str:
    """Return the page as HTML."""
    probes = [probe for probe in data.probes if probe.target == "class"]
    groups = count_noun(data.groups, "group") if data.groups else "no groups"
    classes = f", {count_noun(len(data.labels), 'class', 'classes')}" if data.kind == "classification" else ""
    classes = ", of normal running" if data.kind == "normal" else classes
    campaign = f", from {data.campaign}" if data.campaign else ""
    lede = [count_noun(data.windows, "window"), f"of {groups}{classes}{campaign}."]
    if data.looked_at < data.windows:
        lede.append(f"Probes and comparisons used {count(data.looked_at)} of them, evenly spaced.")
    sections = [
        _findings(data),
        *_levels(data),
        *_sensors(probes),
        _signals(data),
        _balance(data),
        _channels(data),
        *_suspects(data),
    ]
    return page.render(
        page.Page(
            title=f"{data.name}: contents and warnings",
            kind="data",
            headline=f"What is in {data.name}, and what looks wrong?",
            lede=lede,
            answer=_answer(data, probes),
            sections=sections,
            document=f"the output of mmkd-data report --json; the dataset has the SHA-256 {data.sha256}",
        )
    )


def _sentence(text: str) -> str:
    text = re.sub(r"(?<=\d)%", f"{THIN}%", text)
    return f"{text[:1].upper()}{text[1:]}."


def _merge(findings: Sequence[Finding]) -> list[list[Finding]]:
    merged: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        merged.setdefault((finding.kind, finding.level, finding.advice), []).append(finding)
    return list(merged.values())


def _answer(data: DataReport, probes: Sequence[ProbeFacts]) -> Iterator[str]:
    merged = _merge(data.findings)
    grave = sum(finding.level != "note" for finding, *_ in merged)
    others = count_noun(len(merged) - grave, "other warning")
    wrong = f"{count_noun(grave, 'warning')} that would make scores or students wrong, {others}."
    yield wrong if data.findings else "No problems were found."
    single = [probe for probe in probes if probe.modality is not None]
    if len(single) > 1:
        single.sort(key=lambda probe: -probe.score)
        contenders = [
            words.Contender(name=str(one.modality), score=one.score, low=one.low, high=one.high) for one in single
        ]
        reached, best, together = words.no_clear_winner(contenders, OF_CLASSES[1], level="99 %"), single[0], probes[0]
        if not reached:
            score = with_unit(percent(best.score), "%")
            reached = f"The best single sensor is {best.modality}: extra-trees reach {score}"
        verdict = "" if best.is_better else ", no better than chance"
        yield (
            f"{reached} balanced accuracy{verdict}, with all sensors {with_unit(percent(together.score), '%')} (chance "
            f"{with_unit(percent(best.chance), '%')})."
        )


def _findings(data: DataReport) -> page.Section:
    findings = []
    for first, *others in _merge(data.findings):
        sentences = [_sentence(finding.sentence) for finding in (first, *others)]
        more = len(sentences) - MAX_LIKE
        sentences[MAX_LIKE:] = [f"{count_noun(more, 'more warning')} like these."] if more > 0 else []
        heading = first.kind.capitalize() + (", worth knowing" if first.level == "note" else "")
        findings.append((heading, " ".join(sentences), _sentence(first.advice), first.level != "note"))
    checks = (
        "Copies, groups under two names, gaps that reveal the class, dead, stuck and clipped channels, wrong labels "
        "and balance were checked; no problems were found."
    )
    blocks: list[page.Block] = [page.Findings(findings) if findings else checks]
    if data.not_judged:
        blocks.append(f"Not judged: {' '.join(map(_sentence, data.not_judged))}")
    return page.Section("findings", "Warnings", blocks)


def _levels(data: DataReport) -> Iterator[page.Section]:
    if data.levels:
        blocks: list[page.Block] = []
        for picture in data.levels:
            unit = f", {picture.unit}" if picture.unit else ""
            heading = f"{picture.modality} {picture.channel}{unit}, in {picture.recording}"
            blocks += [page.Heading(heading), page.columns(_level_charts(picture))]
        lead = (
            "The same shape on another axis is another unit. Noise, or nothing, beside a channel that moves is a dead "
            "channel. A level that changes within the recording, or is that of its machine, may be real: leave it."
        )
        yield page.Section("levels", "Recordings at another level", blocks, lead, "lines")


def _level_charts(picture: LevelPicture) -> Iterator[charts.Chart]:
    for title, values, role in (
        (picture.recording, picture.values, "student"),
        (picture.other, picture.other_values, "baseline"),
    ):
        seconds = [sample * picture.duration_s / max(1, len(values)) for sample in range(len(values))]
        yield charts.line_chart(
            [charts.Line(role=role, name=title, x=seconds, y=values)],
            title=title,
            description=f"{title}: the window with the median RMS, over {picture.duration_s:g} seconds.",
            x_label="seconds",
            x_axis=charts.tight_axis([0.0, picture.duration_s]),
            y_axis=charts.axis(values),
            y_text=lambda value: significant(value),
        )
    levels = [math.log10(rms) for rms in picture.rms]
    low, high = (math.log10(level) for level in (picture.others_low, picture.others_high))
    last = max(1, len(levels) - 1)
    numbers = [float(number) for number in range(len(levels))]
    yield charts.line_chart(
        [
            charts.Line(role="baseline", name="low", x=[0, last], y=[low, low], low=[low, low], high=[high, high]),
            charts.Line(role="baseline", name="high", x=[0, last], y=[high, high]),
            charts.Line(role="student", name=picture.recording, x=numbers, y=levels),
        ],
        title="RMS of each window, logarithmic",
        description=(
            f"RMS of the {len(levels)} windows of {picture.recording}: {significant(min(picture.rms))} to "
            f"{significant(max(picture.rms))}; 90 % of the others are from {significant(picture.others_low)} to "
            f"{significant(picture.others_high)}."
        ),
        x_label="window; the band has 90 % of the others",
        x_axis=charts.tight_axis([0.0, float(last)]),
        y_axis=charts.axis([*levels, low, high]),
        y_text=lambda value: significant(10**value),
    )


def _sensors(probes: Sequence[ProbeFacts]) -> Iterator[page.Section]:
    if probes:
        rows: list[list[page.Cell | str]] = [
            [
                probe.modality or "all sensors",
                percent(probe.score),
                page.bar_cell(probe.score, "student" if number else "teacher"),
                f"{percent(probe.low)} to {percent(probe.high)}",
            ]
            for number, probe in enumerate(probes)
        ]
        caption = (
            "Extra-trees on window statistics, for groups they never saw; chance is "
            f"{with_unit(percent(probes[0].chance), '%')}. The interval resamples whole groups."
        )
        heads = ["Sensor", "Balanced accuracy, %", page.BAR, "99 % interval"]
        yield page.Section("sensors", "Which sensor separates the classes?", [page.table(heads, rows, caption=caption)])


def _signals(data: DataReport) -> page.Section:
    blocks: list[page.Block] = []
    for name in dict.fromkeys(example.modality for example in data.examples):
        examples = [example for example in data.examples if example.modality == name]
        unit = next(channel.unit for channel in data.channels if channel.modality == name)
        channels: list[page.Block] = []
        for number, channel in enumerate(examples[0].channels):
            y_axis = charts.axis(value for example in examples for value in example.values[number])
            drawn = page.columns(_example(example, number, y_axis) for example in examples)
            channels += [page.Heading(f"{name} {channel}, {unit}" if unit else f"{name} {channel}"), drawn]
        blocks += channels[: 2 * SHOWN_CHANNELS]
        if others := channels[2 * SHOWN_CHANNELS :]:
            blocks.append(page.Details(f"{count_noun(len(others) // 2, 'more channel')} of {name}", others))
    lead = (
        "For each class the window most like the others. A gap breaks the line; windows of one channel share an axis."
    )
    return page.Section("signals", "Signals", blocks, lead, "lines")


def _example(example: ExampleWindow, number: int, y_axis: charts.Axis) -> charts.Chart:
    channel, line = example.channels[number], example.values[number]
    seconds = [sample * example.duration_s / max(1, len(line)) for sample in range(len(line))]
    gaps = "" if example.missing == 0 else f", {percent(example.missing)} % missing"
    where = f"{example.split} window {example.window}{gaps}"
    return charts.line_chart(
        [charts.Line(role="student", name=channel, x=seconds, y=line)],
        title=example.label,
        description=f"{example.label}: {where}, {channel} over {example.duration_s:g} seconds.",
        x_label=f"seconds; {where}",
        x_axis=charts.tight_axis([0.0, example.duration_s]),
        y_axis=y_axis,
    )


def _balance(data: DataReport) -> page.Section:
    splits = data.splits
    rows = [[name, *(count(split.classes[name]) for split in splits)] for name in splits[0].classes]
    rows += [
        ["unlabelled", *(count(split.unlabelled) for split in splits)],
        ["all", *(count(split.windows) for split in splits)],
        ["groups", *(count(split.groups) for split in splits)],
        ["largest group, %", *(percent(split.largest_group) for split in splits)],
    ]
    heads = ["", *(split.split for split in splits)]
    return page.Section("balance", "Classes and groups", [page.table(heads, rows, caption="Windows of each split.")])


def _channels(data: DataReport) -> page.Section:
    heads = [
        *("Channel", "Rate, Hz", "Lowest", "Mean", "Highest", "Standard deviation"),
        *("Missing, %", "Flat windows, %", "At the limit, %"),
    ]
    rows: list[list[page.Cell | str]] = [
        [
            page.Cell(f"{channel.modality} {channel.channel}", note="" if channel.is_continuous else "few values"),
            f"{channel.rate_hz:g}",
            *map(significant, (channel.low, channel.mean, channel.high, channel.std)),
            percent(max(channel.missing.values())),
            percent(channel.flat),
            percent(channel.at_limit, 2),
        ]
        for channel in data.channels
    ]
    caption = (
        "Over all windows; missing is of the worst split. A flat window has one value; at the limit are samples that "
        "have the lowest or highest value three times in a row. Both are judged for channels with many values."
    )
    return page.Section("channels", "Channels", [page.table(heads, rows, caption=caption, style="results")])


def _suspects(data: DataReport) -> Iterator[page.Section]:
    suspects, total = data.label_suspects[:MAX_SUSPECTS], len(data.label_suspects)
    if suspects:
        rows = [
            [
                suspect.place or f"{suspect.split} {suspect.window}",
                suspect.group or NOTHING,
                suspect.label,
                suspect.likely,
                percent(suspect.likely_probability, 0),
            ]
            for suspect in suspects
        ]
        first = f" These are the first {len(suspects)} of {total}." if len(suspects) < total else ""
        caption = (
            "Labels that a probe contradicts which never saw the window's group, the largest majority for another "
            f"class first.{first}"
        )
        heads = [*(page.label(name) for name in ("Window", "Group", "Label", "Probably")), "Votes, %"]
        yield page.Section("labels", "Labels to look at", [page.table(heads, rows, caption=caption)])
