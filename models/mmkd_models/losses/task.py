"""The labels' own loss: cross-entropy against a label distribution (mixed labels included)."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from mmkd_edge.spec import TaskKind
from mmkd_models.losses.goal import Goal
from mmkd_models.losses.multilabel import label_loss
from mmkd_models.losses.regression import DELTA, huber_loss
from mmkd_models.losses.term import Mix, OutputTerm, TrainingStep, Weight, constant
from mmkd_models.losses.tokens import weighted_mean


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Gives -sum_k targets_k log softmax(logits)_k, mean over the rows that count.

    Args:
        targets: (B, K), rows sum to 1 where `weight` is not 0.
    """
    rows = -(targets * torch.log_softmax(logits.float(), dim=-1)).sum(-1)  # (B,)
    return weighted_mean(rows, weight)


def task_loss(goal: Goal, logits: Tensor, targets: Tensor, *, weight: Tensor) -> Tensor:
    """Gives the loss against labels: cross-entropy, binary cross-entropy of each label, or Huber's.

    Args:
        targets: (B, K) as in `Batch`.
    """
    match goal.kind:
        case "classification":
            return soft_cross_entropy(logits, targets, weight=weight)
        case "multi_label":
            return label_loss(logits, targets, weight=weight)
        case "regression":
            return huber_loss(logits[:, 0] / goal.spread, targets[:, 0] / goal.spread, delta=DELTA, weight=weight)


class TaskTerm(OutputTerm, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="task"):
    """Cross-entropy against the labels (of a regression Huber's loss), on labelled windows."""

    weight: Weight = constant(1.0)

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Every task has labels."""

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The labels' loss; trust in the teacher has no part in it."""
        batch = step.batch
        return {"task": task_loss(step.goal, step.pair.student.logits, batch.targets, weight=batch.labelled)}
