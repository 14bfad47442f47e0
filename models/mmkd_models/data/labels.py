"""The arrays that say what is true of windows: a class number, a row of labels, or a number.

Owns how they mark a window without a label and how windows are alike by their labels. The array tells which task it is
of: int64 (N,) class numbers, uint8 (N, K) labels that are off (0) or on (1), float32 (N,) numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import TaskKind, TaskSpec

Labels = npt.NDArray[Any]

UNKNOWN = 255
"""Fills the row of a window without labels: a window has all its labels or none."""

_STRATA = 10


def unlabelled_mark(kind: TaskKind) -> str:
    """Return what stands for a window without a label, for messages."""
    match kind:
        case "classification":
            return "-1"
        case "multi_label":
            return str(UNKNOWN)
        case "regression":
            return "NaN"


def is_labelled(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each window has a label."""
    if labels.dtype.kind == "f":
        return ~np.isnan(labels)
    if labels.ndim == 2:
        return np.asarray((labels != UNKNOWN).all(axis=1))
    return np.asarray(labels >= 0)


def absent_labels(task: TaskSpec, labels: Labels) -> list[str]:
    """Return the classes or labels that no labelled window has; empty for a regression."""
    if task.kind == "regression":
        return []
    several = task.kind == "multi_label"
    counts = labels.sum(axis=0, dtype=np.int64) if several else np.bincount(labels, minlength=len(task.labels))
    return [name for name, count in zip(task.labels, counts, strict=True) if count == 0]


def hide_labels(labels: Labels, keep: npt.NDArray[np.bool_]) -> Labels:
    """Return the same labels, unlabelled where `keep` (N,) is false."""
    if labels.dtype.kind == "f":
        return np.where(keep, labels, np.float32(np.nan))
    if labels.ndim == 2:
        return np.where(keep[:, None], labels, np.uint8(UNKNOWN))
    return np.where(keep, labels, -1)


def strata_of(labels: Labels) -> npt.NDArray[np.int64]:
    """Return (N,) which windows are alike, from 0, so that shares and folds can hold some of each kind; -1 unlabelled.

    The class itself; of several labels the rarest one that is on (K where none is); of numbers the tenth of the
    labelled ones that they lie in, fewer where many are equal.
    """
    known = is_labelled(labels)
    if labels.dtype.kind == "f":
        tenths = np.arange(1, _STRATA) / _STRATA
        edges = np.unique(np.quantile(labels[known], tenths, method="inverted_cdf")) if known.any() else np.zeros(0)
        found = np.searchsorted(edges, labels)
    elif labels.ndim == 2:
        counts = labels[known].astype(np.int64).sum(axis=0)  # (K,)
        rarity = np.where(labels == 1, counts, np.iinfo(np.int64).max)
        found = np.where((labels == 1).any(axis=1), rarity.argmin(axis=1), labels.shape[1])
    else:
        return labels
    return np.where(known, found, -1).astype(np.int64)


def name_strata(labels: Labels, task: TaskSpec) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return (N,) the stratum of each window, see `strata_of`, and the name of each stratum."""
    strata = strata_of(labels)
    match task.kind:
        case "classification":
            return strata, task.labels
        case "multi_label":
            return strata, (*task.labels, "none of them")
        case "regression":
            return strata, tuple(f"part {number + 1} of {task.labels[0]}" for number in range(int(strata.max()) + 1))


WRITE_GROUPS = "write groups.npy (the person, machine or session of each window)"
# How alike the answers to neighbouring windows are taken to be: windows that overlap by half and more are close to it.
_CORRELATION = 0.8


def block_length(count: int) -> int:
    """Return how many of so many consecutive windows make a block, for a bootstrap over blocks.

    Neighbouring windows tell much the same, so that resampling single ones makes an interval too narrow. The length is
    that of E. Carlstein, "The Use of Subseries Values for Estimating the Variance of a General Statistic from a
    Stationary Sequence", Annals of Statistics 14, 1986: (2 r / (1 - r^2))^(2/3) n^(1/3) for a first-order
    autoregressive series of correlation r.

    Example:
        >>> block_length(1000), block_length(1)
        (28, 1)
    """
    wanted: float = (2 * _CORRELATION / (1 - _CORRELATION**2)) ** (2 / 3) * count ** (1 / 3)
    return min(count, math.ceil(wanted))


def blocks_of(splits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return int64 (N,): the number of each window's block, from 0; no block is in two splits.

    Args:
        splits: (N,) the number of each window's split, ascending.
    """
    found: list[npt.NDArray[np.int64]] = []
    first = 0
    for count in np.bincount(splits).tolist():
        if count:
            found.append(first + np.arange(count) // block_length(count))
            first = int(found[-1][-1]) + 1
    return np.concatenate(found)
