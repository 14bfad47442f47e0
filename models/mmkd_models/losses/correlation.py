"""DIST: the student's probabilities correlate with the teacher's, over classes and over windows.

Source: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, section 4: beta
times 1 - rho over the classes of each window (rows) plus gamma times 1 - rho over the windows of each class (columns),
rho Pearson's correlation of the probabilities at temperature tau, multiplied by tau^2 as in the authors' code.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.term import (
    Mix,
    OutputTerm,
    TrainingStep,
    Weight,
    check_exclusive_classes,
    check_temperature,
    check_two_weights,
    constant,
)
from mmkd_models.losses.tokens import weighted_mean

_TINY = 1e-8  # added to sums of squares: a class that nobody ever names has no correlation and must have no gradient


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    beta: float,
    gamma: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Gives tau^2 (beta * rows + gamma * columns), in float32; it is 0 when both agree.

    With two classes a row's correlation is 1 or -1 whatever the student does, so rows are left out and columns alone
    teach. A batch of one trusted window has no columns: they are left out.

    Args:
        beta: weight of the rows: how alike the classes are, in one window.
        gamma: weight of the columns: how alike the windows are, in one class.
        weight: (B,) trust in each window, in rows and in columns.
    """
    student = torch.softmax(student_logits.float() / temperature, dim=-1)
    teacher = torch.softmax(teacher_logits.detach().float() / temperature, dim=-1)
    trust = student.new_ones(len(student)) if weight is None else weight.float()
    total = student.sum() * 0.0  # so that a batch without anything to correlate still has a gradient, of zeros
    if student.shape[-1] > 2:
        even = torch.ones_like(student)
        total = total + beta * weighted_mean(1 - weighted_correlation(student, teacher, even), trust)
    if int((trust > 0).sum()) > 1:
        columns = weighted_correlation(student.T, teacher.T, trust.expand(student.shape[-1], -1))
        total = total + gamma * (1 - columns).mean()
    return total * temperature**2


def weighted_correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Weighted Pearson correlation of the rows of (N, M) tensors, (N,)."""
    share = weight / weight.sum(-1, keepdim=True)
    a = a - (share * a).sum(-1, keepdim=True)
    b = b - (share * b).sum(-1, keepdim=True)
    squares = ((share * a * a).sum(-1) + _TINY) * ((share * b * b).sum(-1) + _TINY)
    return (share * a * b).sum(-1) / squares.sqrt()


class DistTerm(OutputTerm, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dist"):
    """Probabilities that correlate with the teacher's, over classes (`beta`) and over windows (`gamma`)."""

    weight: Weight = constant(1.0)
    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for numbers that cannot be, or a task that has no classes to correlate."""
        check_temperature(self, self.temperature)
        check_two_weights(self, ("beta", "gamma"), self.beta, self.gamma)
        check_exclusive_classes(self, kind)
        if classes == 2 and self.gamma == 0:
            raise UsageError(
                "recipe: term 'dist' has gamma 0, and with two classes the correlation over classes is 1 or -1 "
                "whatever the network says; set gamma above 0"
            )

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """How far the student's probabilities are from rising and falling with those of all teachers together."""
        found = dist_loss(
            step.pair.student.logits,
            step.together(self.temperature),
            temperature=self.temperature,
            beta=self.beta,
            gamma=self.gamma,
            weight=step.trust,
        )
        return {"dist": found}
