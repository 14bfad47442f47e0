"""Which sensor to buy, in sentences that follow from the figures; terminals say the same."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report.documents.judging import COMPETITORS, SensorRow, SensorsDocument
from mmkd_report.words.formats import count, is_figure, listed, percent, significant
from mmkd_report.words.measures import difference, figure, told, with_gain_unit


def verdict(found: SensorsDocument) -> Iterator[str]:
    """Gives the verdict, a sentence each; the sensor is chosen by validation, what is said of it is of the test."""
    best, *others = found.rows
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
        yield (
            f"The next is {after.sensors[0]}, with {told(after.scores['distilled'].mean, measure)}; "
            f"{_hardiest(found)} errs least under faults, {name} loses most to {best.worst_fault}"
        )
    if found.pairs:
        pair = found.pairs[0]
        more = difference(measure.gain_scale * (pair.scores["teacher"].mean - distilled), measure)
        yield (
            f"Of two sensors {listed(list(pair.sensors))} are the best that the teacher answers with: "
            f"{told(pair.scores['teacher'].mean, measure)}, {with_gain_unit(more, measure)} beside the student of "
            f"{name}, which is the smaller"
        )
    yield from _of_worth(found)


def _of_gain(row: SensorRow, found: SensorsDocument) -> str:
    name = row.sensors[0]
    if not row.is_taught:
        return f"Teaching buys nothing on {name}: validation preferred labels alone, and they are shipped"
    gain = with_gain_unit(difference(row.gain, found.measure), found.measure)
    if not (is_figure(row.low) and is_figure(row.high)):
        return f"Teaching changed {name} by {gain}; there is no interval"
    ends = f"95 % interval {difference(row.low, found.measure)} to {difference(row.high, found.measure)}"
    if row.low > 0:
        return f"Teaching pays on {name}: {gain} over labels alone ({ends})"
    if row.high < 0:
        return f"Teaching hurts on {name}: {gain} beside labels alone ({ends})"
    return f"Whether teaching helps on {name} is not certain: {gain} over labels alone ({ends})"


def _hardiest(found: SensorsDocument) -> str:
    known = [row for row in found.rows if row.under_faults is not None]
    return min(known, key=lambda row: row.under_faults or 0.0).sensors[0]


def _of_worth(found: SensorsDocument) -> Iterator[str]:
    """What the student of each sensor is worth everywhere, as entered."""
    worth = {row.sensors[0]: row.worth["student"] for row in found.rows if "student" in row.worth}
    if not worth:
        return
    best = max(worth, key=lambda name: worth[name])
    if worth[best] <= 0:
        yield f"With the costs entered no sensor pays: the best, {best}, is worth {count(worth[best])} {found.currency}"
    else:
        yield f"With the costs entered {best} is worth most: {count(worth[best])} {found.currency}"


def cells(row: SensorRow, found: SensorsDocument) -> list[str]:
    """The figures of a row as written: scores, gain, interval, faults, parameters, latency, worth."""
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
        *([count(row.worth.get("student"))] if found.currency else []),
    ]


def headings(found: SensorsDocument) -> list[str]:
    """What stands above `cells`."""
    unit = "" if found.faults_measure == "rmse" else ", %"
    return [
        *(f"{words}" for words in COMPETITORS.values()),
        "gain",
        "95 % interval",
        f"error under faults{unit}",
        "of labels alone, %",
        "parameters",
        "ms",
        *([f"worth, {found.currency}"] if found.currency else []),
    ]
