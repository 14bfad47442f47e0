"""What `mmkd-evaluate` tells of checkpoints and of bundles alike: scores, and the windows behind them."""

from __future__ import annotations

import msgspec

from mmkd_models.data.split import SplitFacts
from mmkd_models.evaluate.by_group import Judged


class JudgedScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fractions from 0 to 1, over the classes that occur."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class DataFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it was judged on.

    Attributes:
        name: of the dataset.
        sha256: of its content.
        part: the split, or the fold whose test windows these are.
        windows: how many with a label.
        groups: people, machines or sessions that they come from; 0 where it is unknown.
        split: how they were set apart from those that trained.
        labels: of the task.
    """

    name: str
    sha256: str
    part: str
    windows: int
    groups: int
    split: SplitFacts
    labels: tuple[str, ...]

    @property
    def apart(self) -> str:
        """What is said of them in brackets: their groups, or that they have none."""
        return f"{self.groups} groups" if self.split.by == "groups" else self.split.judged_on


def judged_scores(judged: Judged) -> JudgedScores:
    """Gives what a report tells of answers to classes."""
    found = judged.scores
    return JudgedScores(
        accuracy=found.metric("accuracy"),
        balanced_accuracy=found.metric("balanced_accuracy"),
        macro_f1=found.metric("macro_f1"),
    )
