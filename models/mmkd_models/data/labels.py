"""Labels: int64 (N,) classes (-1 unlabelled), uint8 (N, K) labels (a row of 255), or float32 (N,) numbers (NaN).

Of a task of the kind `normal` 0 is normal running and 1 or more a known fault.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import TaskKind, TaskSpec

Labels = npt.NDArray[Any]

UNKNOWN = 255  # fills the row of a window without labels
UNLABELLED_MARKS: dict[TaskKind, str] = {
    "classification": "-1",
    "multi_label": str(UNKNOWN),
    "regression": "NaN",
    "normal": "-1",
}

_STRATA = 10
WRITE_GROUPS = "write groups.npy (the person, machine or session of each window), or set split.group in its recipe"
_CORRELATION = 0.8  # of the answers to neighbouring windows, close to that of windows that overlap by half and more


def is_labelled(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each window has a label."""
    if labels.dtype.kind == "f":
        return ~np.isnan(labels)
    if labels.ndim == 2:
        return np.asarray((labels != UNKNOWN).all(axis=1))
    return np.asarray(labels >= 0)


def absent_labels(task: TaskSpec, labels: Labels) -> list[str]:
    """Return the classes or labels of no labelled window; empty for a regression."""
    if task.kind == "regression":
        return []
    if task.kind == "normal":
        return [] if (labels == 0).any() else [task.labels[0]]
    several = task.kind == "multi_label"
    counts = labels.sum(axis=0, dtype=np.int64) if several else np.bincount(labels, minlength=len(task.labels))
    return [name for name, count in zip(task.labels, counts, strict=True) if count == 0]


def hide_labels(labels: Labels, keep: npt.NDArray[np.bool_]) -> Labels:
    """Return the labels, unlabelled where `keep` (N,) is false."""
    if labels.dtype.kind == "f":
        return np.where(keep, labels, np.float32(np.nan))
    if labels.ndim == 2:
        return np.where(keep[:, None], labels, np.uint8(UNKNOWN))
    return np.where(keep, labels, -1)


def find_strata(labels: Labels) -> npt.NDArray[np.int64]:
    """Return the stratum (N,): class, rarest label that is on (K if none), or decile; -1 unlabelled."""
    known = is_labelled(labels)
    if labels.dtype.kind == "f":
        tenths = np.arange(1, _STRATA) / _STRATA
        edges = np.unique(np.quantile(labels[known], tenths, method="inverted_cdf")) if known.any() else np.zeros(0)
        strata = np.searchsorted(edges, labels)
    elif labels.ndim == 2:
        counts = labels[known].astype(np.int64).sum(axis=0)  # (K,)
        rarity = np.where(labels == 1, counts, np.iinfo(np.int64).max)
        strata = np.where((labels == 1).any(axis=1), rarity.argmin(axis=1), labels.shape[1])
    else:
        return labels
    return np.where(known, strata, -1).astype(np.int64)


def name_strata(labels: Labels, task: TaskSpec) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the strata (N,) and their names."""
    strata = find_strata(labels)
    match task.kind:
        case "classification" | "normal":
            return strata, task.labels
        case "multi_label":
            return strata, (*task.labels, "none of them")
        case "regression":
            return strata, tuple(f"part {number + 1} of {task.labels[0]}" for number in range(int(strata.max()) + 1))


def block_length(count: int) -> int:
    """Return the block length of a bootstrap in windows.

    (2 r / (1 - r^2))^(2/3) n^(1/3) for a first-order autoregressive series of correlation r (E. Carlstein, "The Use of
    Subseries Values for Estimating the Variance of a General Statistic", Annals of Statistics 14, 1986).
    """
    length: float = (2 * _CORRELATION / (1 - _CORRELATION**2)) ** (2 / 3) * count ** (1 / 3)
    return min(count, math.ceil(length))


def find_blocks(splits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each window's block (N,), from 0; no block is in two splits. `splits` (N,) ascend."""
    blocks: list[npt.NDArray[np.int64]] = []
    first = 0
    for count in np.bincount(splits).tolist():
        if count:
            blocks.append(first + np.arange(count) // block_length(count))
            first = int(blocks[-1][-1]) + 1
    return np.concatenate(blocks)
