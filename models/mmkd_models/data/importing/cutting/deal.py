"""The split of each window: whole groups, or each recording by time; overlaps are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.recipe import SplitRule
from mmkd_models.data.sources import Rows
from mmkd_models.data.spec import SPLIT_NAMES

_TRAIN, _VALID, _TEST = range(3)


def deal_groups(groups: npt.NDArray[np.str_], strata: Rows, rule: SplitRule) -> tuple[Rows, Rows | None]:
    """Deal whole groups, balanced by strata (N,) or as the rule names them. Return split and fold (N,) of each window.

    Raise DatasetError if there are too few groups, or a named one is missing.
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
        fold_of = _deal(counts, np.full(rule.folds, 1 / rule.folds), seed=rule.seed)
        return np.array([_TEST, _VALID, *[_TRAIN] * (rule.folds - 2)])[fold_of][group], fold_of[group]
    return _split_groups(names, counts, rule)[group], None


def _split_groups(names: npt.NDArray[np.str_], counts: npt.NDArray[np.float64], rule: SplitRule) -> Rows:
    split_of = np.full(len(names), -1, dtype=np.int64)
    fractions: dict[int, float] = {}
    for number, part in ((_VALID, rule.valid), (_TEST, rule.test)):
        if isinstance(part, float | int):
            fractions[number] = float(part)
            continue
        for name in part:
            place = np.flatnonzero(names == name)
            if not len(place) or split_of[place[0]] >= 0:
                raise DatasetError(
                    f"'split.{SPLIT_NAMES[number]}': expected values of {rule.group!r}, each in one split, got"
                    f" {name!r}; choose among {', '.join(names.tolist())}"
                )
            split_of[place[0]] = number
    left = np.flatnonzero(split_of < 0)
    fractions[_TRAIN] = 1 - sum(fractions.values())
    order = sorted(fractions)
    if len(left) < len(order):
        raise DatasetError(f"'split': expected a group that is left for train, got none; name fewer of {rule.group!r}")
    parts = _deal(counts[left], np.array([fractions[number] for number in order]), seed=rule.seed)
    split_of[left] = np.array(order)[parts]
    return split_of


def _deal(counts: npt.NDArray[np.float64], fractions: npt.NDArray[np.float64], *, seed: int) -> Rows:
    """Return the part of each group, so that parts have about their fraction of every class; no part stays empty.

    Groups come one by one, larger ones mostly first, each to the part that lacks most of its classes.
    """
    of_class = counts / np.maximum(counts.sum(axis=0), 1)
    jitter = np.random.default_rng(seed).uniform(0.7, 1.3, size=len(counts))
    held = np.zeros((len(fractions), counts.shape[1]))
    part_of = np.full(len(counts), -1, dtype=np.int64)
    waiting = np.argsort(-counts.sum(axis=1) * jitter).tolist()
    for position, number in enumerate(waiting):
        empty = [part for part in range(len(fractions)) if not (part_of == part).any()]
        # The last groups fill parts that are still empty.
        allowed = empty if len(waiting) - position <= len(empty) else range(len(fractions))
        crowded = ((held + of_class[number]) / fractions[:, None] * of_class[number]).sum(axis=1)
        best = min(allowed, key=lambda part: (crowded[part], -fractions[part]))
        part_of[number] = best
        held[best] += of_class[number]
    return part_of


def named_splits(names: Sequence[str], recordings: Sequence[str], *, column: str) -> Rows:
    """Return the split (N,) of each window by its name. Raise DatasetError if it is not train, valid or test."""
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
    """Split (N,) the windows of each recording and class by time: first train, then valid, then test."""
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
    """Return which windows stay, so that those of one recording in different splits start at least this far apart.

    Windows of train make way for those of valid, and both for those of test. `starts_s` ascend within a recording.
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
