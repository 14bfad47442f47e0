"""What the figures of left-out domains say, a sentence each: does distillation help under shift?"""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report.schema.demo import LABELS_ALONE
from mmkd_report.schema.evaluation import WindowGain
from mmkd_report.schema.figures import CONTESTANTS, Measure
from mmkd_report.schema.judging import STUDENT, DomainSpread, ShiftFacts

_RIVALS = (CONTESTANTS["extra_trees"], CONTESTANTS["mini_rocket"])


def of_shift(found: ShiftFacts) -> Iterator[str]:
    """Gives the verdict under shift."""
    measure, gain = found.measure, found.gains[LABELS_ALONE]
    where = f"On the {found.by} that was left out"
    yield (
        f"{where} {_helps(gain)}: the student of {found.sensor} has {_figure(found.models[STUDENT].mean, measure)} "
        f"{measure.words}, {_points(gain.mean, measure)} beside labels alone ({_interval(gain, measure)} over "
        f"{len(found.domains)} domains)"
    )
    yield from _kept(found)
    worst = found.worst[STUDENT]
    figure = next(one.figures[STUDENT] for one in found.domains if one.name == worst)
    yield f"Its worst {found.by} is {worst}, with {_figure(figure, measure)}"
    for rival in _RIVALS:
        beside = found.gains.get(rival)
        if beside is not None and beside.high is not None and beside.high < 0:
            yield (
                f"{rival} on the same sensor is better there than the student, by {_points(-beside.mean, measure)} "
                f"({_interval(_negated(beside), measure)}): take it, or record another {found.by}"
            )
    shared = sum(one.shared_groups for one in found.domains)
    if shared:
        yield (
            f"{shared} groups of left-out domains have windows in training too, in other domains: what a new group "
            "costs is not in these figures"
        )
    if found.time is not None:
        measure, told = found.time.measure, found.time.gain
        yield (
            f"At the end of the campaign, trained on its beginning, {_helps(told)}: the student has "
            f"{_figure(found.time.figures[STUDENT], measure)} {measure.words}, {_points(_mean(told), measure)} beside "
            f"labels alone ({_interval(told, measure)})"
        )


def next_of_shift(found: ShiftFacts) -> str:
    """Gives what to record next."""
    return f"more like {found.by} {found.worst[STUDENT]}"


def _kept(found: ShiftFacts) -> Iterator[str]:
    """How much of the teacher's lead is left in the student, where that lead is certain."""
    lead, measure = found.teacher_gain, found.measure
    if lead.low is None or lead.low <= 0:
        yield (
            "Whether the teacher itself is better there than labels alone is not certain: "
            f"{_points(lead.mean, measure)} ({_interval(lead, measure)})"
        )
        return
    gain = found.gains[LABELS_ALONE].mean
    kept = _points(gain, measure).removeprefix("+") if gain > 0 else "nothing"
    yield (
        f"Of the {_points(lead.mean, measure).removeprefix('+')} by which the teacher is better there "
        f"({_interval(lead, measure)}), it keeps {kept}"
    )


def _helps(gain: DomainSpread | WindowGain) -> str:
    if gain.low is None or gain.high is None:
        return "it is not known whether distillation helps"
    if gain.low > 0:
        return "distillation helps"
    return "distillation hurts" if gain.high < 0 else "it is not certain that distillation helps"


def _mean(gain: DomainSpread | WindowGain) -> float:
    return gain.points if isinstance(gain, WindowGain) else gain.mean


def _figure(value: float, measure: Measure) -> str:
    return f"{value:.1%}" if measure.is_share else f"{value:.3g} {measure.unit}".rstrip()


def _points(value: float, measure: Measure) -> str:
    return f"{value:+.1f} points" if measure.is_share else f"{value:+.3g} {measure.gain_unit}".rstrip()


def _interval(gain: DomainSpread | WindowGain, measure: Measure) -> str:
    if gain.low is None or gain.high is None:
        return "too few for an interval"
    written = f"{gain.low:+.1f} to {gain.high:+.1f}" if measure.is_share else f"{gain.low:+.3g} to {gain.high:+.3g}"
    return f"95 % interval {written}"


def _negated(gain: DomainSpread) -> DomainSpread:
    low, high = gain.low, gain.high
    return DomainSpread(mean=-gain.mean, low=None if high is None else -high, high=None if low is None else -low)
