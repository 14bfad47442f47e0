"""Cross-validation folds over whole groups, and the labels that training may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.checking.related import find_overlaps, list_first
from mmkd_models.data.labels import WRITE_GROUPS, Labels, absent_labels, find_strata, hide_labels
from mmkd_models.data.windows import Rows, Windows

FOLDS = 5
_MIN_FOLDS = 3  # one to judge, one to choose by, one to train on
_MAX_DOMAINS = 10
_MIN_WINDOWS = 20  # labelled windows of a domain: with fewer a score is noise
_DRAWS = 1000  # random draws of groups before a greedy choice
_MIN_GROUPS = 6  # a third of them is at least two groups


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """Window numbers of one fold: int64, ascending, disjoint, no group in two parts."""

    train: Rows
    valid: Rows
    test: Rows


def fold_count(windows: Windows, *, folds: int = FOLDS) -> int:
    """Return the number of folds; 1 with only the dataset's own split."""
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
    """Split the windows: test is one fold, valid the next, train the rest and all unlabelled windows.

    A dataset's own folds come first; else whole groups are dealt by `seed`, classes balanced. Without groups the own
    split is the only fold, since dealing would tear recordings apart. Raise UsageError if there is no such fold, or too
    few folds, groups or labelled windows.
    """
    name, count = windows.spec.name, fold_count(windows, folds=folds)
    is_own_split = windows.folds is None and not windows.has_groups
    if count < _MIN_FOLDS and not is_own_split:
        raise UsageError(
            f"dataset {name!r}: expected {_MIN_FOLDS} folds or more (train, valid, test), got {count}; "
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


def fold_trainings(windows: Windows, folds: int) -> list[Windows]:
    """Return the training windows of the first folds; errors as `fold_indices`."""
    return [windows.subset(fold_indices(windows, fold=fold, seed=0).train) for fold in range(folds)]


def _describe_folds(windows: Windows, count: int) -> str:
    if windows.has_groups or windows.folds is not None:
        return f"{count} folds; choose among them"
    return f"no groups, so that its own split is its only fold; to have more, {WRITE_GROUPS}"


def part_of_windows(windows: Windows, *, parts: int, seed: int) -> Rows:
    """Deal whole groups into parts (N,), classes balanced. Raise UsageError if groups are few or parts tear them."""
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


def label_subset(labels: Labels, *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose (N,) a fraction of each stratum, at least one window; smaller fractions are subsets of larger ones."""
    if not 0 < fraction <= 1:
        expected = "expected above 0 and up to 1"
        raise UsageError(f"label fraction: {expected}, got {fraction}; 0.1 keeps a tenth of the labels")
    chosen = np.zeros(len(labels), dtype=bool)
    strata = find_strata(labels)
    for stratum in np.unique(strata[strata >= 0]).tolist():
        members = np.random.default_rng([seed, stratum]).permutation(np.flatnonzero(strata == stratum))
        chosen[members[: max(1, round(fraction * len(members)))]] = True
    return chosen


def _deal(windows: Windows, *, seed: int, folds: int) -> Rows:
    _, group = np.unique(windows.groups, return_inverse=True)
    classes = np.unique(find_strata(windows.labels), return_inverse=True)[1]
    counts = np.zeros((group.max() + 1, classes.max() + 1))
    np.add.at(counts, (group, classes), 1)
    return deal_groups(counts, np.full(folds, 1 / folds), seed=seed)[group]


def deal_groups(counts: npt.NDArray[np.float64], fractions: npt.NDArray[np.float64], *, seed: int) -> Rows:
    """Deal groups of `counts` (groups, classes) into parts, with about the fraction (parts,) of every class.

    Greedy, like scikit-learn's StratifiedGroupKFold. No part stays empty.
    """
    own_fractions, size = counts / np.maximum(counts.sum(axis=0), 1), fractions / fractions.max()
    # Without jitter every seed would deal groups of different sizes in the same order.
    order = np.argsort(-counts.sum(axis=1) * np.random.default_rng(seed).uniform(0.7, 1.3, size=len(counts)))
    held = np.zeros((len(fractions), counts.shape[1]))
    parts = np.full(len(counts), -1, dtype=np.int64)
    for position, number in enumerate(order.tolist()):
        own = own_fractions[number]
        crowded = held @ own / size + own @ own * (1 / size - 1)
        best_first = np.lexsort((-size, held.sum(axis=1) / size, crowded)).tolist()
        empty = set(range(len(fractions))) - set(parts.tolist())
        if len(order) - position <= len(empty):
            best_first = [part for part in best_first if part in empty]
        parts[number] = best_first[0]
        held[best_first[0]] += own_fractions[number]
    return parts


class LeftOutDomains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata, or `group`, of which each fold leaves out one value."""

    by: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Domains:
    """Domain of each window, int64 (N,) from 0; -1 if unknown."""

    names: tuple[str, ...]
    numbers: Rows


def values_by(windows: Windows, by: str | None, *, suite: str) -> npt.NDArray[Any]:
    """Return groups or metadata (N,). Raise UsageError if there are none."""
    name = windows.spec.name
    if by is None or by == "group":
        if not windows.has_groups:
            raise UsageError(
                f"--suite {suite}: dataset {name!r} has no groups; {WRITE_GROUPS}, or name metadata with --by"
            )
        return windows.groups
    if by not in windows.metadata:
        known = ", ".join(["group", *windows.metadata])
        raise UsageError(f"--by {by}: dataset {name!r} has no such metadata; choose one of {known}")
    return windows.metadata[by]


def is_unknown(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether a value is empty text or NaN."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.asarray(values == "") if values.dtype.kind == "U" else np.zeros(len(values), dtype=bool)


def find_domains(windows: Windows, by: str) -> Domains:
    """Return the values of metadata or groups as domains; more than ten go into ten pools.

    Raise UsageError if domains or their labelled windows are too few.
    """
    values = values_by(windows, by, suite="shift")
    known = np.flatnonzero(~is_unknown(values))
    names, number = np.unique(values[known], return_inverse=True)
    if len(names) < 2:
        raise UsageError(
            f"--by {by}: expected two domains or more, of which one is left out at a time, got {len(names)} in dataset "
            f"{windows.spec.name!r}; name other metadata"
        )
    texts = tuple(map(str, names.tolist()))
    if len(names) > _MAX_DOMAINS:
        texts, number = _pool(windows.subset(known), names, number)
    domains = Domains(names=texts, numbers=np.full(len(windows), -1, dtype=np.int64))
    domains.numbers[known] = number
    for domain, text in enumerate(texts):
        size = int((windows.labelled & (domains.numbers == domain)).sum())
        if size < _MIN_WINDOWS:
            raise UsageError(
                f"--by {by}: expected {_MIN_WINDOWS} labelled windows or more of every domain, got {size} of {by} "
                f"{text}; record more, or write metadata that pools domains"
            )
    return domains


def _pool(windows: Windows, names: npt.NDArray[Any], number: Rows) -> tuple[tuple[str, ...], Rows]:
    is_float = names.dtype.kind == "f"
    if is_float:
        first = np.cumsum(np.bincount(number)) - np.bincount(number)
        parts = (first * _MAX_DOMAINS // len(number))[number]
    else:
        parts = part_of_windows(replace(windows, groups=number, has_groups=True), parts=_MAX_DOMAINS, seed=0)
    pools = np.unique(parts, return_inverse=True)[1].astype(np.int64)
    texts = []
    for pool in range(int(pools.max()) + 1):
        members = names[np.unique(number[pools == pool])].tolist()
        texts.append(f"{members[0]:.12g} to {members[-1]:.12g}" if is_float else list_first(members))
    return tuple(texts), pools


def fold_without(windows: Windows, left_out: LeftOutDomains, *, fold: int) -> Fold:
    """Return the fold whose test is this domain.

    A fifth of the other groups validates; without groups, the dataset's own validation windows. Windows of no domain
    and those sharing samples with the test are left out. Raise UsageError if a class is missing in train, or a part
    has few windows.
    """
    domains = find_domains(windows, left_out.by)
    is_test = domains.numbers == fold
    sharing = np.zeros(len(windows), dtype=bool)  # windows that share samples with the test; of other groups none do
    if not windows.has_groups or np.isin(windows.groups[is_test], windows.groups[~is_test]).any():
        overlaps = find_overlaps(windows)
        sharing[overlaps.first[is_test[overlaps.second]]] = True
        sharing[overlaps.second[is_test[overlaps.first]]] = True
    rest = np.flatnonzero(~is_test & (domains.numbers >= 0) & ~sharing)
    remaining = windows.subset(rest)
    is_valid = remaining.splits == 1
    if windows.has_groups:
        count = len(np.unique(remaining.groups))
        if count < 2:
            raise UsageError(
                f"--by {left_out.by}: expected windows of two groups or more without {domains.names[fold]}, one to "
                f"train on and one to choose by, got {count}; record more groups"
            )
        is_valid = part_of_windows(remaining, parts=min(FOLDS, count), seed=fold) == 0
    train, valid = rest[~is_valid], rest[is_valid & remaining.labelled]
    test = np.flatnonzero(is_test & windows.labelled)
    where = f"--by {left_out.by}: without {domains.names[fold]}"
    parts = {"to train on": train, "to choose by": valid, "to judge with": test}
    counts = {purpose: int(windows.labelled[rows].sum()) for purpose, rows in parts.items()}
    few = [f"{count} {purpose}" for purpose, count in counts.items() if count < _MIN_WINDOWS]
    if few:
        raise UsageError(
            f"{where}: expected {_MIN_WINDOWS} labelled windows or more to train on, to choose by and to judge with,"
            f" got {' and '.join(few)}; record longer"
        )
    absent = absent_labels(windows.spec.task, windows.labels[train][windows.labelled[train]])
    if absent:
        raise UsageError(
            f"{where}: expected labelled windows of every class to train on, got none of {', '.join(absent)}; record "
            "it elsewhere too, or name other metadata"
        )
    return Fold(train=train, valid=valid, test=test)


def shared_groups(windows: Windows, fold: Fold) -> int:
    """Count the test groups that have windows in train or valid."""
    if not windows.has_groups:
        return 0
    known = np.concatenate([windows.groups[fold.train], windows.groups[fold.valid]])
    return int(np.isin(np.unique(windows.groups[fold.test]), known).sum())


class Labelled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels for training: a fraction of each class, or all of this many groups."""

    fraction: float = 1.0
    groups: int | None = None

    @property
    def is_all(self) -> bool:
        """Whether no label is hidden."""
        return self.groups is None and self.fraction == 1


ALL = Labelled()
A_TENTH = Labelled(fraction=0.1)


def labelled_from_options(fraction: float | None, groups: int | None, *, otherwise: Labelled) -> Labelled:
    """Parse `--label-fraction` and `--labelled-groups`. Raise UsageError if both are given."""
    if fraction is not None and groups is not None:
        raise UsageError(
            f"--labelled-groups {groups}: cannot be combined with --label-fraction {fraction:g}; leave one of them out"
        )
    if groups is not None:
        return Labelled(groups=groups)
    return otherwise if fraction is None else Labelled(fraction=fraction)


def label_option(labelled: Labelled) -> str:
    """Return the command line option; empty for all labels."""
    if labelled.groups is not None:
        return f"--labelled-groups {labelled.groups}"
    return "" if labelled.is_all else f"--label-fraction {labelled.fraction:g}"


def with_visible_labels(train: Windows, labelled: Labelled, *, seed: int) -> Windows:
    """Hide the other labels; errors as `choose_labels`."""
    return train.with_labels(hide_labels(train.labels, choose_labels(train, labelled, seed=seed)))


def choose_labels(train: Windows, labelled: Labelled, *, seed: int) -> npt.NDArray[np.bool_]:
    """Choose (N,) the windows whose labels may be used. Raise UsageError if there are too few groups."""
    if labelled.groups is None:
        return label_subset(train.labels, fraction=labelled.fraction, seed=seed)
    name, count = train.spec.name, labelled.groups
    if not train.has_groups:
        raise UsageError(
            f"labelled groups: expected groups in dataset {name!r}, got none; {WRITE_GROUPS}, or label a fraction of "
            "the windows (--label-fraction)"
        )
    names, has = _classes_of_groups(train)
    if not 1 <= count <= len(names):
        raise UsageError(
            f"labelled groups: expected 1 to {len(names)} of the labelled groups that dataset {name!r} trains on, got "
            f"{count}; choose another number"
        )
    random = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        chosen = random.permutation(len(has))[:count]
        if has[chosen].any(axis=0).all():
            break
    else:
        cover = _cover(has)
        if len(cover) > count:
            raise UsageError(
                f"labelled groups: expected {count} groups that have every class between them, got no such choice "
                f"among the {len(names)} groups that dataset {name!r} trains on; label {len(cover)} or more"
            )
        rest = [number for number in random.permutation(len(has)).tolist() if number not in cover]
        chosen = np.array([*cover, *rest[: count - len(cover)]])
    return np.isin(train.groups, names[chosen]) & train.labelled


def usual_labelled(trainings: Sequence[Windows]) -> Labelled:
    """Return the default: a third of the groups if two or more with every class, else a tenth of labels."""
    folds = [_classes_of_groups(train)[1] for train in trainings if train.has_groups]
    fewest = min((len(has) for has in folds), default=0)
    if fewest < _MIN_GROUPS or len(folds) < len(trainings):
        return A_TENTH
    count = round(fewest / 3)
    return Labelled(groups=count) if all(len(_cover(has)) <= count for has in folds) else A_TENTH


def _classes_of_groups(train: Windows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Return names (G,) and classes (G, K) of groups with a labelled window; no K for a regression."""
    known = train.subset(train.labelled)
    names, group = np.unique(known.groups, return_inverse=True)
    kind, labels = train.spec.task.kind, known.labels
    if kind == "regression":
        return names, np.zeros((len(names), 0), dtype=bool)
    on = labels == 1 if kind == "multi_label" else labels[:, None] == np.unique(labels)  # (N, K)
    has = np.zeros((len(names), on.shape[1]), dtype=bool)
    np.logical_or.at(has, group, on)
    return names, has[:, has.any(axis=0)]


def _cover(has: npt.NDArray[np.bool_]) -> list[int]:
    cover: list[int] = []
    missing = np.ones(has.shape[1], dtype=bool)
    while missing.any():
        cover.append(int(has[:, missing].sum(axis=1).argmax()))
        missing &= ~has[cover[-1]]
    return cover
