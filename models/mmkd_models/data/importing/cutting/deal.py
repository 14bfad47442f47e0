"""Which windows train, choose and judge: whole groups, or each recording by time; overlaps are taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.recipe import SplitRule
from mmkd_models.data.sources import Rows
from mmkd_models.data.spec import SPLIT_NAMES

_TRAIN, _VALID, _TEST = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dealt:
    """The split of each window (N,), 0 train, 1 valid, 2 test, and its fold, or None."""

    splits: Rows
    folds: Rows | None


def deal_groups(groups: npt.NDArray[np.str_], strata: Rows, rule: SplitRule) -> Dealt:
    """Deal whole groups, classes balanced as far as the groups allow, or as the rule names them.

    Args:
        strata: (N,) which windows are alike by their labels, -1 for unlabelled.

    Raise DatasetError if there are too few groups, or one that is named is not there.
    """
    names, group = np.unique(groups, return_inverse=True)
    least = rule.folds or len(SPLIT_NAMES)
    if len(names) < least:
        raise DatasetError(
            f"'split.group': expected {least} values of {rule.group!r} or more, got {len(names)}"
            f" ({', '.join(names.tolist())}); record more, choose another group, or leave it out to split by time"
        )
    counts = np.zeros((len(names), int(strata.max(initial=-1)) + 2))
    np.add.at(counts, (group, strata + 1), 1)
    if rule.folds is not None:
        fold_of = _dealt(counts, np.full(rule.folds, 1 / rule.folds), seed=rule.seed)
        split_of = np.where(fold_of == 0, _TEST, np.where(fold_of == 1, _VALID, _TRAIN))
        return Dealt(splits=split_of[group], folds=fold_of[group])
    return Dealt(splits=_splits_of(names, counts, rule)[group], folds=None)


def _splits_of(names: npt.NDArray[np.str_], counts: npt.NDArray[np.float64], rule: SplitRule) -> Rows:
    """The split of each group."""
    split_of = np.full(len(names), -1, dtype=np.int64)
    shares: dict[int, float] = {}
    for number, wanted in ((_VALID, rule.valid), (_TEST, rule.test)):
        if isinstance(wanted, float | int):
            shares[number] = float(wanted)
            continue
        for name in wanted:
            place = np.flatnonzero(names == name)
            if not len(place) or split_of[place[0]] >= 0:
                raise DatasetError(
                    f"'split.{SPLIT_NAMES[number]}': expected values of {rule.group!r}, each in one split, got"
                    f" {name!r}; choose among {', '.join(names.tolist())}"
                )
            split_of[place[0]] = number
    left = np.flatnonzero(split_of < 0)
    shares[_TRAIN] = 1 - sum(shares.values())
    order = sorted(shares)
    if len(left) < len(order):
        raise DatasetError(f"'split': expected a group that is left for train, got none; name fewer of {rule.group!r}")
    dealt = _dealt(counts[left], np.array([shares[number] for number in order]), seed=rule.seed)
    split_of[left] = np.array(order)[dealt]
    return split_of


def _dealt(counts: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], *, seed: int) -> Rows:
    """Return the part of each group, so that parts hold about their share of every class; no part stays empty.

    Groups come one by one, larger ones mostly first, each to the part that lacks most of its classes.
    """
    of_class = counts / np.maximum(counts.sum(axis=0), 1)
    jitter = np.random.default_rng(seed).uniform(0.7, 1.3, size=len(counts))
    held = np.zeros((len(shares), counts.shape[1]))
    part_of = np.full(len(counts), -1, dtype=np.int64)
    waiting = np.argsort(-counts.sum(axis=1) * jitter).tolist()
    for position, number in enumerate(waiting):
        empty = [part for part in range(len(shares)) if not (part_of == part).any()]
        # The last groups fill parts that are still empty.
        allowed = empty if len(waiting) - position <= len(empty) else range(len(shares))
        after = (held + of_class[number]) / shares[:, None]
        crowded = (after * of_class[number]).sum(axis=1)
        best = min(allowed, key=lambda part: (crowded[part], -shares[part]))
        part_of[number] = best
        held[best] += of_class[number]
    return part_of


def deal_as_named(names: Sequence[str], recordings: Sequence[str], *, column: str) -> Dealt:
    """Take the split of each window as it is named.

    Raise DatasetError if a name is none of train, valid and test.
    """
    for name, recording in zip(names, recordings, strict=True):
        if name not in SPLIT_NAMES:
            got = repr(name) if name else "none, or several in one window"
            raise DatasetError(
                f"{recording}: expected 'train', 'valid' or 'test' in {column!r}, got {got}; correct it, or leave"
                " 'split.column' out"
            )
    order = list(SPLIT_NAMES)
    return Dealt(splits=np.array([order.index(name) for name in names], dtype=np.int64), folds=None)  # type: ignore[arg-type]


def deal_by_time(recordings: Rows, strata: Rows, rule: SplitRule) -> Dealt:
    """Split the windows of each recording and class by time: the first train, the next choose, the last judge."""
    assert isinstance(rule.valid, float | int)  # the recipe's check: names need a group
    assert isinstance(rule.test, float | int)
    splits = np.zeros(len(recordings), dtype=np.int64)
    _, stratum = np.unique(np.stack([recordings, strata], axis=1), axis=0, return_inverse=True)
    for number in range(int(stratum.max(initial=-1)) + 1):
        rows = np.flatnonzero(stratum.reshape(-1) == number)
        test = round(len(rows) * rule.test)
        valid = round(len(rows) * rule.valid)
        splits[rows[len(rows) - test - valid :]] = _VALID
        splits[rows[len(rows) - test :]] = _TEST
    return Dealt(splits=splits, folds=None)


def apart(
    splits: Rows, recordings: Rows, starts_s: npt.NDArray[np.float64], *, least_s: float
) -> npt.NDArray[np.bool_]:
    """Return which windows stay, so that those of one recording in different splits start at least so far apart.

    Windows that train make way for those that choose, and both for those that judge.

    Args:
        starts_s: (N,) of the windows; ascending within a recording.
    """
    keep = np.ones(len(splits), dtype=bool)
    for recording in np.unique(recordings).tolist():
        rows = np.flatnonzero(recordings == recording)
        for number in (_TEST, _VALID):
            fixed = np.sort(starts_s[rows[(splits[rows] == number) & keep[rows]]])
            lower = rows[splits[rows] < number]
            if not len(fixed) or not len(lower):
                continue
            place = np.searchsorted(fixed, starts_s[lower])
            before = starts_s[lower] - fixed[np.maximum(place - 1, 0)]
            after = fixed[np.minimum(place, len(fixed) - 1)] - starts_s[lower]
            near = np.minimum(np.abs(before), np.abs(after)) < least_s - 1e-9
            keep[lower[near]] = False
    return keep
