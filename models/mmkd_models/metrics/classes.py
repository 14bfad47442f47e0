"""Accuracy, balanced accuracy and macro-F1 from one confusion matrix."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Fractions from 0 to 1.

    Attributes:
        balanced_accuracy: mean recall over the classes that occur in the truth.
        macro_f1: mean F1 over the classes that occur in the truth or among the answers.
        confusion: K rows (truth) of K counts (answers).
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]

    def metric(self, name: str) -> float:
        """Return one figure by its name."""
        figure: float = getattr(self, name)
        return figure

    def standard_error(self, name: str) -> float:
        """Return the standard error of a figure from the counts, windows taken as independent.

        Accuracy is one binomial fraction, balanced accuracy the mean of one per class; macro-F1 has no such closed form
        and takes the error of balanced accuracy. Windows that overlap make the true error larger.
        """
        counts = np.array(self.confusion, dtype=np.float64)
        right, of_truth = np.diag(counts), counts.sum(1)
        if name == "accuracy":
            right, of_truth = right.sum(keepdims=True), of_truth.sum(keepdims=True)
        recall = right[of_truth > 0] / of_truth[of_truth > 0]
        return float(np.sqrt((recall * (1 - recall) / of_truth[of_truth > 0]).sum()) / len(recall))


def scores_from_answers(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> Scores:
    """Score answers with the truth; both int64 (N,), N > 0, values in [0, classes)."""
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (truth, answers), 1)
    right = np.diag(confusion).astype(float)
    of_truth, of_answers = confusion.sum(1), confusion.sum(0)
    recall = right[of_truth > 0] / of_truth[of_truth > 0]
    occurs = (of_truth + of_answers) > 0
    f1 = 2 * right[occurs] / (of_truth + of_answers)[occurs]
    return Scores(
        accuracy=float(right.sum() / len(truth)),
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1.mean()),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )
