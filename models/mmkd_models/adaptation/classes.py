"""A student whose classes are those of a new dataset: rows of its head come, go and change places.

A class that is new is never answered before it is learnt; one that is gone is never answered again. Everything else the
student says as before.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.carried import CarriedWindows
from mmkd_models.data.windows import Windows
from mmkd_models.training.checkpoint import StudentCheckpoint

_NEVER = 10.0  # logits by which a new class begins below every other, until its head is fitted


def new_classes(student: StudentCheckpoint, task: TaskSpec) -> tuple[str, ...]:
    """Gives the classes that the student does not know."""
    return tuple(name for name in task.labels if name not in student.task.labels)


def unlearnt(student: StudentCheckpoint) -> NDArray[np.bool_]:
    """Gives (K,) which classes its head knows nothing of yet: their row has no weights, as `with_classes` begins it."""
    return np.asarray((student.state["head.weight"] == 0).all(dim=1).numpy())


def with_classes(student: StudentCheckpoint, task: TaskSpec) -> StudentCheckpoint:
    """Gives the student with the classes of a task, in their order; itself where they are the same.

    Raises UsageError where no class is left, or one of the two is no task of classes.
    """
    if task == student.task:
        return student
    known = [name for name in task.labels if name in student.task.labels]
    if task.kind != "classification" or student.task.kind != task.kind or not known:
        raise UsageError(
            f"student: expected a dataset that has one of its classes {', '.join(student.task.labels)}, got"
            f" {', '.join(task.labels)}; name classes as the student does, or train it anew"
        )
    weight, bias = student.state["head.weight"], student.state["head.bias"]
    rows = torch.zeros(len(task.labels), weight.shape[1], dtype=weight.dtype)
    values = torch.full((len(task.labels),), float(bias.min()) - _NEVER, dtype=bias.dtype)
    for number, name in enumerate(task.labels):
        if name in student.task.labels:
            place = student.task.labels.index(name)
            rows[number], values[number] = weight[place], bias[place]
    return replace(
        student,
        task=task,
        state={**student.state, "head.weight": rows, "head.bias": values},
        facts=msgspec.structs.replace(student.facts, prior_tau=msgspec.UNSET),
        carried=None if student.carried is None else _renumbered(student.carried, student.task, task),
        int8=None,
    )


def in_classes(windows: Windows, task: TaskSpec, *, where: str) -> Windows:
    """Gives windows whose labels are numbered as a task does, by their names; of other classes they have none.

    Raises UsageError where no class is left, or one of the two is no task of classes; `where` names the windows.
    """
    known = windows.spec.task
    if known.kind != task.kind or not set(known.labels) & set(task.labels):
        raise UsageError(
            f"{where}: expected one of the classes {', '.join(task.labels)}, got {', '.join(known.labels)}; leave --old"
            " out, the student carries windows of its own"
        )
    numbers = np.append(_numbers(known, task), -1)  # -1 stays -1
    spec = msgspec.structs.replace(windows.spec, task=task)
    return replace(windows, spec=spec, labels=numbers[windows.labels])


def _numbers(before: TaskSpec, after: TaskSpec) -> NDArray[np.int64]:
    """(K,) which number each class has now; -1 where it has gone."""
    return np.array([after.labels.index(name) if name in after.labels else -1 for name in before.labels])


def _renumbered(carried: CarriedWindows, before: TaskSpec, after: TaskSpec) -> CarriedWindows:
    """The windows of the classes that stay, numbered as they are now."""
    labels = _numbers(before, after)[carried.labels]
    return CarriedWindows(windows=carried.windows[labels >= 0], labels=labels[labels >= 0])
