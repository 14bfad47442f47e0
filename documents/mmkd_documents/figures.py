"""Figures of several documents. Fractions run from 0 to 1."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")


def stored(default: T) -> T:
    """Return the default of a field that is written in any case, where `omit_defaults` leaves absent ones out."""
    return msgspec.field(default_factory=lambda: default)


NULL: Any = stored(None)
"""Default of a value that is written as null if unknown."""

MODEL_NAMES: dict[str, str] = {
    "extra_trees": "extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "MiniRocket and extra-trees averaged",
    "distilled_rocket": "distilled MiniRocket",
    "rockad": "ROCKAD",
    "average_of_six": "average of six",
    "labels_only": "labels only",
    "distilled": "distilled",
    "teacher": "teacher",
}
"""Models of a comparison, in the words of every page and terminal."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a model."""

    name: str  # in documents, which hold figures without unit and scale
    words: str  # in a sentence
    short: str  # above a column
    unit: str = ""  # % for a fraction, the target's for an error, or empty
    gain_unit: str = ""  # unit of differences
    scale: float = 1.0  # from the figure to `unit`
    lower_is_better: bool = False

    @property
    def is_fraction(self) -> bool:
        """Whether it is shown in percent."""
        return self.scale != 1

    @property
    def gain_scale(self) -> float:
        """Factor from a difference to a gain in `gain_unit`, above 0 if better."""
        return -self.scale if self.lower_is_better else self.scale

    @property
    def heading(self) -> str:
        """Head of a column."""
        return f"{self.short}, {self.unit}" if self.unit else self.short

    @property
    def gain_heading(self) -> str:
        """Head of a column of differences."""
        return f"Gain, {self.gain_unit}" if self.gain_unit else "Gain"

    @property
    def title(self) -> str:
        """Beginning of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def floor(self) -> float:
        """Lower end of an axis."""
        return 0.0 if self.is_fraction or self.lower_is_better else -math.inf

    @property
    def ceiling(self) -> float:
        """Upper end of an axis."""
        return math.inf if self.lower_is_better else 1.0

    def rank(self, value: float) -> float:
        """Return a number that is higher if the figure is better; its own inverse."""
        return -value if self.lower_is_better else value


def _share(name: str, words: str, short: str) -> Measure:
    return Measure(name=name, words=words, short=short, unit="%", gain_unit="points", scale=100.0)


def _error(name: str, words: str) -> Measure:
    return Measure(name=name, words=words, short=name.upper(), lower_is_better=True)


OF_CLASSES = (
    _share("accuracy", "accuracy", "Accuracy"),
    _share("balanced_accuracy", "balanced accuracy", "Balanced"),
    _share("macro_f1", "macro-F1", "Macro-F1"),
)
MEASURES = (
    *OF_CLASSES,
    _share("mean_average_precision", "mean average precision", "Mean precision"),
    _share("subset_accuracy", "share of windows with every label right", "All right"),
    _error("mae", "mean absolute error"),
    _error("rmse", "root mean squared error"),
    Measure(name="r2", words="R²", short="R²"),
    Measure(name="pearson", words="correlation", short="Pearson"),
    Measure(name="auroc", words="AUROC", short="AUROC"),
)

SET_F1 = _share("set_f1", "set-F1", "Set-F1")  # of answered sets of labels, mean over windows


class ClassScores(msgspec.Struct, frozen=True, kw_only=True):
    """Fractions from 0 to 1, over classes that occur."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A measure over seeds; `std` is the sample standard deviation, None for one seed."""

    mean: float
    std: float | None = None
    per_seed: tuple[float, ...] = ()


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with its 95 % interval, in the unit of its field; no interval for few groups."""

    mean: float
    low: float | None = None
    high: float | None = None


class RatioRange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ratio measured `repeats` times in one run."""

    median: float | None = None
    min: float | None = None
    max: float | None = None
    std: float | None = NULL
    repeats: int | None = None


class Chance(msgspec.Struct, frozen=True, kw_only=True):
    """A model against chance, mean over seeds."""

    figure: float
    low: float  # lower end of the 95 % interval of the model's figure
    high: float
    is_better: bool  # whether the whole interval is better than `figure`


class LabelledGroups(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled groups, and groups in each seed's training windows."""

    labelled: int
    of: tuple[int, ...]


class LabelLeak(msgspec.Struct, frozen=True, kw_only=True):
    """Labels spread in time over unlabelled training windows, without any sensor."""

    figure: Spread  # their score in the first measure
    chance: Chance
    leaks: bool  # far better than chance: random labels leak through time


SplitBy = Literal["groups", "own folds", "own split"]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How test windows are separated from training windows."""

    by: SplitBy  # `groups` are never in two parts; the others are the dataset's
    judged_on: str  # the words after "judged on"
    resampled: str  # the words after "resampling"
