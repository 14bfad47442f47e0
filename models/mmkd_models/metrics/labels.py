"""Macro-F1, mean average precision and subset accuracy of several labels at once."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class LabelScores(msgspec.Struct, frozen=True, kw_only=True):
    """Fractions from 0 to 1.

    Attributes:
        macro_f1: mean F1 over the labels that are on somewhere, in the truth or among the answers.
        mean_average_precision: mean over the labels that are on somewhere in the truth; independent of the threshold.
        subset_accuracy: fraction of windows with every label right.
        counts: for each label, windows that are rightly on, wrongly on, wrongly off, rightly off.
    """

    macro_f1: float
    mean_average_precision: float
    subset_accuracy: float
    counts: tuple[tuple[int, int, int, int], ...]

    def metric(self, name: str) -> float:
        """Return one figure by its name."""
        figure: float = getattr(self, name)
        return figure

    def standard_error(self, name: str) -> float:
        """Return the standard error of a figure from the counts, windows taken as independent.

        Subset accuracy is one binomial fraction; the others take the error of the mean recall.
        """
        if name == "subset_accuracy":
            share = self.subset_accuracy
            return math.sqrt(share * (1 - share) / sum(self.counts[0]))
        counts = np.array(self.counts, dtype=np.float64)
        on = counts[:, 0] + counts[:, 2]
        recall = counts[on > 0, 0] / on[on > 0]
        return float(np.sqrt((recall * (1 - recall) / on[on > 0]).sum()) / max(len(recall), 1))


def label_scores(truth: NDArray[np.uint8], logits: NDArray[np.floating[Any]], *, threshold: float) -> LabelScores:
    """Score logits (N, K) with labels (N, K), 0 or 1; a label is on from the probability `threshold`."""
    on, answers = truth == 1, logits >= math.log(threshold / (1 - threshold))
    counts = np.stack([(on & answers).sum(0), (~on & answers).sum(0), (on & ~answers).sum(0), (~on & ~answers).sum(0)])
    right, wrongly_on, wrongly_off = counts[:3].astype(float)
    somewhere = right + wrongly_on + wrongly_off > 0
    f1 = 2 * right[somewhere] / (2 * right + wrongly_on + wrongly_off)[somewhere]
    precision = [average_precision(on[:, k], logits[:, k]) for k in range(on.shape[1]) if on[:, k].any()]
    return LabelScores(
        macro_f1=float(f1.mean()) if len(f1) else 1.0,
        mean_average_precision=float(np.mean(precision)) if precision else 1.0,
        subset_accuracy=float((on == answers).all(1).mean()),
        counts=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in counts.T),
    )


def average_precision(on: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the sum over thresholds of precision times gained recall; some of `on` (N,) are true.

    Source: M. Zhu, "Recall, Precision and Average Precision", University of Waterloo, 2004: no interpolation, equal
    scores fall together.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(on[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last window of each score
    recall = right[ends] / right[-1]
    return float((np.diff(recall, prepend=0.0) * right[ends] / (ends + 1)).sum())
