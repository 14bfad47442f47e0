"""Numbers, scores and gains as text, on pages and in terminals.

A missing or non-finite number is `NOTHING`. A narrow no-break space separates thousands and units (SI brochure, 9th
edition, sections 5.4.3 and 5.4.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from mmkd_documents.figures import Chance, LabelLeak, LabelledGroups, Measure, Split, Spread

NOTHING = "\u2013"  # an en dash: not measured
THIN = "\u202f"
MINUS = "\u2212"
TIMES = "\u00d7"
MAX_NAMED = 3


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a number is finite."""
    return value is not None and math.isfinite(value)


def for_terminal(sentence: str) -> str:
    """Replace signs that some terminals lack."""
    return sentence.replace(THIN, " ").replace(MINUS, "-").replace(NOTHING, "-")


def decimal(value: float | None, digits: int = 1) -> str:
    """Write digits after the point; never "-0.0"."""
    if not is_number(value):
        return NOTHING
    written = f"{abs(value):,.{digits}f}".replace(",", THIN)
    return MINUS + written if value < 0 and written.strip("0.") else written


def count(value: float | None) -> str:
    """Write a whole number."""
    return decimal(value, 0)


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a percentage without its unit."""
    return decimal(None if fraction is None else 100 * fraction, digits)


def with_unit(written: str, unit: str) -> str:
    """Append a unit; `NOTHING` has none."""
    return written if written == NOTHING or not unit else f"{written}{THIN}{unit}"


def short_percent(fraction: float | None) -> str:
    """Write a percentage with at most two digits, and the unit."""
    written = percent(fraction, 2)
    return with_unit(written.rstrip("0").rstrip(".") if "." in written else written, "%")


def significant(value: float | None, digits: int = 3) -> str:
    """Write significant digits, with an exponent only below 1e-6."""
    if not is_number(value):
        return NOTHING
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    exponent = int(rounded.partition("e")[2])
    return rounded.replace("-", MINUS) if exponent < -6 else decimal(value, max(0, digits - 1 - exponent))


def quantity(value: float | None, unit: str) -> str:
    """Write three significant digits and a unit."""
    return with_unit(significant(value), unit)


def plain(value: float | None) -> str:
    """Write a setting such as a learning rate."""
    return f"{value:g}".replace("-", MINUS) if is_number(value) else NOTHING


def magnitude(value: float | None) -> str:
    """Write a number in thousands or millions."""
    if is_number(value):
        for size, unit in ((1e6, "M"), (1e3, "k")):
            if float(f"{value:.2e}") >= size:
                return quantity(value / size, unit)
    return count(value)


def time_text(microseconds: float | None) -> str:
    """Write a latency in µs, ms or s."""
    if not is_number(microseconds):
        return NOTHING
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if microseconds / size < 999.5:
            return quantity(microseconds / size, unit)
    return quantity(microseconds / 1e6, "s")


def duration(seconds: float | None) -> str:
    """Write the length of a run."""
    if not is_number(seconds) or seconds < 60:
        return with_unit(significant(seconds, 2), "s")
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h {rest_min} min" if hours else f"{minutes} min {rest_s} s"


def join_words(words: Sequence[str]) -> str:
    """List words in a sentence."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def count_noun(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun."""
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def number_nouns(noun: str, numbers: Sequence[int]) -> str:
    """Write `seed 3`, or `seeds 0, 1, 2`."""
    return f"{noun if len(numbers) == 1 else noun + 's'} {', '.join(map(str, numbers))}"


def score_text(value: float | None, measure: Measure, digits: int = 1) -> str:
    """Write a score without its unit: percent with `digits`, otherwise three significant digits."""
    return percent(value, digits) if measure.is_fraction else significant(value)


def score_with_unit(value: float | None, measure: Measure) -> str:
    """Write a score with its unit."""
    return with_unit(score_text(value, measure), measure.unit)


def tick(value: float, measure: Measure) -> str:
    """Write a score at an axis."""
    return percent(value, 0) if measure.is_fraction else plain(value)


def score_with_std(score: Spread | None, measure: Measure) -> str:
    """Write mean ± standard deviation, without the unit."""
    if score is None:
        return NOTHING
    std = f" ± {score_text(score.std, measure)}" if is_number(score.std) and len(score.per_seed) != 1 else ""
    return score_text(score.mean, measure) + std


def points(value: float | None) -> str:
    """Write signed percentage points."""
    return _add_sign(decimal(value))


def signed_gain(value: float | None, measure: Measure) -> str:
    """Write a signed difference in `gain_unit`, without the unit."""
    return points(value) if measure.is_fraction else _add_sign(significant(value))


def _add_sign(written: str) -> str:
    return written if written[0] in (MINUS, NOTHING) or not written.strip("0.") else f"+{written}"


def with_gain_unit(written: str, measure: Measure) -> str:
    """Append the unit of differences."""
    return f"{written} {measure.gain_unit}" if measure.gain_unit and written != NOTHING else written


def gain_interval(low: float | None, high: float | None, measure: Measure) -> str:
    """Write an interval without unit; `NOTHING` unless both ends are known."""
    if not (is_number(low) and is_number(high)):
        return NOTHING
    write = decimal if measure.is_fraction else significant
    return f"{write(low)} to {write(high)}"


def gain_verdict(mean: float, low: float | None, high: float | None, measure: Measure, where: str = "") -> str:
    """Return the effect of distillation as its interval allows, without a full stop."""
    size = with_gain_unit(signed_gain(abs(mean), measure).lstrip("+"), measure)
    effect = f"Distillation {'worsens' if mean < 0 else 'improves'} {measure.words}{where} by {size}"
    if not (is_number(low) and is_number(high)):
        return f"{effect} (no confidence interval: too few groups)"
    ends = f"95 % interval {gain_interval(low, high, measure)}"
    if low <= 0 <= high:
        mean_text = with_gain_unit(signed_gain(mean, measure), measure)
        return f"The gain of distillation{where} is not significant: {mean_text} ({ends})"
    return f"{effect} ({ends})"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A sensor's score, with its interval if any."""

    name: str
    score: float
    low: float | None = None
    high: float | None = None


def contender(name: str, score: float, chance: Chance | None) -> Contender:
    """Return a sensor with its score's interval in the comparison with chance."""
    ends = {} if chance is None else {"low": chance.low, "high": chance.high}
    return Contender(name=name, score=score, **ends)


def no_clear_winner(contenders: Sequence[Contender], measure: Measure, *, level: str = "95 %") -> str:
    """Return why the first, chosen, is no clear winner, without a full stop; empty if it is.

    Another within a point (a percent of an error), better, or within the interval of the first is a rival.
    """
    first, *others = contenders
    worst = first.high if measure.lower_is_better else first.low
    margin = 0.01 * (1 if measure.is_fraction else abs(first.score))
    limit = measure.rank(first.score) - margin
    limit = limit if worst is None else min(limit, measure.rank(worst))
    close = [other for other in others if measure.rank(other.score) >= limit - 1e-9]
    if not close:
        return ""
    texts = [f"{other.name} {score_with_unit(other.score, measure)}" for other in close[:MAX_NAMED]]
    ends = ""
    if first.low is not None and first.high is not None:
        ends = f" ({level} interval {score_text(first.low, measure)} to {score_text(first.high, measure)})"
    return f"No clear winner: {first.name} {score_with_unit(first.score, measure)}{ends}, {join_words(texts)}"


def with_full_stop(sentence: str) -> str:
    """Append a full stop unless empty."""
    return f"{sentence}." if sentence else ""


def most_loss(reference: float | None, measure: Measure) -> float | None:
    """Return the loss below which one sensor is enough: 2 points, or 2 % of another measure's figure."""
    if not is_number(reference):
        return None
    return 2.0 if measure.is_fraction else abs(0.02 * measure.gain_scale * reference)


def teacher_shortfall(teacher: float | None, baseline: float | None, measure: Measure, where: str = "") -> str:
    """Return that a teacher validates below labels only, without a full stop; empty if it does not."""
    if not (is_number(teacher) and is_number(baseline)) or measure.rank(teacher) >= measure.rank(baseline):
        return ""
    size = with_gain_unit(signed_gain(measure.gain_scale * (baseline - teacher), measure).lstrip("+"), measure)
    scores = [score_with_unit(score, measure) for score in (teacher, baseline)]
    return f"The teacher has nothing to give{where}: it validates {size} below labels only ({' and '.join(scores)})"


def gain_figure(mean: float, low: float | None, high: float | None, measure: Measure, caption: str) -> tuple[str, str]:
    """Return number and caption of a gain, with unit and interval."""
    ends = gain_interval(low, high, measure)
    unit = f"{measure.gain_unit} " if measure.gain_unit else ""
    return signed_gain(mean, measure), unit + caption + ("" if ends == NOTHING else f" · 95 % interval {ends}")


def is_chance_level(chance: Chance | None) -> bool:
    """Return whether a model was compared with chance and is not better."""
    return chance is not None and not chance.is_better


def score_and_chance(name: str, mean: float | None, chance: Chance, measure: Measure) -> str:
    """Return `acc 55.0 % (95 % interval 35.0 to 75.0), chance 50.0 %`."""
    ends = f"{score_text(chance.low, measure)} to {score_text(chance.high, measure)}"
    chance_text = score_with_unit(chance.figure, measure)
    return f"{name} {score_with_unit(mean, measure)} (95 % interval {ends}), chance {chance_text}"


def no_conclusion(students: Sequence[tuple[str, float | None, Chance | None]], measure: Measure) -> str:
    """Return why nothing is concluded if the first student (name, score, chance) is at chance."""
    better = [name for name, _, chance in students if not is_chance_level(chance)]
    head = "No sensor can be judged: no student is better than chance"
    if better:
        head = f"No conclusion: the student of {students[0][0]}, which validates best, is no better than chance"
    figures = [
        score_and_chance(name, score, chance, measure)
        for name, score, chance in students[: 1 if better else MAX_NAMED]
        if chance is not None
    ]
    tail = f"; students better than chance: {join_words(better)}" if better else ""
    return f"{head} ({measure.words}: {'; '.join(figures)}){tail}"


def labelled_groups_text(labelled: LabelledGroups) -> str:
    """Return `2 of 6 groups`, or `2 of 5 to 6 groups` if folds differ."""
    of = " to ".join(map(str, sorted({min(labelled.of), max(labelled.of)})))
    return f"{labelled.labelled} of {of} groups"


def labelled_title(label_fraction: float | None, groups: LabelledGroups | None) -> str:
    """Return `10% labelled` or `2 of 6 groups labelled`; empty if unknown."""
    if groups is not None:
        return f"{labelled_groups_text(groups)} labelled"
    return "" if label_fraction is None else f"{label_fraction:.0%} labelled"


def leak_sentence(
    leak: LabelLeak | None, label_fraction: float | None, measure: Measure, *, split: Split | None
) -> str:
    """Return a warning if labels leak through time, else empty."""
    if leak is None or not leak.leaks or label_fraction is None:
        return ""
    score = score_with_unit(leak.figure.mean, measure)
    cure = "Label whole groups" if split is None or split.by == "groups" else "Write groups.npy, and label whole groups"
    return (
        f"A random {short_percent(label_fraction)} of labels leaks through time: labels of neighbouring windows reach "
        f"{measure.words} {score} on the unlabelled ones without any sensor (chance: "
        f"{score_with_unit(leak.chance.figure, measure)}). {cure} instead (--labelled-groups)."
    )
