"""What `mmkd-evaluate` tells of checkpoints and of bundles alike: scores, and the windows behind them."""

from __future__ import annotations

import msgspec

from mmkd_models.evaluate.judged import Judged


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
        groups: people, machines or sessions that they come from.
        labels: of the task.
    """

    name: str
    sha256: str
    part: str
    windows: int
    groups: int
    labels: tuple[str, ...]


def judged_scores(judged: Judged) -> JudgedScores:
    """Gives what a report tells of answers to classes."""
    found = judged.scores
    return JudgedScores(
        accuracy=found.metric("accuracy"),
        balanced_accuracy=found.metric("balanced_accuracy"),
        macro_f1=found.metric("macro_f1"),
    )
