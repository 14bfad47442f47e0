"""Folds that leave out what a model will meet: a domain (machine, person, campaign), or the end of the campaign."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

MOST_DOMAINS = 10
FEWEST_WINDOWS = 20
"""Labelled windows of a domain, or of a part in time: below it a score is noise."""
_MOST_NAMED = 3
_VALID_FROM, _TEST_FROM = 0.6, 0.8
"""Shares of the labelled windows, in time, after which windows choose, and after which they judge."""


class LeftOutDomains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each fold leaves out.

    Attributes:
        by: `group` or the name of metadata, whose values are the domains; None leaves out the end of the campaign.
    """

    by: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Domains:
    """Which domain each window is of.

    Attributes:
        of_window: int64 (N,), from 0; -1 where nobody wrote of which domain a window is.
    """

    names: tuple[str, ...]
    of_window: Rows


def values_by(windows: Windows, by: str | None, *, suite: str) -> npt.NDArray[Any]:
    """Return (N,) the group of each window, or its metadata of that name. Raise UsageError if there are none."""
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
    """Return (N,) whether a value is missing: an empty text, or NaN.

    Example:
        >>> is_unknown(np.array([1.5, np.nan])), is_unknown(np.array(["", "east"]))
        (array([False,  True]), array([ True, False]))
    """
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.asarray(values == "") if values.dtype.kind == "U" else np.zeros(len(values), dtype=bool)


def domains_of(windows: Windows, by: str) -> Domains:
    """Return the domains: the values of metadata, or the groups; where there are more than ten, ten pools of them.

    Numbers with a point are pooled by their order, everything else so that classes are alike in every pool. A missing
    value is no domain.

    Raise UsageError if there is no such metadata, one domain alone, or one with few labelled windows.
    """
    values = values_by(windows, by, suite="shift")
    known = np.flatnonzero(~is_unknown(values))
    names, number = np.unique(values[known], return_inverse=True)
    number = number.reshape(-1).astype(np.int64)
    if len(names) < 2:
        raise UsageError(
            f"--by {by}: expected two domains or more, of which one is left out at a time, got {len(names)} in dataset "
            f"{windows.spec.name!r}; name other metadata"
        )
    pools = _pooled(windows.subset(known), names, number)
    of_window = np.full(len(windows), -1, dtype=np.int64)
    of_window[known] = pools.of_window
    found = Domains(names=pools.names, of_window=of_window)
    for domain, name in enumerate(found.names):
        size = int((windows.labelled & (of_window == domain)).sum())
        if size < FEWEST_WINDOWS:
            raise UsageError(
                f"--by {by}: expected {FEWEST_WINDOWS} labelled windows or more of every domain, got {size} of {by} "
                f"{name}; record more, or write metadata that pools domains"
            )
    return found


def _pooled(windows: Windows, names: npt.NDArray[Any], number: Rows) -> Domains:
    if len(names) <= MOST_DOMAINS:
        return Domains(names=tuple(str(name) for name in names.tolist()), of_window=number)
    if names.dtype.kind == "f":
        first = np.cumsum(np.bincount(number)) - np.bincount(number)  # windows before each value
        pool_of_value = np.unique(first * MOST_DOMAINS // len(number), return_inverse=True)[1]
        pool = pool_of_value.reshape(-1)[number].astype(np.int64)
    else:
        by_value = replace(windows, groups=number, has_groups=True)
        pool = np.unique(part_of_windows(by_value, parts=MOST_DOMAINS, seed=0), return_inverse=True)[1]
        pool = pool.reshape(-1).astype(np.int64)
    members = [names[np.unique(number[pool == one])] for one in range(int(pool.max()) + 1)]
    if names.dtype.kind == "f":
        return Domains(names=_spans(members), of_window=pool)
    return Domains(names=tuple(map(_words, members)), of_window=pool)


def _spans(members: Sequence[npt.NDArray[Any]]) -> tuple[str, ...]:
    """Short numbers, or whole ones where short ones would be alike."""
    ends = [(float(values[0]), float(values[-1])) for values in members]
    short = [(f"{low:g}", f"{high:g}") for low, high in ends]
    alike = len({text for pair in set(short) for text in pair}) < len({value for pair in ends for value in pair})
    return tuple(
        f"{low} to {high}" for low, high in ([(str(low), str(high)) for low, high in ends] if alike else short)
    )


def _words(values: npt.NDArray[Any]) -> str:
    few = [str(value) for value in values[:_MOST_NAMED].tolist()]
    more = len(values) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


def fold_without(windows: Windows, left_out: LeftOutDomains, *, fold: int) -> Fold:
    """Return the windows that train, choose and judge where this domain, or the end of the campaign, is left out.

    A domain's windows judge. Of all others a fifth of the groups chooses and the rest trains, so that validation groups
    are unseen too; without groups the dataset's own validation windows choose. Where a domain is not made of whole
    groups, what shares samples with windows that judge does neither; nor do windows of no known domain. In time the
    last fifth of the labelled windows judges, the fifth before it chooses, and windows that reach over a border are
    left out.

    Args:
        fold: number of the domain; 0 in time.

    Raise UsageError if what trains lacks a class, or there is too little to choose or to judge by.
    """
    if left_out.by is None:
        return _checked(windows, _fold_in_time(windows), "--time: without the end of the campaign")
    domains = domains_of(windows, left_out.by)
    here = domains.of_window == fold
    rest = np.flatnonzero(~here & (domains.of_window >= 0) & ~_sharing(windows, here))
    others = windows.subset(rest)
    if windows.has_groups:
        count = len(np.unique(others.groups))
        if count < 2:
            raise UsageError(
                f"--by {left_out.by}: expected windows of two groups or more beside {domains.names[fold]}, one to "
                f"train on and one to choose by, got {count}; record more groups"
            )
        chooses = part_of_windows(others, parts=min(FOLDS, count), seed=fold) == 0
    else:
        chooses = others.splits == 1
    found = Fold(
        train=rest[~chooses], valid=rest[chooses & others.labelled], test=np.flatnonzero(here & windows.labelled)
    )
    return _checked(windows, found, f"--by {left_out.by}: without {domains.names[fold]}")


def shared_groups(windows: Windows, fold: Fold) -> int:
    """Return how many of the groups that judge have windows that train or choose; 0 where nobody knows groups."""
    if not windows.has_groups:
        return 0
    known = np.concatenate([windows.groups[fold.train], windows.groups[fold.valid]])
    return int(np.isin(np.unique(windows.groups[fold.test]), known).sum())


def _sharing(windows: Windows, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N,) whether a window shares samples with one of the domain; windows of different groups do not."""
    found = np.zeros(len(windows), dtype=bool)
    if windows.has_groups and not np.isin(windows.groups[here], windows.groups[~here]).any():
        return found
    overlaps = find_overlaps(windows)
    for one, other in ((overlaps.first, overlaps.second), (overlaps.second, overlaps.first)):
        found[one[here[other]]] = True
    return found


def _fold_in_time(windows: Windows) -> Fold:
    if windows.times is None:
        raise UsageError(
            f"--time: expected a dataset whose windows have times, got {windows.spec.name!r} without; write times.npy "
            "(UTC seconds at the start of each window), or leave --time out"
        )
    start = windows.times
    end = start + max(modality.samples / modality.rate_hz for modality in windows.spec.modalities)
    valid_from, test_from = np.quantile(start[windows.labelled], (_VALID_FROM, _TEST_FROM), method="higher")
    chooses = (start >= valid_from) & (end <= test_from)
    return Fold(
        train=np.flatnonzero(end <= valid_from),
        valid=np.flatnonzero(chooses & windows.labelled),
        test=np.flatnonzero((start >= test_from) & windows.labelled),
    )


def _checked(windows: Windows, fold: Fold, where: str) -> Fold:
    counts = {what: int(windows.labelled[rows].sum()) for what, rows in _parts(fold)}
    few = [f"{count} {what}" for what, count in counts.items() if count < FEWEST_WINDOWS]
    if few:
        raise UsageError(
            f"{where}: expected {FEWEST_WINDOWS} labelled windows or more to train on, to choose by and to judge with,"
            f" got {' and '.join(few)}; record longer"
        )
    task, labels = windows.spec.task, windows.labels[fold.train]
    absent = absent_labels(task, labels[windows.labelled[fold.train]])
    if absent:
        raise UsageError(
            f"{where}: expected labelled windows of every class to train on, got none of {', '.join(absent)}; record "
            "it elsewhere too, or name other metadata"
        )
    return fold


def _parts(fold: Fold) -> Iterator[tuple[str, Rows]]:
    yield "to train on", fold.train
    yield "to choose by", fold.valid
    yield "to judge with", fold.test
