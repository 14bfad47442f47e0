"""The labels' loss: cross-entropy of classes, of each label, or Huber's loss of a number.

Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.term import Goal, OutputTerm, TrainingStep, weighted_mean

DELTA = 1.0  # distance from which Huber's loss is linear, in standard deviations of the target


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return -sum_k targets_k log softmax(logits)_k, (B, K) each, mean over counted rows."""
    rows = -(targets * torch.log_softmax(logits.float(), dim=-1)).sum(-1)  # (B,)
    return weighted_mean(rows, weight)


def label_loss(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of targets (B, K) from 0 to 1, mean over labels and counted rows."""
    rows = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return weighted_mean(rows.mean(-1), weight)


def huber_loss(values: Tensor, targets: Tensor, *, delta: float, weight: Tensor | None = None) -> Tensor:
    """Return d^2 / 2 if |d| <= delta, else delta (|d| - delta / 2), d = values - targets, mean over the rows.

    Values and targets are (B,); rows of weight 0 may be NaN. Targets get no gradient.
    """
    counted = torch.ones_like(values, dtype=torch.bool) if weight is None else weight > 0
    distance = torch.where(counted, values.float() - targets.detach().float(), 0.0).abs()
    rows = torch.where(distance <= delta, distance.square() / 2, delta * (distance - delta / 2))
    return weighted_mean(rows, weight)


def task_loss(goal: Goal, logits: Tensor, targets: Tensor, *, weight: Tensor) -> Tensor:
    """Return the loss against labels (B, K) as in `Batch`."""
    match goal.kind:
        case "classification":
            return soft_cross_entropy(logits, targets, weight=weight)
        case "multi_label":
            return label_loss(logits, targets, weight=weight)
        case "regression" | "normal":  # no loss is asked of the latter
            return huber_loss(logits[:, 0] / goal.spread, targets[:, 0] / goal.spread, delta=DELTA, weight=weight)


class TaskTerm(OutputTerm, frozen=True, kw_only=True, tag="task"):
    """Cross-entropy against the labels (of a regression Huber's loss), on labelled windows."""

    def loss(self, step: TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the labels' loss."""
        return task_loss(step.goal, step.pair.student.logits, step.batch.targets, weight=step.batch.labelled)
