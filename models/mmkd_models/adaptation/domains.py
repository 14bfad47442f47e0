"""The windows of the new and the old domain, and classes that come and go."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec
from mmkd_models.data.windows import StoredWindows, Windows
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.inputs import check_compatible

_MIN_COUNT = 20  # windows that each part needs: below it scores are noise
_NEVER = 10.0  # logits: a new class begins so far below the others


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Training and judging windows; `sha256` of the dataset, None for carried windows."""

    learn: Windows
    judge: Windows
    name: str
    sha256: str | None


def new_domain(student: StudentCheckpoint, dataset: Dataset, names: tuple[str, ...]) -> Domain:
    """Return the new dataset's training and validation split. Raise UsageError if unfit or too small."""
    learn, judge = (dataset.split(split) for split in SPLIT_NAMES[:2])
    check_compatible("student", student.task, (student.modality,), learn)
    for split, windows in zip(SPLIT_NAMES, (learn, judge), strict=False):
        if len(windows) < _MIN_COUNT:
            raise UsageError(
                f"{dataset.path}: expected at least {_MIN_COUNT} windows in {split}, got {len(windows)}; record longer"
            )
    one_each = [windows.with_modalities(names) for windows in (learn, judge)]
    return Domain(learn=one_each[0], judge=one_each[1], name=dataset.spec.name, sha256=dataset.sha256)


def old_domain(student: StudentCheckpoint, dataset: Dataset | None) -> Domain:
    """Return a dataset's labelled splits, or halves of the carried windows. Raise UsageError if unfit or too few."""
    name = student.modality.name
    if dataset is not None:
        where = f"--old {dataset.path}"
        parts = [_in_classes(dataset.split(split), student.task, where=where) for split in SPLIT_NAMES[:2]]
        check_compatible("student", student.task, (student.modality,), parts[0])
        parts = [windows.with_modalities((name,)) for windows in parts]
        learn, judge = (windows.only_labelled() for windows in parts)
        if min(len(learn), len(judge)) < _MIN_COUNT:
            raise UsageError(
                f"{where}: expected at least {_MIN_COUNT} labelled windows in train and in valid, got {len(learn)} and "
                f"{len(judge)}; label some, or leave --old out"
            )
        return Domain(learn=learn, judge=judge, name=dataset.spec.name, sha256=dataset.sha256)
    carried = student.carried
    if carried is None or len(carried.windows) < 2 * _MIN_COUNT:
        count = 0 if carried is None else len(carried.windows)
        raise UsageError(
            f"student: expected at least {2 * _MIN_COUNT} carried windows, to measure forgetting, got {count}; pass "
            "the dataset that it was trained on as --old"
        )
    windows = _carried_windows(student)
    # They lie in the order of the validation split, so that neighbours are of one group.
    halves = [windows.subset(part) for part in np.array_split(np.arange(len(windows)), 2)]
    return Domain(learn=halves[0], judge=halves[1], name="carried windows", sha256=None)


def _carried_windows(student: StudentCheckpoint) -> Windows:
    carried = student.carried
    assert carried is not None
    count = len(carried.windows)
    modality = student.modality
    if modality.normalise == "per_group":  # z-scores already, and the range is that of raw values
        modality = msgspec.structs.replace(modality, normalise="none", range=None)
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
    """Draw at most `count` labelled rows per class, ascending."""
    if count < 2:
        raise UsageError(f"--labels {count}: expected at least 2 of each class, since half of them judge; label more")
    rng = np.random.default_rng([seed, count])
    chosen = []
    for number, name in enumerate(windows.spec.task.labels):
        mine = np.flatnonzero(windows.labels == number)
        if len(mine) < 2:
            raise UsageError(
                f"--labels {count}: expected at least 2 labelled windows of every class in the training split, got "
                f"{len(mine)} of {name}; label some, or leave --labels out"
            )
        chosen.append(rng.permutation(mine)[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def new_classes(student: StudentCheckpoint, task: TaskSpec) -> tuple[str, ...]:
    """Return the classes unknown to the student."""
    return tuple(name for name in task.labels if name not in student.task.labels)


def unlearnt(student: StudentCheckpoint) -> NDArray[np.bool_]:
    """Return (K,) classes whose head row `with_classes` created."""
    weight, bias = student.state["head.weight"], student.state["head.bias"]
    return np.asarray(((weight == 0).all(dim=1) & (bias < bias.max() - _NEVER / 2)).numpy())


def with_classes(student: StudentCheckpoint, task: TaskSpec) -> StudentCheckpoint:
    """Return the student with a task's classes, in order."""
    if task == student.task:
        return student
    known = [name for name in task.labels if name in student.task.labels]
    if task.kind != "classification" or student.task.kind != task.kind or not known:
        raise UsageError(
            f"student: expected a dataset with at least one of its classes {', '.join(student.task.labels)}, got "
            f"{', '.join(task.labels)}; name classes as the student does, or train a new student"
        )
    weight, bias = student.state["head.weight"], student.state["head.bias"]
    rows = torch.zeros(len(task.labels), weight.shape[1], dtype=weight.dtype)
    values = torch.full((len(task.labels),), float(bias.min()) - _NEVER, dtype=bias.dtype)
    for number, name in enumerate(task.labels):
        if name in student.task.labels:
            place = student.task.labels.index(name)
            rows[number], values[number] = weight[place], bias[place]
    state = {**student.state, "head.weight": rows, "head.bias": values}
    if "trees.fractions" in state:
        known_fractions = student.state["trees.fractions"]
        state["trees.fractions"] = known_fractions.new_zeros(len(known_fractions), len(task.labels))
        for place, number in enumerate(_numbers(student.task, task)):
            if number >= 0:
                state["trees.fractions"][:, number] = known_fractions[:, place]
    carried = student.carried
    if carried is not None:
        labels = _numbers(student.task, task)[carried.labels]
        carried = replace(carried, labels=labels).subset(labels >= 0)
    return replace(
        student,
        task=task,
        state=state,
        facts=msgspec.structs.replace(student.facts, prior_tau=None),
        carried=carried,
        portable=None,
    )


def _in_classes(windows: Windows, task: TaskSpec, *, where: str) -> Windows:
    known = windows.spec.task
    if known.kind != task.kind or not set(known.labels) & set(task.labels):
        raise UsageError(
            f"{where}: expected at least one of the classes {', '.join(task.labels)}, got {', '.join(known.labels)}; "
            "leave --old out to use the windows that the student carries"
        )
    numbers = np.append(_numbers(known, task), -1)  # -1 stays -1
    spec = msgspec.structs.replace(windows.spec, task=task)
    return replace(windows, spec=spec, labels=numbers[windows.labels])


def _numbers(before: TaskSpec, after: TaskSpec) -> NDArray[np.int64]:
    return np.array([after.labels.index(name) if name in after.labels else -1 for name in before.labels])
