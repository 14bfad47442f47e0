"""What the figures of a document are: their names, units and directions, and how one is written.

A document of another task than one of classes says so itself, in its `measures`; those of classes stand here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

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


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a model.

    Attributes:
        name: in documents, where the figure itself stands without unit and scale.
        words: in a sentence.
        short: above a column.
        unit: `%` of a share, the target's of an error; empty where there is none.
        gain_unit: of a difference: `points` of a share, else as `unit`.
        scale: what the figure is multiplied by to be in `unit`.
        lower_is_better: of errors.
    """

    name: str
    words: str
    short: str
    unit: str = ""
    gain_unit: str = ""
    scale: float = 1.0
    lower_is_better: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is a share, told in percent, and its differences in points."""
        return self.scale != 1

    @property
    def heading(self) -> str:
        """What stands above a column of it."""
        return f"{self.short}, {self.unit}" if self.unit else self.short

    @property
    def gain_heading(self) -> str:
        """What stands above a column of differences."""
        return f"Gain, {self.gain_unit}" if self.gain_unit else "Gain"

    @property
    def title(self) -> str:
        """Its words at the beginning of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def floor(self) -> float:
        """Where an axis of it ends below."""
        return 0.0 if self.is_share or self.lower_is_better else -math.inf

    @property
    def ceiling(self) -> float:
        """Where an axis of it ends above."""
        return math.inf if self.lower_is_better else 1.0

    def rank(self, value: float) -> float:
        """A number that is higher where the figure is better; of that number again the figure."""
        return -value if self.lower_is_better else value


def _share(name: str, words: str, short: str) -> Measure:
    return Measure(name=name, words=words, short=short, unit="%", gain_unit="points", scale=100.0)


OF_CLASSES = (
    _share("accuracy", "accuracy", "Accuracy"),
    _share("balanced_accuracy", "balanced accuracy", "Balanced"),
    _share("macro_f1", "macro-F1", "Macro-F1"),
)


def labels_in_words(kind: str, labels: Sequence[str]) -> str:
    """What a dataset asks for: `3 classes`, `2 labels, each on or off`, `the number level`."""
    if kind == "classification":
        return things(len(labels), "class", "classes")
    return f"the number {listed(labels)}" if kind == "regression" else f"{things(len(labels), 'label')}, each on or off"


def figure(value: float | None, measure: Measure, digits: int = 1) -> str:
    r"""A figure in its unit, without the unit.

    >>> figure(0.7125, OF_CLASSES[0]), figure(0.01234, Measure(name="mae", words="error", short="MAE", unit="bar"))
    ('71.2', '0.0123')
    """
    return percent(value, digits) if measure.is_share else significant(value)


def told(value: float | None, measure: Measure) -> str:
    r"""A figure with its unit.

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
