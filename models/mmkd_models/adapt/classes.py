"""A student whose classes are those of a new dataset: rows of its head come, go and change places.

A class that is new is never answered before it is learnt; one that is gone is never answered again. Everything else the
student says as before.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.carried import CarriedWindows
from mmkd_models.training.checkpoint import StudentCheckpoint

_NEVER = 10.0  # logits by which a new class begins below every other, until its head is fitted


def new_classes(student: StudentCheckpoint, task: TaskSpec) -> tuple[str, ...]:
    """Gives the classes that the student does not know."""
    return tuple(name for name in task.labels if name not in student.task.labels)


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


def _renumbered(carried: CarriedWindows, before: TaskSpec, after: TaskSpec) -> CarriedWindows:
    """The windows of the classes that stay, numbered as they are now."""
    number = np.array([after.labels.index(name) if name in after.labels else -1 for name in before.labels])
    labels = number[carried.labels]
    return CarriedWindows(windows=carried.windows[labels >= 0], labels=labels[labels >= 0])
