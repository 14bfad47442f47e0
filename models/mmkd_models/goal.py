"""What logits stand for: which losses hold them against labels and against a teacher, by the kind of the task.

Owns the choice. The losses themselves are in `losses/`, one idea a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.data.windows import Windows
from mmkd_models.losses.logits import kl_loss
from mmkd_models.losses.mixing import mixed_label_logits, mixed_logits
from mmkd_models.losses.multilabel import label_loss, multilabel_kl_loss
from mmkd_models.losses.regression import huber_loss, regression_loss
from mmkd_models.losses.task import soft_cross_entropy
from mmkd_models.losses.trust import trust_in_labels, trust_in_teacher
from mmkd_models.recipe import Mix

_DELTA = 1.0  # of Huber's loss, in standard deviations of the target
_CORRELATION = 1.0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a network of a task is taught.

    Attributes:
        kind: of the task.
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

    Raises:
        UsageError: it has fewer than two different values there.
    """
    known = windows.labels[windows.labelled].astype(np.float64)
    if len(np.unique(known)) < 2:
        raise UsageError(
            f"training windows: expected two different values of {windows.spec.task.labels[0]!r} or more in labelled "
            f"windows, got {len(np.unique(known))}; label some, or raise --label-share"
        )
    return float(known.mean()), float(known.std())


def task_loss(goal: Goal, logits: Tensor, targets: Tensor, *, weight: Tensor) -> Tensor:
    """Gives the loss against labels: cross-entropy, binary cross-entropy of each label, or Huber's.

    Args:
        goal: what the logits stand for.
        logits: (B, K).
        targets: (B, K) as in `Batch`.
        weight: (B,) 1 for labelled rows, 0 for the others.
    """
    match goal.kind:
        case "classification":
            return soft_cross_entropy(logits, targets, weight=weight)
        case "multi_label":
            return label_loss(logits, targets, weight=weight)
        case "regression":
            return huber_loss(logits[:, 0] / goal.spread, targets[:, 0] / goal.spread, delta=_DELTA, weight=weight)


def logit_loss(
    goal: Goal, student: Tensor, teacher: Tensor, *, temperature: float, standardise: bool, weight: Tensor | None
) -> Tensor:
    """Gives the loss against a teacher's outputs: divergence at a temperature, or Huber's plus the correlation's.

    Args:
        goal: what the logits stand for.
        student: (B, K).
        teacher: (B, K); no gradient flows into it.
        temperature: T > 0; a regression has none.
        standardise: compare z-scores over the classes; classification alone.
        weight: (B,) trust in each row.
    """
    match goal.kind:
        case "classification":
            return kl_loss(student, teacher, temperature=temperature, standardise=standardise, weight=weight)
        case "multi_label":
            return multilabel_kl_loss(student, teacher, temperature=temperature, weight=weight)
        case "regression":
            ours, theirs = student[:, 0] / goal.spread, teacher[:, 0] / goal.spread
            return regression_loss(ours, theirs, delta=_DELTA, correlation=_CORRELATION, weight=weight)


def together(goal: Goal, logits: Sequence[Tensor], *, temperature: float, mix: Mix) -> Tensor:
    """Gives (B, K) logits of all teachers together, to be read at this temperature; numbers are averaged."""
    if goal.kind == "multi_label":
        return mixed_label_logits(logits, temperature=temperature, mix=mix)
    return mixed_logits(logits, temperature=temperature, mix="logits" if goal.kind == "regression" else mix)


def trust_of(goal: Goal, teacher: Tensor, targets: Tensor, labelled: Tensor, *, by_confidence: bool) -> Tensor:
    """Gives (B,) how much the teacher counts in each window; a regression has no such measure."""
    trust = trust_in_labels if goal.kind == "multi_label" else trust_in_teacher
    return trust(teacher, targets, labelled, by_confidence=by_confidence)
