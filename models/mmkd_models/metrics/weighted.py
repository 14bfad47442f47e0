"""Figures of several labels and of numbers under a bootstrap over groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Figures = NDArray[np.float64]

_MOST_CELLS = 4_000_000  # of draws times windows at a time
_CONSTANT = 1e-12  # a variance below this share of the whole one is a rounding error of a constant


def weighted_values(truth: Figures, answers: Figures, owner: NDArray[np.int64], weights: Figures) -> dict[str, Figures]:
    """Return mae, rmse, r2 and pearson, each (D,), of answers and truth (N,); NaN if a draw has no window.

    Args:
        owner: (N,) column of `weights` that a window belongs to.
        weights: (D, G) how often each group counts in each draw.
    """
    y, x = truth - truth.mean(), answers - truth.mean()
    columns = np.stack([np.ones_like(y), np.abs(x - y), (x - y) ** 2, y, y**2, x, x**2, x * y], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = _drawn_sums(columns, owner, weights)
        _, error, squared, mean_y, square_y, mean_x, square_x, product = (sums / sums[:, :1]).T
        variance_y, variance_x = square_y - mean_y**2, square_x - mean_x**2
        varies_y = variance_y > _CONSTANT * np.var(y)
        varies = varies_y & (variance_x > _CONSTANT * np.var(x))
        r2 = np.where(varies_y, 1 - squared / variance_y, (squared == 0).astype(float))
        correlation = (product - mean_x * mean_y) / np.sqrt(variance_y * variance_x)
        empty = sums[:, 0] == 0
        found = {"mae": error, "rmse": np.sqrt(squared), "r2": r2, "pearson": np.where(varies, correlation, 0.0)}
    return {name: np.where(empty, np.nan, figures) for name, figures in found.items()}


def weighted_f1(
    on: NDArray[np.bool_], answers: NDArray[np.bool_], owner: NDArray[np.int64], weights: Figures
) -> Figures:
    """Return macro-F1 (D,) of labels and answers (N, K)."""
    labels = on.shape[1]
    columns = np.concatenate([on & answers, on ^ answers, np.ones((len(on), 1), dtype=bool)], axis=1).astype(float)
    sums = _drawn_sums(columns, owner, weights)
    right, wrong = 2 * sums[:, :labels], sums[:, labels:-1]
    somewhere = right + wrong > 0
    f1 = np.where(somewhere, right / np.where(somewhere, right + wrong, 1), 0.0)
    return _mean_of_labels(f1, somewhere, sums[:, -1])


def weighted_fraction(right: NDArray[np.bool_], owner: NDArray[np.int64], weights: Figures) -> Figures:
    """Return the fraction (D,) of windows (N,) that are right."""
    sums = _drawn_sums(np.stack([right, np.ones_like(right)], axis=1).astype(float), owner, weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def weighted_precision(on: NDArray[np.bool_], scores: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    """Return mean average precision (D,) of labels and scores (N, K)."""
    return np.concatenate([_precision(on, scores, owner, part) for part in _parts(weights, len(on))])


def _precision(on: NDArray[np.bool_], scores: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    found, somewhere = [], []
    for label in range(on.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        counted = weights[:, owner[order]]  # (D, N)
        ends = np.append(np.flatnonzero(np.diff(scores[order, label])), len(order) - 1)  # the last of equal scores
        right = np.cumsum(counted * on[order, label], axis=1)[:, ends]
        so_far = np.cumsum(counted, axis=1)[:, ends]
        gained = np.diff(right, axis=1, prepend=0.0)
        whole = right[:, -1]
        somewhere.append(whole > 0)
        precision = right / np.maximum(so_far, 1)  # weights are whole numbers: below 1 there is nothing
        found.append((gained * precision).sum(1) / np.maximum(whole, 1))
    return _mean_of_labels(np.stack(found, axis=1), np.stack(somewhere, axis=1), weights[:, owner].sum(1))


def _mean_of_labels(figures: Figures, somewhere: NDArray[np.bool_], windows: Figures) -> Figures:
    count = somewhere.sum(1)
    mean = np.where(count > 0, (figures * somewhere).sum(1) / np.maximum(count, 1), 1.0)
    return np.asarray(np.where(windows > 0, mean, np.nan))


def _drawn_sums(columns: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    by_group = np.zeros((weights.shape[1], columns.shape[1]))
    np.add.at(by_group, owner, columns)
    return np.asarray(weights @ by_group)


def _parts(weights: Figures, windows: int) -> Iterator[Figures]:
    most = max(1, _MOST_CELLS // max(1, windows))
    for start in range(0, len(weights), most):
        yield weights[start : start + most]
