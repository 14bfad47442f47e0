"""How numbers, scores and gains are written: every figure on a page and in a terminal table goes through here.

A missing or non-finite figure is written as `NOTHING`. Thousands and units are set off by a narrow no-break space (SI
brochure, 9th edition, sections 5.4.3 and 5.4.4); negative numbers carry the minus sign U+2212.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from mmkd_report.schema.figures import Guessing, LabelLeak, LabelledGroups, Measure, Split

NOTHING = "\u2013"  # an en dash: nothing was measured
THIN = "\u202f"
MINUS = "\u2212"
TIMES = "\u00d7"


def is_number(value: float | None) -> TypeGuard[float]:
    """True where there is a finite number to write."""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, digits: int = 1) -> str:
    r"""`value` with that many digits after the point; never "-0.0".

    >>> fixed(1234.56), fixed(-0.04), fixed(-2.5), fixed(None)
    ('1\u202f234.6', '0.0', '\u22122.5', '–')
    """
    if not is_number(value):
        return NOTHING
    written = f"{abs(value):,.{digits}f}".replace(",", THIN)
    is_zero = not any(digit in written for digit in "123456789")
    return written if value >= 0 or is_zero else MINUS + written


def for_terminal(sentence: str) -> str:
    r"""A sentence of a page in the signs that every terminal has.

    >>> for_terminal("\u22122.0 to 71.2\u202f%")
    '-2.0 to 71.2 %'
    """
    return sentence.replace(THIN, " ").replace(MINUS, "-").replace(NOTHING, "-")


def count(value: float | None) -> str:
    r"""A whole number of counted.

    >>> count(1930)
    '1\u202f930'
    """
    return fixed(value, 0)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a figure in percent, without the sign.

    >>> percent(0.71234)
    '71.2'
    """
    return fixed(None if fraction is None else 100 * fraction, digits)


def with_unit(written: str, unit: str) -> str:
    r"""A written figure and its unit; `NOTHING` stays alone.

    >>> with_unit("71.2", "%")
    '71.2\u202f%'
    """
    return written if written == NOTHING else f"{written}{THIN}{unit}"


def share(fraction: float | None) -> str:
    r"""A share such as the labelled one, in percent with as many digits as it needs (two at most).

    >>> share(0.1), share(0.125)
    ('10\u202f%', '12.5\u202f%')
    """
    written = percent(fraction, 2)
    return with_unit(written.rstrip("0").rstrip(".") if "." in written else written, "%")


def points(value: float | None) -> str:
    r"""A signed signed_gain in percentage points.

    >>> points(12.34), points(-0.4), points(0.01)
    ('+12.3', '\u22120.4', '0.0')
    """
    written = fixed(value)
    return f"+{written}" if is_number(value) and value > 0 and written not in (NOTHING, "0.0") else written


def interval(low: float | None, high: float | None) -> str:
    r"""An interval of percentage points, or `NOTHING` unless both ends are known.

    >>> interval(-0.4, 4.6)
    '\u22120.4 to 4.6'
    """
    return f"{fixed(low)} to {fixed(high)}" if is_number(low) and is_number(high) else NOTHING


def significant(value: float | None, digits: int = 3) -> str:
    r"""`value` with that many significant digits, never in exponential form above 1e-6.

    >>> significant(0.11234), significant(9.999), significant(1234.5), significant(0.0)
    ('0.112', '10.0', '1\u202f234', '0')
    """
    if not is_number(value):
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    if abs(rounded) < 1e-6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return fixed(value, max(0, places))


def plain(value: float | None) -> str:
    r"""A setting such as a learning rate, as people write it.

    >>> plain(0.001), plain(50.0), plain(3e-05)
    ('0.001', '50', '3e\u221205')
    """
    if not is_number(value):
        return NOTHING
    return f"{value:g}".replace("-", MINUS)


def magnitude(value: float | None) -> str:
    r"""A number of parameters in thousands or millions.

    >>> magnitude(61432), magnitude(1253000), magnitude(812)
    ('61.4\u202fk', '1.25\u202fM', '812')
    """
    if not is_number(value):
        return NOTHING
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if float(f"{value:.2e}") >= size:
            return with_unit(significant(value / size), unit)
    return count(value)


def duration(seconds: float | None) -> str:
    r"""How long a run took.

    >>> duration(412.4), duration(9.2), duration(7260)
    ('6 min 52 s', '9.2\u202fs', '2 h 1 min')
    """
    if not is_number(seconds):
        return NOTHING
    if seconds < 60:
        return with_unit(significant(seconds, 2), "s")
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h {rest_min} min" if hours else f"{minutes} min {rest_s} s"


def join_words(words: Sequence[str]) -> str:
    """Words in a sentence.

    >>> join_words(["acc", "gyro", "audio"])
    'acc, gyro and audio'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of counted, with the noun in its right form.

    >>> counted(1, "seed"), counted(5, "seed"), counted(7, "class", "classes")
    ('1 seed', '5 seeds', '7 classes')
    """
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def task_labels_text(kind: str, labels: Sequence[str]) -> str:
    """What a dataset asks for: `3 classes`, `2 labels, each on or off`, `the number level`."""
    if kind == "classification":
        return counted(len(labels), "class", "classes")
    return (
        f"the number {join_words(labels)}"
        if kind == "regression"
        else f"{counted(len(labels), 'label')}, each on or off"
    )


def score_text(value: float | None, measure: Measure, digits: int = 1) -> str:
    r"""A figure in its unit, without the unit.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> error = Measure(name="mae", words="error", short="MAE", unit="bar")
    >>> score_text(0.7125, OF_CLASSES[0]), score_text(0.01234, error)
    ('71.2', '0.0123')
    """
    return percent(value, digits) if measure.is_share else significant(value)


def score_with_unit(value: float | None, measure: Measure) -> str:
    r"""A figure with its unit.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> score_with_unit(0.7125, OF_CLASSES[0])
    '71.2\u202f%'
    """
    written = score_text(value, measure)
    return with_unit(written, measure.unit) if measure.unit else written


def tick(value: float, measure: Measure) -> str:
    """A figure at an axis."""
    return percent(value, 0) if measure.is_share else f"{value:g}".replace("-", "\u2212")


def score_with_std(mean: float | None, std: float | None, measure: Measure) -> str:
    """A figure with its spread, without the unit."""
    return score_text(mean, measure) + (f" ± {score_text(std, measure)}" if is_number(std) else "")


def signed_gain(value: float | None, measure: Measure) -> str:
    r"""A signed signed_gain in the measure's `gain_unit`, without the unit.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> signed_gain(3.16, OF_CLASSES[0]), signed_gain(0.0, Measure(name="mae", words="error", short="MAE"))
    ('+3.2', '0')
    """
    if measure.is_share:
        return points(value)
    return f"+{significant(value)}" if is_number(value) and value > 0 else significant(value)


def gain_size(value: float, measure: Measure) -> str:
    """A signed_gain without its sign, with its unit: `3.2 points`, `0.12 bar`."""
    written = fixed(abs(value)) if measure.is_share else significant(abs(value))
    return f"{written} {measure.gain_unit}" if measure.gain_unit else written


def with_gain_unit(written: str, measure: Measure) -> str:
    """A written signed_gain with its unit."""
    return f"{written} {measure.gain_unit}" if measure.gain_unit and written != NOTHING else written


def gain_interval(low: float | None, high: float | None, measure: Measure) -> str:
    """An interval of differences, without the unit, or `NOTHING` unless both ends are known."""
    if measure.is_share:
        return interval(low, high)
    return f"{significant(low)} to {significant(high)}" if is_number(low) and is_number(high) else NOTHING


def is_chance_level(found: Guessing | None) -> bool:
    """Whether a model was compared with guessing and is not better; documents of earlier releases do not say."""
    return found is not None and not found.is_better


def score_and_chance(name: str, mean: float | None, found: Guessing, measure: Measure) -> str:
    r"""A model's figure with its interval beside that of guessing, as part of a sentence.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> score_and_chance("acc", 0.55, Guessing(figure=0.5, low=0.35, high=0.75, is_better=False), OF_CLASSES[0])
    'acc 55.0\u202f% (interval 35.0 to 75.0), chance 50.0\u202f%'
    """
    span = f"{score_text(found.low, measure)} to {score_text(found.high, measure)}"
    return f"{name} {score_with_unit(mean, measure)} (interval {span}), chance {score_with_unit(found.figure, measure)}"


def labelled_groups_text(labelled: LabelledGroups) -> str:
    """`2 of 6 groups`, or `2 of 5 to 6 groups` where folds have not the same."""
    fewest, most = min(labelled.of), max(labelled.of)
    among = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{labelled.labelled} of {among} groups"


def labelled_title(label_share: float | None, groups: LabelledGroups | None) -> str:
    """`10% labelled` or `2 of 6 groups labelled`, for a title; empty where nobody says."""
    if groups is not None:
        return f"{labelled_groups_text(groups)} labelled"
    return "" if label_share is None else f"{label_share:.0%} labelled"


def labelled_groups_sentence(groups: LabelledGroups) -> str:
    """The sentence that says which labels were seen."""
    return (
        f"Labels of {labelled_groups_text(groups)} to train on are seen, chosen by the seed, and none of the others; "
        "validation windows are all labelled."
    )


def leak_sentence(leak: LabelLeak | None, label_share: float | None, measure: Measure, *, split: Split | None) -> str:
    """The sentence on a share of labels that leaks through time; empty where it does not, or nobody looked."""
    if leak is None or not leak.leaks or label_share is None:
        return ""
    scored, guessed = score_with_unit(leak.figure.mean, measure), score_with_unit(leak.guessing.figure, measure)
    tell = f"tell {scored} of the unlabelled ones"
    if measure.name != "accuracy":
        tell = f"reach {measure.words} {scored} on the unlabelled ones"
    what = f"labels of neighbouring windows {tell} without any sensor"
    has_groups = split is None or split.by == "groups"
    cure = "Label whole groups instead" if has_groups else "Write groups.npy, and label whole groups instead"
    return (
        f"A random {share(label_share)} of labels leaks through time: {what} (chance: {guessed}). "
        f"{cure} (--labelled-groups)."
    )


def terminal_score(value: float | None, measure: Measure) -> str:
    """A figure in its unit, without the unit."""
    return for_terminal(score_text(value, measure))


def terminal_gain(value: float | None, measure: Measure) -> str:
    """A signed signed_gain in the measure's `gain_unit`, without the unit.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> terminal_gain(-3.16, OF_CLASSES[0])
    '-3.2'
    """
    return for_terminal(signed_gain(value, measure))


def terminal_interval(low: float | None, high: float | None, measure: Measure) -> str:
    """The interval of a signed_gain, signs and all; `-` unless both ends are known."""
    return (
        f"{terminal_gain(low, measure)} to {terminal_gain(high, measure)}"
        if is_number(low) and is_number(high)
        else "-"
    )


def terminal_spread(mean: float | None, std: float | None, measure: Measure) -> str:
    """A figure with its spread: shares as fractions, errors in their unit.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> terminal_spread(0.8125, 0.025, OF_CLASSES[0])
    '0.812 ± 0.025'
    """
    both = [value for value in (mean, std) if is_number(value)]
    return " ± ".join(for_terminal(significant(one)) if measure.lower_is_better else f"{one:.3f}" for one in both)


def chance_line(found: Guessing | None, measure: Measure) -> str:
    """What is said of a model beside guessing, and empty text where it was not asked.

    >>> from mmkd_report.schema.figures import OF_CLASSES
    >>> chance_line(Guessing(figure=0.5, low=0.35, high=0.75, is_better=False), OF_CLASSES[0])
    'no better than chance, so no conclusion is drawn: accuracy 35.0 to 75.0 %, chance 50.0 %'
    """
    if found is None:
        return ""
    verdict = "better than chance" if found.is_better else "no better than chance, so no conclusion is drawn"
    ends = f"{score_text(found.low, measure)} to {score_with_unit(found.high, measure)}"
    return for_terminal(f"{verdict}: {measure.words} {ends}, chance {score_with_unit(found.figure, measure)}")
