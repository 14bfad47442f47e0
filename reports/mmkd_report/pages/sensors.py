"""The page of `mmkd-evaluate --sensors`: which sensor to buy. Terminals print the same sentences and cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmkd_report.page import Cell, Facts, Heads, Page, Row, Section, label, render, table
from mmkd_report.schema.cost import example_text
from mmkd_report.schema.judging import COMPETITORS, SensorRow, SensorsDocument, read_sensors
from mmkd_report.words import (
    count,
    is_chance_level,
    is_number,
    join_words,
    percent,
    score_and_chance,
    score_text,
    score_with_unit,
    signed_gain,
    significant,
    with_gain_unit,
)


def render_sensors(document: Mapping[str, Any]) -> str:
    """Return the page of sensors side by side as HTML.

    Args:
        document: What `mmkd-evaluate --sensors --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_sensors(document)
    seeds = f"{'seed' if len(found.seeds) == 1 else 'seeds'} {', '.join(map(str, found.seeds))}"
    origin = [(found.name, f"SHA-256 {found.sha256}; {seeds}")]
    labelled = f", {found.labelled}" if found.labelled else ""
    return render(
        Page(
            title=f"Which sensor is enough? {found.name}",
            kind="evaluation",
            headline="Which sensor is enough?",
            lede=[
                (True, f"{found.name}."),
                (False, f"{len(found.rows)} sensors, each on {found.judged_on}{labelled}."),
            ],
            answer_title="The verdict",
            answer=[f"{sentence}." for sentence in verdict(found)],
            sections=[
                _table(found),
                *_pairs(found),
                Section(
                    key="origin",
                    title="What was judged",
                    blocks=[Facts(rows=[*origin, *([("Command", found.command)] if found.command else [])])],
                ),
            ],
            footer="Made by mmkd-edge. The same figures, unrounded, are in sensors.json beside this page.",
        )
    )


def verdict(found: SensorsDocument) -> Iterator[str]:
    """Yield the verdict, a sentence each without a full stop.

    Validation chooses the sensor, the scores are of the test. If the chosen student is no better than chance, no
    conclusion is drawn.
    """
    best, *others = found.rows
    if is_chance_level(best.guessing):
        yield _chance_sentence(found)
        return
    name, measure = best.sensors[0], found.measure
    distilled, alone, teacher = (best.scores[key].mean for key in ("distilled", "labels_only", "teacher"))
    yield (
        f"{name} is the sensor whose student validates best: {measure.words} {score_with_unit(distilled, measure)} on "
        f"{found.judged_on}, {score_with_unit(alone, measure)} with labels only, {score_with_unit(teacher, measure)} "
        "with all sensors"
    )
    yield _gain_sentence(best, found)
    if best.ahead:
        words = join_words([COMPETITORS[key] for key in best.ahead])
        verb = "validate" if len(best.ahead) > 1 else "validates"
        yield f"On {name} {words} {verb} better, without a teacher: consider that first"
    if others:
        after = others[0]
        aside = ", no better than chance" if is_chance_level(after.guessing) else ""
        yield (
            f"The next is {after.sensors[0]}, with {score_with_unit(after.scores['distilled'].mean, measure)}{aside}; "
            f"the worst fault of {name} is {best.worst_fault}"
        )
    yield from _worth_sentence(found)


def _chance_sentence(found: SensorsDocument) -> str:
    best = found.rows[0]
    better = [row.sensors[0] for row in found.rows if not is_chance_level(row.guessing)]
    head, tail = "No sensor can be judged: no student is better than chance", ""
    if better:
        head = (
            f"The student of {best.sensors[0]}, which validates best, is no better than chance: no conclusion is drawn"
        )
        tail = f"; better than chance are the students of {join_words(better)}"
    figures = [
        score_and_chance(row.sensors[0], row.scores["distilled"].mean, row.guessing, found.measure)
        for row in ([best] if better else found.rows)
        if row.guessing is not None
    ]
    return f"{head} ({found.measure.words}: {'; '.join(figures)}){tail}"


def _gain_sentence(row: SensorRow, found: SensorsDocument) -> str:
    name = row.sensors[0]
    if not row.is_taught:
        return f"Distillation gains nothing on {name}: labels only validated better and is shipped"
    gain = with_gain_unit(signed_gain(row.gain, found.measure), found.measure)
    if not (is_number(row.low) and is_number(row.high)):
        return f"Distillation changes {name} by {gain}; there are too few groups for a confidence interval"
    ends = f"95 % interval {signed_gain(row.low, found.measure)} to {signed_gain(row.high, found.measure)}"
    if row.low > 0:
        return f"Distillation helps on {name}: {gain} over labels only ({ends})"
    if row.high < 0:
        return f"Distillation hurts on {name}: {gain} compared with labels only ({ends})"
    return f"The gain of distillation on {name} is not significant: {gain} over labels only ({ends})"


def _worth_sentence(found: SensorsDocument) -> Iterator[str]:
    worth = {row.sensors[0]: row.worth["student"] for row in found.rows if "student" in row.worth}
    if not worth:
        return
    if found.costs_to_enter:
        yield example_text(found.costs_to_enter)
        return
    best = max(worth, key=lambda name: worth[name])
    if worth[best] <= 0:
        yield f"With the costs entered no sensor pays: the best, {best}, is worth {count(worth[best])} {found.currency}"
    else:
        yield f"With the costs entered {best} is worth most: {count(worth[best])} {found.currency}"


def cells(row: SensorRow, found: SensorsDocument) -> list[str]:
    """Return the written cells of a row, in the order of `headings`."""
    measure = found.measure
    scores = [score_text(row.scores[key].mean if key in row.scores else None, measure) for key in COMPETITORS]
    ends = score_text(None, measure)
    if is_number(row.low) and is_number(row.high):
        ends = f"{signed_gain(row.low, measure)} to {signed_gain(row.high, measure)}"
    write = significant if found.faults_measure == "rmse" else percent
    return [
        *scores,
        signed_gain(row.gain, measure),
        ends,
        write(row.under_faults),
        percent(row.relative.mean if row.relative else None, 0),
        count(row.parameters),
        significant(row.latency_ms),
        significant(row.teacher_latency_ms),
        *([count(row.worth.get("student"))] if found.currency else []),
    ]


def headings(found: SensorsDocument) -> list[str]:
    """Return the headings of `cells`."""
    unit = "" if found.faults_measure == "rmse" else ", %"
    worth = [f"{'example ' if found.costs_to_enter else ''}worth, {found.currency}"] if found.currency else []
    return [
        *COMPETITORS.values(),
        "gain",
        "95 % interval",
        f"error under faults{unit}",
        "of labels only, %",
        "parameters",
        "ms",
        "teacher, ms",
        *worth,
    ]


def _table(found: SensorsDocument) -> Section:
    heads = [name if name == "ms" else name[:1].upper() + name[1:] for name in headings(found)]
    rows = [
        Row(Cell(row.sensors[0], link=found.pages.get(row.sensors[0], "")), cells(row, found)) for row in found.rows
    ]
    worth = " Worth is the net present value of equipping every station with the student." if found.currency else ""
    also = ", worth" if found.currency else ""
    lead = (
        f"{found.measure.title}{' in percent' if found.measure.is_share else ''} on {found.judged_on}; the sensor "
        "whose student validates best comes first. The teacher sees all sensors, every other model one. Gain is "
        "distilled minus labels only. Error under faults is that of the distilled student, mean over every fault of "
        "the sensor and its severities; the next column is that error as a fraction of the error of labels only; "
        f"sensors of different kinds have different faults. Faults, parameters{also} and latencies (of the exported "
        f"student, and of the teacher in turn with it) are of seed {found.seeds[0]}.{worth}"
    )
    by_sensor = table(
        [label("Sensor"), *heads], rows, caption="Sensors side by side", style="results", hide_caption=True
    )
    return Section(key="sensors", title="Sensor by sensor", lead=lead, blocks=[by_sensor])


def _pairs(found: SensorsDocument) -> Iterator[Section]:
    if found.pairs:
        rows = [
            Row(" + ".join(row.sensors), [score_text(row.scores["teacher"].mean, found.measure)]) for row in found.pairs
        ]
        lead = (
            "The teacher's score with two sensors while the others are absent. It was trained with some of its sensors "
            "hidden; a student sees one."
        )
        heads: Heads = [label("Sensors"), "Teacher"]
        pairs = table(heads, rows, caption="Pairs of sensors", hide_caption=True)
        yield Section(key="pairs", title="Two sensors", lead=lead, blocks=[pairs])
