"""Figures that several documents hold: what they are called, their spread over seeds, and what they stand beside.

Fractions run from 0 to 1. A document of classes does not say what its figures are: those of `OF_CLASSES`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

NULL: Any = msgspec.field(default_factory=type(None))
"""The default of a value that may be missing in a document, and is written as null where it is unknown."""


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
    def gain_scale(self) -> float:
        """What a difference of two figures is multiplied by to be in `gain_unit`, and above 0 where it is a gain."""
        return -self.scale if self.lower_is_better else self.scale

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
)


class ClassScores(msgspec.Struct, frozen=True, kw_only=True):
    """Fractions from 0 to 1, over the classes that occur."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One measure over seeds: mean, sample standard deviation (None for a single seed) and the figure of each seed."""

    mean: float
    std: float | None = None
    per_seed: tuple[float, ...] = ()


CONTESTANTS: dict[str, str] = {
    "extra_trees": "extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "MiniRocket and extra-trees averaged",
    "multi_rocket_hydra": "MultiRocket-Hydra",
    "taught_rocket": "MiniRocket, taught by the same teacher",
    "labels_only": "labels only",
    "distilled": "distilled",
    "teacher": "teacher",
}
"""Who stands beside one another in comparisons, by the words of every page and terminal."""


class Guessing(msgspec.Struct, frozen=True, kw_only=True):
    """A model beside guessing, in one measure, mean over seeds.

    Attributes:
        figure: what guessing scores.
        low: lower end of the 95 % interval of the model's own figure.
        is_better: whether that whole interval is on the better side of `figure`.
    """

    figure: float
    low: float
    high: float
    is_better: bool


class LabelledGroups(msgspec.Struct, frozen=True, kw_only=True):
    """Whole groups of the training windows that show their labels, where all others show none.

    Attributes:
        labelled: how many.
        of: how many groups the training windows of each seed have.
    """

    labelled: int
    of: tuple[int, ...]


class LabelLeak(msgspec.Struct, frozen=True, kw_only=True):
    """Labels spread in time over the unlabelled training windows, without any sensor.

    Attributes:
        figure: what that scores on them, in the first measure.
        guessing: the same beside guessing.
        leaks: whether it is far above guessing, so that a random share of labels leaks through time.
    """

    figure: Spread
    guessing: Guessing
    leaks: bool


SplitBy = Literal["groups", "own folds", "own split"]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How the windows that judge were set apart from those that trained; early documents do not say.

    Attributes:
        by: `groups`, of which none is in two parts; without groups `own folds` or `own split`, those of the dataset.
        judged_on: what the windows are, behind "judged on".
        resampled: what intervals draw with replacement, behind "resampling".
    """

    by: SplitBy
    judged_on: str
    resampled: str
