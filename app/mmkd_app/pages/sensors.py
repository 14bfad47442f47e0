"""The page of `mmkd-evaluate --sensors`. Terminals print the same sentences and cells."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_app import words
from mmkd_app.pages.page import Cell, Facts, Page, Row, Section, render, table
from mmkd_app.pages.variants import ENGINE, ends, gain_text
from mmkd_app.words import count, is_chance_level, percent, score_text, score_with_unit, significant
from mmkd_documents.cost import example_text
from mmkd_documents.judging import SENSOR_MODELS, SensorRow, SensorsDocument

PAIR_HEADS = (
    "sensors",
    "missing",
    "one student",
    "95 % interval",
    "two students",
    "95 % interval",
    "difference",
    "95 % interval",
)


def render_sensors(sensors: SensorsDocument) -> str:
    """Return the page as HTML."""
    labelled = f", {sensors.labelled}" if sensors.labelled else ""
    origin = [(sensors.name, f"SHA-256 {sensors.sha256}; {words.number_nouns('seed', sensors.seeds)}")]
    origin += [("Command", sensors.command)] if sensors.command else []
    return render(
        Page(
            title=f"Which sensor is enough? {sensors.name}",
            kind="evaluation",
            headline="Which sensor is enough?",
            lede=[f"{sensors.name}.", f"{len(sensors.rows)} sensors, each on {sensors.judged_on}{labelled}."],
            answer=[f"{sentence}." for sentence in verdict(sensors)],
            sections=[_table(sensors), *_pairs(sensors), Section("origin", "What was judged", [Facts(origin)])],
            document="sensors.json beside this page",
        )
    )


def verdict(sensors: SensorsDocument) -> Iterator[str]:
    """Yield the verdict's sentences, without full stops."""
    best, *others = sensors.rows
    if is_chance_level(best.chance):
        students = [(row.sensors[0], row.scores["distilled"].mean, row.chance) for row in sensors.rows]
        yield words.no_conclusion(students, sensors.measure)
        return
    name, measure = best.sensors[0], sensors.measure
    distilled, baseline, teacher = (
        score_with_unit(best.scores[key].mean, measure) for key in ("distilled", "labels_only", "teacher")
    )
    yield (
        f"{name} is the sensor whose student validates best: {measure.words} {distilled} on {sensors.judged_on}, "
        f"{baseline} with labels only, {teacher} with all sensors"
    )
    if not best.is_distilled:
        yield f"Distillation does not improve {name}: labels only validated better and is shipped"
    elif best.gain is not None:
        yield words.gain_verdict(best.gain.mean, best.gain.low, best.gain.high, measure, f" on {name}")
    if best.ahead:
        rivals = words.join_words([SENSOR_MODELS[key] for key in best.ahead])
        yield f"Ahead of the student on validation of {name}, without a teacher: {rivals}"
    contenders = [words.contender(row.sensors[0], row.scores["distilled"].mean, row.chance) for row in sensors.rows]
    if others and (level_text := words.no_clear_winner(contenders, measure)):
        yield level_text
    elif others:
        level = ", no better than chance" if is_chance_level(others[0].chance) else ""
        score = score_with_unit(others[0].scores["distilled"].mean, measure)
        yield f"The next is {others[0].sensors[0]}, with {score}{level}"
    if others:
        yield f"The worst fault of {name} is {best.worst_fault}"
    if sensors.pairs:
        yield _pairs_verdict(sensors)
    worth = {row.sensors[0]: row.worth["student"] for row in sensors.rows if "student" in row.worth}
    if worth and sensors.costs_to_enter:
        yield example_text(sensors.costs_to_enter)
    elif worth:
        name = max(worth, key=lambda sensor: worth[sensor])
        most = f"{name} is worth most:" if worth[name] > 0 else f"no sensor pays: the best, {name}, is worth"
        yield f"With the costs entered {most} {count(worth[name])} {sensors.currency}"


def cells(row: SensorRow, sensors: SensorsDocument) -> list[str]:
    """Return a row's cells, in the order of `headings`."""
    measure = sensors.measure
    gain = row.gain
    write = significant if sensors.faults_measure == "rmse" else percent
    return [
        *(score_text(row.scores[key].mean if key in row.scores else None, measure) for key in SENSOR_MODELS),
        words.signed_gain(gain.mean if gain else None, measure),
        words.NOTHING if gain is None else ends(gain, measure),
        write(row.under_faults),
        count(row.parameters),
        significant(row.latency_ms),
        *([count(row.worth.get("student"))] if sensors.currency else []),
    ]


def headings(sensors: SensorsDocument) -> list[str]:
    """Return headings of `cells`."""
    unit = "" if sensors.faults_measure == "rmse" else ", %"
    example = "example " if sensors.costs_to_enter else ""
    return [
        *SENSOR_MODELS.values(),
        sensors.measure.gain_heading.lower(),
        "95 % interval",
        f"error under faults{unit}",
        "parameters",
        f"ms, {ENGINE}",
        *([f"{example}worth, {sensors.currency}"] if sensors.currency else []),
    ]


def _table(sensors: SensorsDocument) -> Section:
    heads = [name if name.endswith(ENGINE) else name[:1].upper() + name[1:] for name in headings(sensors)]
    rows = [
        Row([Cell(row.sensors[0], link=sensors.pages.get(row.sensors[0], "")), *cells(row, sensors)])
        for row in sensors.rows
    ]
    worth = " Worth is the net present value of the student on every station." if sensors.currency else ""
    lead = (
        f"{sensors.measure.heading} on {sensors.judged_on}; the sensor whose student validates best comes first. The "
        "teacher sees all sensors, every other model one. Gain is distilled minus labels only. Error under faults is "
        "the mean error of the distilled student over every fault of the sensor and its severities. Sensors of "
        "different kinds have different faults. Faults, latencies and further columns are of seed "
        f"{sensors.seeds[0]}. Latencies are of the network alone; mmkd-bench run measures the engine that open chooses."
        f"{worth}"
    )
    shown = table(["Sensor", *heads], rows, caption="Sensors side by side", style="results", hide_caption=True)
    return Section("sensors", "Sensor by sensor", [shown], lead)


def pair_cells(sensors: SensorsDocument) -> Iterator[list[str]]:
    """Yield the rows of every pair, in the order of `PAIR_HEADS`."""
    measure = sensors.pairs_measure
    for pair in sensors.pairs:
        for score in pair.scores:
            yield [
                " + ".join(pair.sensors),
                score.missing or "none",
                score_text(score.pair.mean, measure),
                ends(score.pair, measure, score=True),
                f"{score_text(score.alone.mean, measure)} ({score.single})",
                ends(score.alone, measure, score=True),
                words.signed_gain(score.gain.mean, measure),
                ends(score.gain, measure),
            ]


def _pairs_verdict(sensors: SensorsDocument) -> str:
    pair, measure = sensors.pairs[0], sensors.pairs_measure
    both, *each = pair.scores
    is_better = both.gain.low is not None and both.gain.low > 0
    left = [
        f"without {score.missing} {score_text(score.pair.mean, measure)}, {score.single} alone "
        f"{score_text(score.alone.mean, measure)}"
        for score in each
    ]
    return (
        f"{' and '.join(pair.sensors)} in one student are {'' if is_better else 'not shown to be '}better than "
        f"{both.single} alone: {measure.words} {score_with_unit(both.pair.mean, measure)}, "
        f"{gain_text(both.gain, measure)}; {'; '.join(left)}"
    )


def _pairs(sensors: SensorsDocument) -> Iterator[Section]:
    if sensors.pairs:
        lead = (
            f"{sensors.pairs_measure.heading} on {sensors.judged_on}; the pair that validates best comes first. One "
            "student sees both sensors, and practised without each. Of two students the one that validates better "
            "answers, or the other if its sensor is missing. Differences are paired."
        )
        heads = [head[:1].upper() + head[1:] for head in PAIR_HEADS]
        shown = table(heads, list(pair_cells(sensors)), caption="Two sensors together", hide_caption=True)
        yield Section("pairs", "Two sensors", [shown], lead)
