"""Folds that leave out a domain (machine, person, campaign), or the end of the campaign."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.checking.related import find_overlaps
from mmkd_models.data.folds import FOLDS, Fold, part_of_windows
from mmkd_models.data.labels import WRITE_GROUPS, absent_labels
from mmkd_models.data.sources import Rows
from mmkd_models.data.windows import Windows

_MOST_DOMAINS = 10
_FEWEST_WINDOWS = 20  # labelled windows of a domain, or of a part in time: below it a score is noise
_MOST_NAMED = 3
_VALID_FROM, _TEST_FROM = 0.6, 0.8  # fractions of the labelled windows, in time


class LeftOutDomains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each fold leaves out: a value of `group` or of metadata; None for the end of the campaign."""

    by: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Domains:
    """The domain of each window, int64 (N,) from 0; -1 if unknown."""

    names: tuple[str, ...]
    of_window: Rows


def values_by(windows: Windows, by: str | None, *, suite: str) -> npt.NDArray[Any]:
    """Return the group (N,) of each window, or its metadata. Raise UsageError if there are none."""
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
    """Return (N,) whether a value is missing: an empty text, or NaN."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.asarray(values == "") if values.dtype.kind == "U" else np.zeros(len(values), dtype=bool)


def domains_of(windows: Windows, by: str) -> Domains:
    """Return the values of metadata or the groups as domains; of more than ten, ten pools.

    Floats are pooled by their order, other values so that classes are alike in every pool. Raise UsageError if there is
    no such metadata, one domain alone, or one with few labelled windows.
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
    if len(names) > _MOST_DOMAINS:
        texts, number = _pool(windows.subset(known), names, number)
    domains = Domains(names=texts, of_window=np.full(len(windows), -1, dtype=np.int64))
    domains.of_window[known] = number
    for domain, text in enumerate(texts):
        size = int((windows.labelled & (domains.of_window == domain)).sum())
        if size < _FEWEST_WINDOWS:
            raise UsageError(
                f"--by {by}: expected {_FEWEST_WINDOWS} labelled windows or more of every domain, got {size} of {by} "
                f"{text}; record more, or write metadata that pools domains"
            )
    return domains


def _pool(windows: Windows, names: npt.NDArray[Any], number: Rows) -> tuple[tuple[str, ...], Rows]:
    """Return the names of ten pools and the pool of each window; `number` (N,) is its value among the names."""
    is_float = names.dtype.kind == "f"
    if is_float:
        first = np.cumsum(np.bincount(number)) - np.bincount(number)  # windows before each value
        parts = (first * _MOST_DOMAINS // len(number))[number]
    else:
        parts = part_of_windows(replace(windows, groups=number, has_groups=True), parts=_MOST_DOMAINS, seed=0)
    pools = np.unique(parts, return_inverse=True)[1].astype(np.int64)
    texts = []
    for pool in range(int(pools.max()) + 1):
        members = names[np.unique(number[pools == pool])].tolist()
        more = f" and {len(members) - _MOST_NAMED} more" if len(members) > _MOST_NAMED else ""
        listed = ", ".join(map(str, members[:_MOST_NAMED])) + more
        texts.append(f"{members[0]:.12g} to {members[-1]:.12g}" if is_float else listed)
    return tuple(texts), pools


def fold_without(windows: Windows, left_out: LeftOutDomains, *, fold: int) -> Fold:
    """Return the fold whose test is this domain, or the end of the campaign (the last fifth of the labelled windows).

    Of the other domains a fifth of the groups validates; without groups the dataset's own validation windows do.
    Windows of no domain, those that share samples with the test, and those across a border in time are left out.

    Raise UsageError if a class is missing in train, or a part has few windows.
    """
    if left_out.by is None:
        return _checked(windows, _fold_in_time(windows), "--time: without the end of the campaign")
    domains = domains_of(windows, left_out.by)
    is_test = domains.of_window == fold
    rest = np.flatnonzero(~is_test & (domains.of_window >= 0) & ~_sharing(windows, is_test))
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
    chosen = Fold(
        train=rest[~is_valid],
        valid=rest[is_valid & remaining.labelled],
        test=np.flatnonzero(is_test & windows.labelled),
    )
    return _checked(windows, chosen, f"--by {left_out.by}: without {domains.names[fold]}")


def shared_groups(windows: Windows, fold: Fold) -> int:
    """Return how many groups of the test have windows in train or valid."""
    if not windows.has_groups:
        return 0
    known = np.concatenate([windows.groups[fold.train], windows.groups[fold.valid]])
    return int(np.isin(np.unique(windows.groups[fold.test]), known).sum())


def _sharing(windows: Windows, is_test: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether a window shares samples with one of the test; windows of different groups do not."""
    sharing = np.zeros(len(windows), dtype=bool)
    if windows.has_groups and not np.isin(windows.groups[is_test], windows.groups[~is_test]).any():
        return sharing
    overlaps = find_overlaps(windows)
    sharing[overlaps.first[is_test[overlaps.second]]] = True
    sharing[overlaps.second[is_test[overlaps.first]]] = True
    return sharing


def _fold_in_time(windows: Windows) -> Fold:
    if windows.times is None:
        raise UsageError(
            f"--time: expected a dataset whose windows have times, got {windows.spec.name!r} without; write times.npy "
            "(UTC seconds at the start of each window), or leave --time out"
        )
    start = windows.times
    end = start + max(modality.duration_s for modality in windows.spec.modalities)
    valid_from, test_from = np.quantile(start[windows.labelled], (_VALID_FROM, _TEST_FROM), method="higher")
    return Fold(
        train=np.flatnonzero(end <= valid_from),
        valid=np.flatnonzero((start >= valid_from) & (end <= test_from) & windows.labelled),
        test=np.flatnonzero((start >= test_from) & windows.labelled),
    )


def _checked(windows: Windows, fold: Fold, where: str) -> Fold:
    parts = {"to train on": fold.train, "to choose by": fold.valid, "to judge with": fold.test}
    counts = {purpose: int(windows.labelled[rows].sum()) for purpose, rows in parts.items()}
    few = [f"{count} {purpose}" for purpose, count in counts.items() if count < _FEWEST_WINDOWS]
    if few:
        raise UsageError(
            f"{where}: expected {_FEWEST_WINDOWS} labelled windows or more to train on, to choose by and to judge with,"
            f" got {' and '.join(few)}; record longer"
        )
    labels = windows.labels[fold.train][windows.labelled[fold.train]]
    absent = absent_labels(windows.spec.task, labels)
    if absent:
        raise UsageError(
            f"{where}: expected labelled windows of every class to train on, got none of {', '.join(absent)}; record "
            "it elsewhere too, or name other metadata"
        )
    return fold
