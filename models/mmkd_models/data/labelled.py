"""Choice of labelled training windows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import label_subset
from mmkd_models.data.labels import WRITE_GROUPS, hide_labels
from mmkd_models.data.windows import Windows

_DRAWS = 1000  # random draws of groups before a greedy choice
_MIN_GROUPS = 6  # a third of them is at least two groups


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
