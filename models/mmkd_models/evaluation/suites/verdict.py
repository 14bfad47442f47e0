"""The verdict: sentences that follow from the figures of a judging, and what to record next."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_models.evaluation.gains import FEWEST_GROUPS
from mmkd_models.evaluation.suites.shift import next_of_shift, of_shift
from mmkd_report.schema.cost import CostFacts, example_text
from mmkd_report.schema.judging import FaultFigures, FaultsFacts, GroupsFacts, JudgingDocument, TrustFacts

_MOST_NAMED = 5
_HALF = 0.5
"""A fault of which more than this share of what a model knew is lost at full severity is one to keep away from."""


def verdict_of(document: JudgingDocument) -> Iterator[str]:
    """Gives the verdict on the first model."""
    if document.faults is not None:
        yield from _of_faults(document, document.faults)
    if document.shift is not None:
        yield from of_shift(document.shift)
    if document.groups is not None:
        yield from _of_groups(document, document.groups)
    if document.confidence is not None:
        yield from _of_confidence(document, document.confidence)
    if document.cost is not None:
        yield from _of_cost(document.cost)
    wanted = list(_to_record(document))
    if wanted:
        yield f"Record next: {'; '.join(wanted)}"


def _of_groups(document: JudgingDocument, found: GroupsFacts) -> Iterator[str]:
    name = document.models[0].name
    gap = found.gaps.get("accuracy", {}).get(name)
    if gap is None:
        yield (
            f"Whether {name} serves every {found.by} alike is not known: fewer than two have {found.least_windows} "
            "windows"
        )
        return
    figures = {one.value: one.figures[name]["accuracy"] for one in found.values}
    yield (
        f"{name} serves {found.by} {gap.worst} worst, with {figures[gap.worst]:.1%} accuracy, and {gap.best} best, with"
        f" {figures[gap.best]:.1%}: a gap of {100 * gap.gap:.1f} points (95 % interval {100 * gap.low:.1f} to "
        f"{100 * gap.high:.1f})"
    )
    for one in found.changes:
        if one.change != "no certain difference":
            yield (
                f"The gap of {one.measure} is {one.change}: {100 * one.low:+.1f} to {100 * one.high:+.1f} points "
                f"beside that of {document.baseline}"
            )
    if found.changes and all(one.change == "no certain difference" for one in found.changes):
        yield f"Teaching changed no gap between {found.by} values with certainty"


def _to_record(document: JudgingDocument) -> Iterator[str]:
    """What recordings would mend most of what was found."""
    name = document.models[0].name
    if document.shift is not None:
        yield next_of_shift(document.shift)
    if document.groups is not None:
        gap = document.groups.gaps.get("accuracy", {}).get(name)
        if gap is not None and gap.gap > gap.chance:
            yield f"more of {document.groups.by} {gap.worst}"
        few = [one.value for one in document.groups.values if not one.is_judged]
        if few:
            more = [] if len(few) <= _MOST_NAMED else [f"{len(few) - _MOST_NAMED} more"]
            named = _listed([*few[:_MOST_NAMED], *more], "and")
            yield f"at least {document.groups.least_windows} windows of {document.groups.by} {named}"
    if document.faults is not None:
        unseen = [one.name for one in document.faults.faults if one.practised.get(name) is False]
        lost = [one.name for one in document.faults.faults if _lost(one, document.faults, name) > _HALF]
        both = [fault for fault in lost if fault in unseen]
        if both:
            yield f"windows of sensors that show {_listed(both, 'and')}, which no training practised"
        relative = document.faults.relative.get(name)
        if relative is not None and relative.low is None:
            yield f"{FEWEST_GROUPS} groups or more that judge, for an interval under faults"


def _of_confidence(document: JudgingDocument, found: TrustFacts) -> Iterator[str]:
    name = document.models[0].name
    sound, *broken = found.models[name].rows
    yield (
        f"Without labels {name} would estimate its accuracy as {sound.estimated:.1%} with sound sensors, where it is "
        f"{sound.accuracy:.1%}"
    )
    flattered = [one for one in broken if one.estimated - one.accuracy > found.misleads_beyond]
    if flattered:
        worst = max(flattered, key=lambda one: one.estimated - one.accuracy)
        yield (
            f"Do not trust its own estimate when a sensor breaks: it flatters under {len(flattered)} of {len(broken)} "
            f"faults, most under {worst.condition}, {worst.estimated:.1%} for {worst.accuracy:.1%}"
        )
    else:
        yield f"Its own estimate flatters under none of {len(broken)} faults by more than {found.misleads_beyond:.0%}"
    covered = {one.condition: one.covered for one in broken if one.covered is not None}
    if sound.covered is not None and covered:
        least = min(covered, key=lambda condition: covered[condition])
        yield (
            f"Its label sets promise the true label in {1 - found.set_level:.0%}: they hold it in {sound.covered:.1%} "
            f"with sound sensors, and least, in {covered[least]:.1%}, under {least}"
        )


def _of_cost(found: CostFacts) -> Iterator[str]:
    if not found.results:
        yield "Whether it pays is not known: no way to equip has both a section in the file and figures of what it sees"
        return
    if found.to_enter:
        yield example_text(found.to_enter)
        return
    best = max(found.results, key=lambda way: found.results[way].net_present_value)
    result, currency = found.results[best], found.currency
    worth = round(result.net_present_value)
    if worth <= 0:
        yield f"Do not invest as entered: the best way, {best} everywhere, is worth {worth:,} {currency}; nothing, 0"
    else:
        month = "" if result.payback_month is None else f", is paid back in month {result.payback_month}"
        yield (
            f"As entered, {best} everywhere is worth most: {worth:,} {currency} in {found.plant.years:g} years{month} "
            f"and pays with {result.break_even_stations} or more stations"
        )
    if found.student_beats_teacher is not None:
        yield (
            f"The student is worth more than the teacher in {found.student_beats_teacher:.0%} of the draws of groups "
            "and ranges"
        )
    defaults = sum(one.mark == "default" for one in found.assumptions)
    if defaults:
        yield f"{defaults} of {len(found.assumptions)} assumptions are defaults: enter your own before you decide"


def _of_faults(document: JudgingDocument, found: FaultsFacts) -> Iterator[str]:
    name, worst = document.models[0].name, found.faults[0]
    if found.measure == "rmse":
        yield (
            f"The worst fault for {name} is {worst.name}: its error is {found.sound[name]:.3g} with sound sensors and "
            f"{worst.errors[name][-1]:.3g} with {worst.what}"
        )
    else:
        lost = [one.name for one in found.faults if _lost(one, found, name) > _HALF]
        sound, broken = 1 - found.sound[name], 1 - worst.errors[name][-1]
        yield (
            f"The worst fault for {name} is {worst.name}: of {sound:.1%} {found.measure.replace('_', ' ')} "
            f"{broken:.1%} is left with {worst.what}"
        )
        if lost:
            yield f"Do not rely on it where a sensor may show {_listed(lost)}: half of what it knew is lost there"
    yield from _beside(document, found)
    yield from _of_rivals(document, found)


def _of_rivals(document: JudgingDocument, found: FaultsFacts) -> Iterator[str]:
    """Where a rival errs less, with sound sensors or over all faults."""
    first = document.models[0].name
    for one in document.models:
        if one.role != "rival":
            continue
        summed = {name: sum(sum(fault.errors[name]) for fault in found.faults) for name in (first, one.name)}
        better = [
            words
            for words, is_better in (
                ("with sound sensors", found.sound[one.name] < found.sound[first]),
                ("over all faults", summed[one.name] < summed[first]),
            )
            if is_better
        ]
        if better:
            told = _listed(better, "and")
            yield f"{one.name}, which needs no teacher, errs less than {first} {told}: look at it first"


def _lost(one: FaultFigures, found: FaultsFacts, name: str) -> float:
    """Share of what was right with sound sensors that is wrong at full severity."""
    right = 1 - found.sound[name]
    return (one.errors[name][-1] - found.sound[name]) / right if right > 0 else 0.0


def _beside(document: JudgingDocument, found: FaultsFacts) -> Iterator[str]:
    name, other = document.models[0].name, document.baseline
    relative = found.relative.get(name)
    if other is None or relative is None:
        return
    figure = f"over all faults its error is {relative.mean:.0%} of that of {other}, which labels alone taught"
    if relative.low is None or relative.high is None:
        yield f"For {name} {figure}; there are too few groups for an interval"
        return
    if relative.high < 1:
        said = "Teaching helps under faults"
    else:
        said = (
            "Teaching hurts under faults" if relative.low > 1 else "Whether teaching helps under faults is not certain"
        )
    yield f"{said}: for {name} {figure} (95 % interval {relative.low:.0%} to {relative.high:.0%})"


def _listed(words: list[str], last: str = "or") -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
