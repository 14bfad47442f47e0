"""Which training windows show their labels: a share of each class, or whole groups."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import label_subset
from mmkd_models.data.labels import WRITE_GROUPS
from mmkd_models.data.windows import Windows

_DRAWS = 1000  # of groups at random, before groups are searched for that have every class
_FEWEST_USUAL = 6  # groups to train on, from which a third is two or more and leaves as many without labels


class Labelled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is labelled: a share of the training windows by class, or so many whole groups of them.

    Attributes:
        share: above 0 and up to 1; 1 where `groups` says what is labelled.
        groups: how many groups show all the labels they have, and all others none; None if a share does.
    """

    share: float = 1.0
    groups: int | None = None

    @property
    def is_all(self) -> bool:
        """Say whether nothing is hidden."""
        return self.groups is None and self.share == 1


ALL = Labelled()
A_TENTH = Labelled(share=0.1)


def labelled_from_options(share: float | None, groups: int | None, *, otherwise: Labelled) -> Labelled:
    """Return what `--label-share` and `--labelled-groups` say. Raise UsageError if both are given."""
    if share is not None and groups is not None:
        raise UsageError(
            f"--labelled-groups {groups}: expected it without --label-share, got --label-share {share:g} too; "
            "leave one of them out"
        )
    if groups is not None:
        return Labelled(groups=groups)
    return otherwise if share is None else Labelled(share=share)


def options_of(labelled: Labelled) -> str:
    """Return the option that says it on a command line; empty where everything is labelled."""
    if labelled.groups is not None:
        return f"--labelled-groups {labelled.groups}"
    return "" if labelled.is_all else f"--label-share {labelled.share:g}"


def seen_labels(train: Windows, labelled: Labelled, *, seed: int) -> npt.NDArray[np.bool_]:
    """Choose (N,) the training windows whose labels may be used; one seed always chooses the same.

    Raises:
        UsageError: as `label_subset` or `group_subset`.
    """
    if labelled.groups is None:
        return label_subset(train.labels, share=labelled.share, seed=seed)
    return group_subset(train, count=labelled.groups, seed=seed)


def group_subset(train: Windows, *, count: int, seed: int) -> npt.NDArray[np.bool_]:
    """Choose whole groups that show their labels, for "two of six people were labelled".

    Groups are drawn at random until a draw has every class (of several labels each of them in a window) that the
    training windows have between them. Where a thousand draws have not, groups are searched for that do.

    Returns:
        bool (N,): windows of the chosen groups that have a label.

    Raises:
        UsageError: there are no groups, not so many, or no choice of so many that has every class.
    """
    name = train.spec.name
    if not train.has_groups:
        raise UsageError(
            f"labelled groups: expected groups in dataset {name!r}, got none; {WRITE_GROUPS}, or label a share of the "
            "windows (--label-share)"
        )
    names, has = _classes_of_groups(train)
    if not 1 <= count <= len(names):
        raise UsageError(
            f"labelled groups: expected 1 to {len(names)} of the labelled groups that dataset {name!r} trains on, got "
            f"{count}; choose another number"
        )
    chosen = _drawn(has, count, np.random.default_rng(seed))
    if chosen is None:
        least = next(more for more in range(count + 1, len(names) + 1) if _cover(has, more) is not None)
        raise UsageError(
            f"labelled groups: expected {count} groups that have every class between them, got no such choice among "
            f"the {len(names)} groups that dataset {name!r} trains on; label {least} or more"
        )
    return np.isin(train.groups, names[chosen]) & train.labelled


def usual_labelled(trainings: Sequence[Windows]) -> Labelled:
    """Return what is labelled where nobody says it: about a third of the groups, two or more, else a tenth by share.

    It is a tenth where there are no groups, fewer than six to train on, or no choice of a third that has every class.
    """
    folds = [_classes_of_groups(one)[1] for one in trainings if one.has_groups]
    fewest = min((len(has) for has in folds), default=0)
    if fewest < _FEWEST_USUAL or len(folds) < len(trainings):
        return A_TENTH
    count = round(fewest / 3)
    return Labelled(groups=count) if all(_cover(has, count) is not None for has in folds) else A_TENTH


def _classes_of_groups(train: Windows) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Names (G,) of the groups with a labelled window, and which classes (G, K) each has; of numbers K is 0."""
    known = train.subset(train.labelled)
    names, group = np.unique(known.groups, return_inverse=True)
    kind, labels = train.spec.task.kind, known.labels
    if kind == "regression":
        return names, np.zeros((len(names), 0), dtype=bool)
    on = labels == 1 if kind == "multi_label" else labels[:, None] == np.unique(labels)  # (N, K)
    has = np.stack([on[group == number].any(axis=0) for number in range(len(names))]) if len(names) else on
    return names, has[:, has.any(axis=0)]


def _drawn(has: npt.NDArray[np.bool_], count: int, random: np.random.Generator) -> npt.NDArray[np.int64] | None:
    """Numbers of `count` groups with every class; None if there is no such choice."""
    for _ in range(_DRAWS):
        chosen = random.permutation(len(has))[:count]
        if has[chosen].any(axis=0).all():
            return chosen
    order = random.permutation(len(has))
    found = _cover(has[order], count)
    if found is None:
        return None
    rest = [number for number in range(len(has)) if number not in found]
    return order[[*found, *rest[: count - len(found)]]]


def _cover(has: npt.NDArray[np.bool_], count: int) -> list[int] | None:
    """Numbers of at most `count` groups that have every class between them, the first by their order; None if none."""
    groups = [sum(1 << int(bit) for bit in np.flatnonzero(row)) for row in has]
    return _searched(groups, (1 << has.shape[1]) - 1, count, set())


def _searched(groups: Sequence[int], missing: int, left: int, failed: set[tuple[int, int]]) -> list[int] | None:
    """Group (as bits of their classes) for the missing classes; what is known to fail is not searched again."""
    if not missing:
        return []
    if left == 0 or (missing, left) in failed:
        return None
    bits = [1 << bit for bit in range(missing.bit_length()) if missing >> bit & 1]
    rarest = min(bits, key=lambda bit: sum(bool(group & bit) for group in groups))
    for number, group in enumerate(groups):
        if group & rarest:
            further = _searched(groups, missing & ~group, left - 1, failed)
            if further is not None:
                return [number, *further]
    failed.add((missing, left))
    return None
