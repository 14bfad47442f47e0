"""Cross-validation folds over whole groups, and a fraction of the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.checking.related import find_overlaps
from mmkd_models.data.labels import WRITE_GROUPS, Labels, strata_of
from mmkd_models.data.sources import Rows
from mmkd_models.data.windows import Windows

FOLDS = 5
_LEAST_FOLDS = 3  # one to judge, one to choose by, one to train on


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """Window numbers of one fold: int64, ascending, disjoint, no group in two of them."""

    train: Rows
    valid: Rows
    test: Rows


def fold_count(windows: Windows, *, folds: int = FOLDS) -> int:
    """Return the number of folds; 1 if the dataset has only its own split."""
    if windows.folds is not None:
        return len(np.unique(windows.folds))
    return min(folds, windows.group_count) if windows.has_groups else 1


def check_seeds(windows: Windows, seeds: int) -> None:
    """Raise UsageError if there are more seeds than folds: each seed judges on another fold."""
    count = fold_count(windows)
    if seeds > count:
        raise UsageError(
            f"--seeds {seeds}: expected {count} at most, since each judges on another fold and dataset "
            f"{windows.spec.name!r} has {_describe_folds(windows, count)}"
        )


def fold_indices(windows: Windows, *, fold: int, seed: int, folds: int = FOLDS) -> Fold:
    """Split the windows: test is one fold, valid the next one, train all others.

    A dataset's own folds are used if it has some. Otherwise whole groups are dealt into `folds` by `seed`, classes
    balanced. Without groups the dataset's own split is the only fold, since windows of one recording would be torn
    apart. Unlabelled windows are only trained on.

    Raise UsageError if there is no such fold, or too few folds, groups or labelled windows.
    """
    name, count = windows.spec.name, fold_count(windows, folds=folds)
    is_own_split = windows.folds is None and not windows.has_groups
    if count < _LEAST_FOLDS and not is_own_split:
        raise UsageError(
            f"dataset {name!r}: expected {_LEAST_FOLDS} folds or more (train, valid, test), got {count}; "
            "record more groups or choose more folds"
        )
    if not 0 <= fold < count:
        expected = "0" if count == 1 else f"0 to {count - 1}"
        raise UsageError(
            f"fold {fold}: expected {expected}, since dataset {name!r} has {_describe_folds(windows, count)}"
        )
    if is_own_split:
        is_test, is_valid = windows.splits == 2, windows.splits == 1
    else:
        numbers = _deal(windows, seed=seed, folds=folds) if windows.folds is None else windows.folds
        names = np.unique(numbers)
        is_test, is_valid = numbers == names[fold], numbers == names[(fold + 1) % count]
    valid, test = np.flatnonzero(is_valid & windows.labelled), np.flatnonzero(is_test & windows.labelled)
    if not (len(valid) and len(test)):
        raise UsageError(
            f"dataset {name!r}: fold {fold}: expected labelled windows to choose by and to judge with, got"
            f" {len(valid)} and {len(test)}; label some in every group, or deal the folds otherwise"
        )
    return Fold(train=np.flatnonzero(~is_test & ~is_valid), valid=valid, test=test)


def trainings_of(windows: Windows, folds: int) -> list[Windows]:
    """Return the training windows of the first folds; errors as `fold_indices`."""
    return [windows.subset(fold_indices(windows, fold=fold, seed=0).train) for fold in range(folds)]


def _describe_folds(windows: Windows, count: int) -> str:
    if windows.has_groups or windows.folds is not None:
        return f"{count} folds; choose among them"
    return f"no groups, so that its own split is its only fold; to have more, {WRITE_GROUPS}"


def part_of_windows(windows: Windows, *, parts: int, seed: int) -> Rows:
    """Deal whole groups into parts, classes balanced, for cross-fitting. Return int64 (N,), the part of each window.

    Raise UsageError if there are fewer groups than parts, or windows without groups that share samples.
    """
    name, groups = windows.spec.name, len(np.unique(windows.groups))
    if not 2 <= parts <= groups:
        raise UsageError(
            f"dataset {name!r}: expected 2 to {groups} parts of its {groups} groups of training windows,"
            f" got {parts}; choose another number"
        )
    numbers = _deal(windows, seed=seed, folds=parts)
    if not windows.has_groups:
        overlaps = find_overlaps(windows)
        torn = int((numbers[overlaps.first] != numbers[overlaps.second]).sum())
        if torn:
            raise UsageError(
                f"dataset {name!r}: expected training windows that parts do not tear apart, got windows of two parts "
                f"that share samples ({torn} such in all); {WRITE_GROUPS}"
            )
    return numbers


def label_subset(labels: Labels, *, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose (N,) a fraction of the windows of each stratum, at least one; a smaller share is part of a larger one.

    Raise UsageError if the share is not above 0 and up to 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"label fraction: expected above 0 and up to 1, got {share}; 0.1 keeps a tenth of the labels")
    chosen = np.zeros(len(labels), dtype=bool)
    strata = strata_of(labels)
    for stratum in np.unique(strata[strata >= 0]).tolist():
        members = np.random.default_rng([seed, stratum]).permutation(np.flatnonzero(strata == stratum))
        chosen[members[: max(1, round(share * len(members)))]] = True
    return chosen


def _deal(windows: Windows, *, seed: int, folds: int) -> Rows:
    """Return int64 (N,): the fold of each window's group.

    Groups are dealt one by one, larger ones mostly first, each to the fold that has least of its classes: this keeps
    the sum of squared fractions low, the aim of scikit-learn's StratifiedGroupKFold.
    """
    _, group = np.unique(windows.groups, return_inverse=True)
    classes = np.unique(strata_of(windows.labels), return_inverse=True)[1]
    counts = np.zeros((group.max() + 1, classes.max() + 1))  # windows of each class in each group
    np.add.at(counts, (group, classes), 1)
    shares = counts / counts.sum(axis=0)
    # Without the jitter groups of different sizes would be dealt in the same order for every seed.
    jitter = np.random.default_rng(seed).uniform(0.7, 1.3, size=len(counts))
    fold_fractions = np.zeros((folds, counts.shape[1]))
    fold_of_group = np.zeros(len(counts), dtype=np.int64)
    for number in np.argsort(-counts.sum(axis=1) * jitter):
        # Adding s to a fold that holds f changes the sum of squares by 2 s·f + s·s, and s·s is the same for every fold.
        crowded = fold_fractions @ shares[number]
        best = int(np.lexsort((fold_fractions.sum(axis=1), crowded))[0])
        fold_of_group[number] = best
        fold_fractions[best] += shares[number]
    return fold_of_group[group]
