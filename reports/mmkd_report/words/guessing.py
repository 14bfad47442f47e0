"""The words for a model beside guessing, on every page."""

from __future__ import annotations

from mmkd_report.documents.figures import Guessing, Measure
from mmkd_report.words.measures import figure, told


def is_refuted(found: Guessing | None) -> bool:
    """Whether a model was compared with guessing and is not better; documents of earlier releases do not say."""
    return found is not None and not found.is_better


def beside_guessing(name: str, mean: float | None, found: Guessing, measure: Measure) -> str:
    r"""A model's figure with its interval beside that of guessing, as part of a sentence.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> beside_guessing("acc", 0.55, Guessing(figure=0.5, low=0.35, high=0.75, is_better=False), OF_CLASSES[0])
    'acc 55.0\u202f% (interval 35.0 to 75.0), guessing 50.0\u202f%'
    """
    span = f"{figure(found.low, measure)} to {figure(found.high, measure)}"
    return f"{name} {told(mean, measure)} (interval {span}), guessing {told(found.figure, measure)}"
