"""Splits of windows into train, valid and test: by group, by name, by time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.folds import deal_groups
from mmkd_models.data.importing.recipe import SplitRule
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Rows

_TRAIN, _VALID, _TEST = range(3)


def split_by_group(groups: npt.NDArray[np.str_], strata: Rows, rule: SplitRule) -> tuple[Rows, Rows | None]:
    """Return split and fold (N,), whole groups dealt by strata (N,) or named by the rule."""
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
        group_folds = deal_groups(counts, np.full(rule.folds, 1 / rule.folds), seed=rule.seed)
        return np.array([_TEST, _VALID, *[_TRAIN] * (rule.folds - 2)])[group_folds][group], group_folds[group]
    group_splits = np.full(len(names), -1, dtype=np.int64)
    fractions: dict[int, float] = {}
    for number, part in ((_VALID, rule.valid), (_TEST, rule.test)):
        if isinstance(part, float | int):
            fractions[number] = float(part)
            continue
        for name in part:
            place = np.flatnonzero(names == name)
            if not len(place) or group_splits[place[0]] >= 0:
                raise DatasetError(
                    f"'split.{SPLIT_NAMES[number]}': expected values of {rule.group!r}, each in one split, got"
                    f" {name!r}; choose among {', '.join(names.tolist())}"
                )
            group_splits[place[0]] = number
    left = np.flatnonzero(group_splits < 0)
    fractions[_TRAIN] = 1 - sum(fractions.values())
    order = sorted(fractions)
    if len(left) < len(order):
        raise DatasetError(f"'split': expected a group that is left for train, got none; name fewer of {rule.group!r}")
    parts = deal_groups(counts[left], np.array([fractions[number] for number in order]), seed=rule.seed)
    group_splits[left] = np.array(order)[parts]
    return group_splits[group], None


def named_splits(names: Sequence[str], recordings: Sequence[str], *, column: str) -> Rows:
    """Return splits (N,) by name. Raise DatasetError if one is not train, valid or test."""
    for name, recording in zip(names, recordings, strict=True):
        if name not in SPLIT_NAMES:
            got = repr(name) if name else "none, or several in one window"
            raise DatasetError(
                f"{recording}: expected 'train', 'valid' or 'test' in {column!r}, got {got}; correct it, or leave"
                " 'split.column' out"
            )
    numbers = {str(name): number for number, name in enumerate(SPLIT_NAMES)}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def split_by_time(recordings: Rows, strata: Rows, rule: SplitRule) -> Rows:
    """Split (N,) each recording and class by time: train, then valid, then test."""
    assert isinstance(rule.valid, float | int)  # the recipe's check: names need a group
    assert isinstance(rule.test, float | int)
    splits = np.zeros(len(recordings), dtype=np.int64)
    _, stratum = np.unique(np.stack([recordings, strata], axis=1), axis=0, return_inverse=True)
    for number in range(int(stratum.max(initial=-1)) + 1):
        rows = np.flatnonzero(stratum.reshape(-1) == number)
        test, valid = round(len(rows) * rule.test), round(len(rows) * rule.valid)
        splits[rows[len(rows) - test - valid :]] = _VALID
        splits[rows[len(rows) - test :]] = _TEST
    return splits


def far_apart(
    splits: Rows, recordings: Rows, starts_s: npt.NDArray[np.float64], *, least_s: float
) -> npt.NDArray[np.bool_]:
    """Return which windows stay, so that splits of one recording start at least this far apart.

    Train makes way for valid, and both for test.
    """
    keep = np.ones(len(splits), dtype=bool)
    for recording in np.unique(recordings).tolist():
        rows = np.flatnonzero(recordings == recording)
        for number in (_TEST, _VALID):
            fixed = starts_s[rows[(splits[rows] == number) & keep[rows]]]
            lower = rows[splits[rows] < number]
            if len(fixed) and len(lower):
                place = np.searchsorted(fixed, starts_s[lower])
                before = np.abs(starts_s[lower] - fixed[np.maximum(place - 1, 0)])
                after = np.abs(starts_s[lower] - fixed[np.minimum(place, len(fixed) - 1)])
                keep[lower[np.minimum(before, after) < least_s - 1e-9]] = False
    return keep
