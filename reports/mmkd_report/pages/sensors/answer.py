"""Which sensor to buy, in sentences that follow from the figures; terminals say the same."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report.documents.cost import example_text
from mmkd_report.documents.judging import COMPETITORS, SensorRow, SensorsDocument
from mmkd_report.words.formats import count, is_figure, listed, percent, significant
from mmkd_report.words.guessing import beside_guessing, is_refuted
from mmkd_report.words.measures import difference, figure, told, with_gain_unit


def verdict(found: SensorsDocument) -> Iterator[str]:
    """Gives the verdict, a sentence each; the sensor is chosen by validation, what is said of it is of the test.

    Where the student that validation chose is not better than guessing, nothing is concluded from anything.
    """
    best, *others = found.rows
    if is_refuted(best.guessing):
        yield _guessed(found)
        return
    name, measure = best.sensors[0], found.measure
    distilled, alone, teacher = (best.scores[key].mean for key in ("distilled", "labels_alone", "teacher"))
    yield (
        f"{name} is the sensor whose student validates best: {measure.words} {told(distilled, measure)} on "
        f"{found.judged_on}, {told(alone, measure)} from labels alone, {told(teacher, measure)} with all sensors"
    )
    yield _of_gain(best, found)
    if best.ahead:
        words = listed([COMPETITORS[key] for key in best.ahead])
        verb = "validate" if len(best.ahead) > 1 else "validates"
        yield f"On {name} {words} {verb} better, without a teacher: look there first"
    if others:
        after = others[0]
        aside = ", which is not better than guessing" if is_refuted(after.guessing) else ""
        yield (
            f"The next is {after.sensors[0]}, with {told(after.scores['distilled'].mean, measure)}{aside}; the worst "
            f"fault of {name} is {best.worst_fault}"
        )
    yield from _of_worth(found)


def _guessed(found: SensorsDocument) -> str:
    best = found.rows[0]
    better = [row.sensors[0] for row in found.rows if not is_refuted(row.guessing)]
    if better:
        head = f"The student of {best.sensors[0]}, which validates best, is not better than guessing, so nothing is"
        head, tail = f"{head} concluded", f"; better than guessing are the students of {listed(better)}"
    else:
        head, tail = "No sensor can be judged: no student is better than guessing", ""
    figures = [
        beside_guessing(row.sensors[0], row.scores["distilled"].mean, row.guessing, found.measure)
        for row in ([best] if better else found.rows)
        if row.guessing is not None
    ]
    return f"{head} ({found.measure.words}: {'; '.join(figures)}){tail}"


def _of_gain(row: SensorRow, found: SensorsDocument) -> str:
    name = row.sensors[0]
    if not row.is_taught:
        return f"Teaching buys nothing on {name}: validation preferred labels alone, and they are shipped"
    gain = with_gain_unit(difference(row.gain, found.measure), found.measure)
    if not (is_figure(row.low) and is_figure(row.high)):
        return f"Teaching changed {name} by {gain}; there are too few groups for an interval"
    ends = f"95 % interval {difference(row.low, found.measure)} to {difference(row.high, found.measure)}"
    if row.low > 0:
        return f"Teaching pays on {name}: {gain} over labels alone ({ends})"
    if row.high < 0:
        return f"Teaching hurts on {name}: {gain} beside labels alone ({ends})"
    return f"Whether teaching helps on {name} is not certain: {gain} over labels alone ({ends})"


def _of_worth(found: SensorsDocument) -> Iterator[str]:
    """What the student of each sensor is worth everywhere, as entered."""
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
    """The figures of a row as written: scores, gain, interval, faults, parameters, latencies, worth."""
    measure = found.measure
    scores = [figure(row.scores[key].mean if key in row.scores else None, measure) for key in COMPETITORS]
    ends = (
        f"{difference(row.low, measure)} to {difference(row.high, measure)}"
        if is_figure(row.low) and is_figure(row.high)
        else figure(None, measure)
    )
    written = significant if found.faults_measure == "rmse" else percent
    beside = row.relative.mean if row.relative else None
    return [
        *scores,
        difference(row.gain, measure),
        ends,
        written(row.under_faults),
        percent(beside, 0),
        count(row.parameters),
        significant(row.latency_ms),
        significant(row.teacher_latency_ms),
        *([count(row.worth.get("student"))] if found.currency else []),
    ]


def headings(found: SensorsDocument) -> list[str]:
    """What stands above `cells`."""
    unit = "" if found.faults_measure == "rmse" else ", %"
    return [
        *COMPETITORS.values(),
        "gain",
        "95 % interval",
        f"error under faults{unit}",
        "of labels alone, %",
        "parameters",
        "ms",
        "teacher, ms",
        *([f"{'example ' if found.costs_to_enter else ''}worth, {found.currency}"] if found.currency else []),
    ]
