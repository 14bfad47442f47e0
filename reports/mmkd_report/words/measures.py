"""How a figure of a document is written: in its unit, with its spread, and its differences."""

from __future__ import annotations

from collections.abc import Sequence

from mmkd_report.documents.figures import Measure
from mmkd_report.words.formats import (
    NOTHING,
    fixed,
    interval,
    is_figure,
    listed,
    percent,
    points,
    significant,
    things,
    with_unit,
)


def labels_in_words(kind: str, labels: Sequence[str]) -> str:
    """What a dataset asks for: `3 classes`, `2 labels, each on or off`, `the number level`."""
    if kind == "classification":
        return things(len(labels), "class", "classes")
    return f"the number {listed(labels)}" if kind == "regression" else f"{things(len(labels), 'label')}, each on or off"


def figure(value: float | None, measure: Measure, digits: int = 1) -> str:
    r"""A figure in its unit, without the unit.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> figure(0.7125, OF_CLASSES[0]), figure(0.01234, Measure(name="mae", words="error", short="MAE", unit="bar"))
    ('71.2', '0.0123')
    """
    return percent(value, digits) if measure.is_share else significant(value)


def told(value: float | None, measure: Measure) -> str:
    r"""A figure with its unit.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> told(0.7125, OF_CLASSES[0])
    '71.2\u202f%'
    """
    written = figure(value, measure)
    return with_unit(written, measure.unit) if measure.unit else written


def tick(value: float, measure: Measure) -> str:
    """A figure at an axis."""
    return percent(value, 0) if measure.is_share else f"{value:g}".replace("-", "\u2212")


def spread_of_seeds(mean: float | None, std: float | None, measure: Measure) -> str:
    """A figure with its spread, without the unit."""
    return figure(mean, measure) + (f" ± {figure(std, measure)}" if is_figure(std) else "")


def difference(value: float | None, measure: Measure) -> str:
    r"""A signed difference in the measure's `gain_unit`, without the unit.

    >>> from mmkd_report.documents.figures import OF_CLASSES
    >>> difference(3.16, OF_CLASSES[0]), difference(0.0, Measure(name="mae", words="error", short="MAE"))
    ('+3.2', '0')
    """
    if measure.is_share:
        return points(value)
    return f"+{significant(value)}" if is_figure(value) and value > 0 else significant(value)


def size_of(value: float, measure: Measure) -> str:
    """A difference without its sign, with its unit: `3.2 points`, `0.12 bar`."""
    written = fixed(abs(value)) if measure.is_share else significant(abs(value))
    return f"{written} {measure.gain_unit}" if measure.gain_unit else written


def with_gain_unit(written: str, measure: Measure) -> str:
    """A written difference with its unit."""
    return f"{written} {measure.gain_unit}" if measure.gain_unit and written != NOTHING else written


def gain_interval(low: float | None, high: float | None, measure: Measure) -> str:
    """An interval of differences, without the unit, or `NOTHING` unless both ends are known."""
    if measure.is_share:
        return interval(low, high)
    return f"{significant(low)} to {significant(high)}" if is_figure(low) and is_figure(high) else NOTHING
