"""The windows of an adaptation: those of the new domain, and those by which the old one is remembered.

Owns which windows teach and which judge. A student's own carried windows stand in for an old dataset.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_models.adaptation.classes import in_classes
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.sources import StoredWindows
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec
from mmkd_models.data.windows import Windows
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.compatible import check_compatible

FEWEST = 20
"""Windows that a side needs: below it shares and scores are noise."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One domain.

    Attributes:
        learn: windows that teach.
        judge: windows that judge, of other groups or moments.
        name: of the dataset, or whose windows they are.
        sha256: of the dataset; None of carried windows.
    """

    learn: Windows
    judge: Windows
    name: str
    sha256: str | None


def new_domain(student: StudentCheckpoint, dataset: Dataset, names: tuple[str, ...]) -> Domain:
    """Gives the new domain with these modalities: its training split teaches, its validation split judges.

    Raises UsageError where the student cannot judge its windows, or there are too few.
    """
    learn, judge = (dataset.split(split) for split in SPLIT_NAMES[:2])
    check_compatible("student", student.task, (student.modality,), learn)
    for split, windows in zip(SPLIT_NAMES, (learn, judge), strict=False):
        if len(windows) < FEWEST:
            raise UsageError(
                f"{dataset.path}: expected {FEWEST} windows of {split} or more, got {len(windows)}; record longer"
            )
    one_each = [windows.with_modalities(names) for windows in (learn, judge)]
    return Domain(learn=one_each[0], judge=one_each[1], name=dataset.spec.name, sha256=dataset.sha256)


def old_domain(student: StudentCheckpoint, dataset: Dataset | None) -> Domain:
    """Gives the old domain: a dataset's training and validation split, else the two halves of the carried windows.

    Labels are read by their names; windows of classes that the student no longer has are left out.

    Raises UsageError where the student carries no windows and there is no dataset, or it does not fit the student, or
    has too few labels in one of the two.
    """
    name = student.modality.name
    if dataset is not None:
        where = f"--old {dataset.path}"
        parts = [in_classes(dataset.split(split), student.task, where=where) for split in SPLIT_NAMES[:2]]
        check_compatible("student", student.task, (student.modality,), parts[0])
        parts = [windows.with_modalities((name,)) for windows in parts]
        learn, judge = (windows.subset(np.flatnonzero(windows.labelled)) for windows in parts)
        if min(len(learn), len(judge)) < FEWEST:
            raise UsageError(
                f"{where}: expected {FEWEST} labelled windows of train and of valid or more, got"
                f" {len(learn)} and {len(judge)}; label some, or leave --old out"
            )
        return Domain(learn=learn, judge=judge, name=dataset.spec.name, sha256=dataset.sha256)
    carried = student.carried
    if carried is None or len(carried.windows) < 2 * FEWEST:
        count = 0 if carried is None else len(carried.windows)
        raise UsageError(
            f"student: expected {2 * FEWEST} carried windows or more, which tell what it must not forget, got {count};"
            " give the data that it was trained on with --old"
        )
    windows = _carried_windows(student)
    # They lie in the order of the validation split, so that neighbours are of one group.
    halves = [windows.subset(part) for part in np.array_split(np.arange(len(windows)), 2)]
    return Domain(learn=halves[0], judge=halves[1], name="carried windows", sha256=None)


def _carried_windows(student: StudentCheckpoint) -> Windows:
    carried = student.carried
    assert carried is not None
    count = len(carried.windows)
    # Carried windows of a per-group modality are z-scored already.
    modality = msgspec.structs.replace(student.modality, normalise="none")
    spec = DatasetSpec(
        name="carried", task=student.task, modalities=(modality,), splits=dict.fromkeys(SPLIT_NAMES, count)
    )
    zeros = np.zeros(count, dtype=np.int64)
    return Windows(
        spec=spec,
        labels=carried.labels,
        groups=np.arange(count),
        has_groups=False,
        splits=zeros,
        folds=None,
        source=StoredWindows(parts={modality.name: [carried.windows]}, offsets=np.array([0, count])),
        rows=np.arange(count),
    )


def few_labels(windows: Windows, count: int, *, seed: int) -> NDArray[np.int64]:
    """Gives the rows of at most `count` labelled windows of each class, drawn by the seed, ascending.

    Raises UsageError where a class has fewer than two, of which one judges what the other teaches.
    """
    if count < 2:
        raise UsageError(f"--labels {count}: expected 2 of each class or more, half of which judge; label more")
    rng = np.random.default_rng([seed, count])
    chosen = []
    for number, name in enumerate(windows.spec.task.labels):
        mine = np.flatnonzero(windows.labels == number)
        if len(mine) < 2:
            raise UsageError(
                f"--labels {count}: expected two labelled windows or more of every class in the training split, got"
                f" {len(mine)} of {name}; label some, or leave --labels out"
            )
        chosen.append(rng.permutation(mine)[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
