"""The page of `mmkd-evaluate --sensors --vary`. Terminals print the same sentences and cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from mmkd_app import words
from mmkd_app.pages import charts
from mmkd_app.pages.page import Facts, Legend, Page, Row, Section, columns, render, table
from mmkd_documents.figures import Interval, Measure
from mmkd_documents.variants import VariantRow, VariantsDocument

ENGINE = "ONNX Runtime"
"""Of latencies and energies that stand side by side."""


def render_variants(variants: VariantsDocument) -> str:
    """Return the page as HTML."""
    labelled = f", {variants.labelled}" if variants.labelled else ""
    origin = [(variants.dataset, f"SHA-256 {variants.sha256}; {words.number_nouns('seed', variants.seeds)}")]
    origin += [("Command", variants.command)] if variants.command else []
    return render(
        Page(
            title=f"How cheap may the sensor be? {variants.dataset}",
            kind="evaluation",
            headline="How cheap may the sensor be?",
            lede=[f"{variants.dataset}.", f"{len(variants.rows)} students, each on {variants.judged_on}{labelled}."],
            answer=[f"{sentence}." for sentence in verdict(variants)],
            sections=[
                _chart(variants),
                _table(variants),
                Section("unknown", "What this does not know", [f"{text}." for text in _list_unknowns(variants)]),
                Section("origin", "What was judged", [Facts(origin)]),
            ],
            document="variants.json beside this page",
        )
    )


def _families(variants: VariantsDocument) -> list[list[VariantRow]]:
    sensors = dict.fromkeys(row.sensor for row in variants.rows)
    return [[row for row in variants.rows if row.sensor == sensor] for sensor in sensors]


def verdict(variants: VariantsDocument) -> Iterator[str]:
    """Yield a sentence or two for each sensor, without full stops."""
    measure = variants.measure
    for full, *others in _families(variants):
        if words.is_chance_level(full.chance):
            yield words.no_conclusion([(full.title, full.score.mean, full.chance)], measure)
            continue
        chosen = next((row for row in others if row.is_chosen), None)
        cheaper = [row for row in others if row.cost < full.cost]
        row = chosen or max(cheaper or others, key=lambda row: row.valid_difference or 0.0)
        assert row.difference is not None  # it is a variant
        change = _change_text(row.difference, full, measure)
        if not cheaper:
            yield f"No variant of {full.title} is cheaper, so there is nothing to choose; {row.title} {change}"
            continue
        saving = f"costs {words.significant(row.price)} instead of {words.significant(full.price)} {variants.currency}"
        if row.price is None:
            saving = f"sends {full.bytes_per_s / row.bytes_per_s:.3g} times fewer bytes"
        if chosen is None:
            yield (
                f"No cheaper variant of {full.title} stays within {_most(variants)} in validation; the closest, "
                f"{row.title}, {change}, and {saving}"
            )
            continue
        doubt = "" if row.difference.mean >= -variants.most_loss else ", which the test windows do not confirm"
        yield f"{row.title} {change}, and {saving}: the cheapest variant within {_most(variants)} in validation{doubt}"
        yield (
            f"Teaching adds {gain_text(row.gain, measure)} to it and {gain_text(full.gain, measure)} to {full.title}"
        )


def _change_text(difference: Interval, full: VariantRow, measure: Measure) -> str:
    gain, low, high = gain_text(difference, measure), difference.low, difference.high
    difference_text = f"difference in {measure.words} to {full.title}: {gain}"
    if not words.signed_gain(difference.mean, measure).strip("0."):
        return f"shows no {difference_text}"
    if low is not None and high is not None and low <= 0 <= high:
        return f"shows no significant {difference_text}"
    return f"changes {measure.words} by {gain} against {full.title}"


def _most(variants: VariantsDocument) -> str:
    measure, most = variants.measure, variants.most_loss
    return "1 point" if measure.is_fraction and most == 1 else words.with_gain_unit(words.significant(most), measure)


def gain_text(gain: Interval, measure: Measure) -> str:
    """Return a gain with its unit and interval."""
    size = words.with_gain_unit(words.signed_gain(gain.mean, measure), measure)
    if gain.low is None or gain.high is None:
        return f"{size} (no confidence interval: too few groups)"
    return f"{size} (95 % interval {ends(gain, measure)})"


def _list_unknowns(variants: VariantsDocument) -> Iterator[str]:
    yield (
        "Variants are computed from the recording: the noise, drift and mounting of a cheaper sensor are not in them, "
        "nor its own anti-alias filter"
    )
    yield "A recorded value counts as 16 bits over the air, a pixel as 8, without headers and compression"
    if all(row.energy_mj is None for row in variants.rows):
        yield "The energy of an answer: no power sensor of this machine could be read, or latencies were left out"
    yield "Validation chose the variant; each interval is for its row alone, not for the best of many rows"


def show_rows(variants: VariantsDocument) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the table."""
    measure = variants.measure
    heads = ["sensor", measure.heading.lower(), "95 % interval", "difference", "95 % interval", "labels only"]
    heads += ["gain of teaching", "bytes/s", "memory, kB"]
    measured: list[tuple[str, Callable[[VariantRow], str]]] = []
    if any(row.latency_ms is not None for row in variants.rows):
        measured.append((f"ms, {ENGINE}", lambda row: words.significant(row.latency_ms)))
    if any(row.energy_mj is not None for row in variants.rows):
        measured.append((f"mJ, {ENGINE}", lambda row: words.significant(row.energy_mj)))
    if variants.healthy:
        measured.append(
            ("false alarms, %", lambda row: words.percent(row.false_alarms.mean if row.false_alarms else None))
        )
    if variants.currency:
        measured.append((f"price, {variants.currency}", lambda row: words.significant(row.price)))
    heads += [head for head, _ in measured]
    rows = []
    for row in variants.rows:
        difference = row.difference
        cells = [
            row.title + (" *" if row.is_chosen else ""),
            words.score_text(row.score.mean, measure),
            ends(row.score, measure, score=True),
            words.signed_gain(None if difference is None else difference.mean, measure),
            words.NOTHING if difference is None else ends(difference, measure),
            words.score_text(row.labels_only, measure),
            words.signed_gain(row.gain.mean, measure),
            words.count(row.bytes_per_s) if row.bytes_per_s >= 100 else words.significant(row.bytes_per_s),
            words.count(row.memory_kb),
            *(cell(row) for _, cell in measured),
        ]
        rows.append(cells)
    return heads, rows


def ends(interval: Interval, measure: Measure, *, score: bool = False) -> str:
    """Return the interval of a gain, or of a score."""
    if interval.low is None or interval.high is None:
        return words.NOTHING
    write = words.score_text if score else words.signed_gain
    return f"{write(interval.low, measure)} to {write(interval.high, measure)}"


def _table(variants: VariantsDocument) -> Section:
    heads, rows = show_rows(variants)
    shown = [
        Row(cells, role="student" if row.is_chosen else "") for row, cells in zip(variants.rows, rows, strict=True)
    ]
    lead = (
        f"{variants.measure.title} of the distilled student on {variants.judged_on}. The difference to the recorded "
        f"sensor is paired. * is the cheapest variant whose validation score is within {_most(variants)} of its. "
        "Gain of teaching is distilled minus labels only. Memory is of fp32 weights and a stream's samples."
    )
    if variants.healthy:
        healthy = words.join_words(variants.healthy)
        lead += (
            f" False alarms are windows of {healthy} that are answered otherwise; variants.json has their intervals."
        )
    heads = [head if head.endswith(ENGINE) else head[:1].upper() + head[1:] for head in heads]
    results = table(heads, shown, caption="Variants side by side", style="results", hide_caption=True)
    return Section("variants", "Variant by variant", [results], lead)


def _chart(variants: VariantsDocument) -> Section:
    families = _families(variants)
    y_axis = charts.axis([row.score.mean for row in variants.rows], floor=variants.measure.floor)
    drawn = [_pareto(variants, rows, y_axis) for rows in families]
    legend = Legend([("student", "no other variant is better and as cheap"), ("other", "another is")])
    lead = "Each point is a variant; it shows its name on hover."
    return Section("pareto", "Accuracy against cost", [legend, columns(drawn)], lead, "lines")


def _pareto(variants: VariantsDocument, rows: Sequence[VariantRow], y_axis: charts.Axis) -> charts.Chart:
    measure, is_priced = variants.measure, all(row.price is not None for row in rows)
    front: list[VariantRow] = []
    for row in sorted(rows, key=lambda row: (row.cost, -measure.rank(row.score.mean))):
        if not front or measure.rank(row.score.mean) > measure.rank(front[-1].score.mean):
            front.append(row)

    def place(row: VariantRow) -> float:
        return row.cost if is_priced else math.log2(row.cost)

    points = [
        charts.Line(role="student" if row in front else "other", name=row.title, x=[place(row)], y=[row.score.mean])
        for row in rows
    ]
    line = charts.Line(role="student", name="front", x=list(map(place, front)), y=[row.score.mean for row in front])
    spoken = "; ".join(f"{row.title} {words.score_text(row.score.mean, measure)}" for row in rows)
    unit = variants.currency if is_priced else "bytes per second"
    return charts.line_chart(
        [line, *points],
        title=rows[0].title,
        description=f"{measure.title} by {unit}: {spoken}.",
        x_label=unit,
        x_axis=charts.axis([place(row) for row in rows]),
        y_axis=y_axis,
        x_text=lambda value: words.magnitude(value if is_priced else 2**value),
        y_text=lambda value: words.tick(value, measure),
    )
