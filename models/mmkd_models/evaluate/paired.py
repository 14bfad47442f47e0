"""Two models on the same windows: what one is better by, and how sure that is."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluate.metrics import Metric

DRAWS = 2000

FEWEST_GROUPS = 5
"""Below it a bootstrap over groups has so few different draws that its interval is too narrow to mean anything."""


class PairedGain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model is better by than another, in percentage points of a metric.

    Attributes:
        points: ours minus theirs.
        low: lower end of the 95 % interval; None below `FEWEST_GROUPS` groups.
        high: upper end.
    """

    points: float
    low: float | None
    high: float | None


def paired_gain(
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    truth: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    classes: int,
    metric: Metric,
    seed: int,
) -> PairedGain:
    """Gives the gain of our answers over theirs, both for the same windows, all int64 (N,).

    The interval resamples whole groups (people, machines, sessions) with replacement, the same draw for both: a
    percentile bootstrap over clusters (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and
    13).
    """
    counts = [group_confusions(answers, truth, groups, classes=classes) for answers in (ours, theirs)]
    whole = [float(metric_of(count.sum(0)[None], metric)[0]) for count in counts]
    points = 100 * (whole[0] - whole[1])
    number = len(counts[0])
    if number < FEWEST_GROUPS:
        return PairedGain(points=points, low=None, high=None)
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=DRAWS)  # (D, G)
    drawn = [metric_of(np.tensordot(weights, count, axes=1), metric) for count in counts]
    low, high = np.quantile(100 * (drawn[0] - drawn[1]), [0.025, 0.975])
    return PairedGain(points=points, low=float(low), high=float(high))


def group_confusions(
    answers: NDArray[np.int64], truth: NDArray[np.int64], groups: NDArray[np.int64], *, classes: int
) -> NDArray[np.int64]:
    """Counts (G, K, K): for every group rows of truth and columns of answers."""
    names, row = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), classes, classes), dtype=np.int64)
    np.add.at(counts, (row, truth, answers), 1)
    return counts


def metric_of(confusions: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
    """Gives a metric, 0 to 1, of each of (D, K, K) counts, over the classes that occur as in `metrics.py`."""
    right = np.diagonal(confusions, axis1=1, axis2=2).astype(np.float64)  # (D, K)
    of_truth, of_answers = confusions.sum(2), confusions.sum(1)
    if metric == "accuracy":
        return np.asarray(right.sum(1) / of_truth.sum(1))
    if metric == "balanced_accuracy":
        occurs, value = of_truth > 0, right / np.maximum(of_truth, 1)
    else:
        both = of_truth + of_answers
        occurs, value = both > 0, 2 * right / np.maximum(both, 1)
    return np.asarray((value * occurs).sum(1) / occurs.sum(1))
