"""What logits stand for, by the kind of the task: losses ask it which of their forms they take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.data.windows import Windows


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a network of a task is taught.

    Attributes:
        spread: standard deviation of a regression's training targets, in their unit: losses count in it, so that they
            weigh the same whatever the unit is. 1 for other kinds.
    """

    kind: TaskKind = "classification"
    spread: float = 1.0


CLASSES = Goal()


def goal_of(windows: Windows) -> Goal:
    """Gives the goal of training on these windows."""
    kind = windows.spec.task.kind
    return Goal(kind=kind, spread=target_scale(windows)[1] if kind == "regression" else 1.0)


def target_scale(windows: Windows) -> tuple[float, float]:
    """Gives mean and standard deviation of a regression's target over the labelled windows.

    Raises UsageError where it has fewer than two different values there.
    """
    known = windows.labels[windows.labelled].astype(np.float64)
    if len(np.unique(known)) < 2:
        raise UsageError(
            f"training windows: expected two different values of {windows.spec.task.labels[0]!r} or more in labelled "
            f"windows, got {len(np.unique(known))}; label some, or raise --label-share"
        )
    return float(known.mean()), float(known.std())
