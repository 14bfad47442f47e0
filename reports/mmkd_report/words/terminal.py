"""Figures as terminals and Markdown have them: the words of pages, in signs that stand everywhere."""

from __future__ import annotations

from mmkd_report.documents.figures import Guessing, Measure
from mmkd_report.words.formats import for_terminal, is_figure, significant
from mmkd_report.words.measures import difference, figure, told


def figure_text(value: float | None, measure: Measure) -> str:
    """A figure in its unit, without the unit."""
    return for_terminal(figure(value, measure))


def gain_text(value: float | None, measure: Measure) -> str:
    """A signed difference in the measure's `gain_unit`, without the unit.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> gain_text(-3.16, OF_CLASSES[0])
    '-3.2'
    """
    return for_terminal(difference(value, measure))


def interval_text(low: float | None, high: float | None, measure: Measure) -> str:
    """The interval of a difference, signs and all; `-` unless both ends are known."""
    return f"{gain_text(low, measure)} to {gain_text(high, measure)}" if is_figure(low) and is_figure(high) else "-"


def spread_text(mean: float | None, std: float | None, measure: Measure) -> str:
    """A figure with its spread: shares as fractions, errors in their unit.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> spread_text(0.8125, 0.025, OF_CLASSES[0])
    '0.812 ± 0.025'
    """
    both = [value for value in (mean, std) if is_figure(value)]
    return " ± ".join(for_terminal(significant(one)) if measure.lower_is_better else f"{one:.3f}" for one in both)


def guessing_line(found: Guessing | None, measure: Measure) -> str:
    """What is said of a model beside guessing, and empty text where it was not asked.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> guessing_line(Guessing(figure=0.5, low=0.35, high=0.75, is_better=False), OF_CLASSES[0])
    'not better than guessing, so nothing is concluded: accuracy 35.0 to 75.0 %, guessing 50.0 %'
    """
    if found is None:
        return ""
    verdict = "better than guessing" if found.is_better else "not better than guessing, so nothing is concluded"
    ends = f"{figure(found.low, measure)} to {told(found.high, measure)}"
    return for_terminal(f"{verdict}: {measure.words} {ends}, guessing {told(found.figure, measure)}")
