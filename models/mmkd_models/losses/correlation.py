"""DIST: the student's probabilities correlate with the teacher's, over classes and over windows.

Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, section 4: beta (1 - rho) of windows
(rows) plus gamma (1 - rho) of classes (columns), rho Pearson's correlation of probabilities at temperature tau, times
tau^2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmkd_models.losses.term import Factor, OutputTerm, Temperature, TrainingStep

_TINY = 1e-8  # added to sums of squares: a class never named must have no gradient


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, beta: float, gamma: float
) -> Tensor:
    """Return tau^2 (beta * rows + gamma * columns), in float32; no rows of two classes, no columns of one window."""
    student = torch.softmax(student_logits.float() / temperature, dim=-1)
    teacher = torch.softmax(teacher_logits.detach().float() / temperature, dim=-1)
    total = student.sum() * 0.0  # a batch without correlation has a gradient of zeros
    if student.shape[-1] > 2:
        total = total + beta * (1 - correlation(student, teacher)).mean()
    if len(student) > 1:
        total = total + gamma * (1 - correlation(student.T, teacher.T)).mean()
    return total * temperature**2


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of the rows of two (N, M) tensors, (N,)."""
    weight = torch.full(a.shape, 1 / a.shape[-1], device=a.device)
    a = a - (weight * a).sum(-1, keepdim=True)
    b = b - (weight * b).sum(-1, keepdim=True)
    squares = ((weight * a * a).sum(-1) + _TINY) * ((weight * b * b).sum(-1) + _TINY)
    return (weight * a * b).sum(-1) / squares.sqrt()


class DistTerm(OutputTerm, frozen=True, kw_only=True, tag="dist"):
    """Probabilities that correlate with the teacher's, over classes (`beta`) and over windows (`gamma`)."""

    temperature: Temperature = 1.0
    beta: Factor = 1.0
    gamma: Factor = 1.0
    needs_classes: ClassVar[bool] = True

    def loss(self, step: TrainingStep, head: nn.Module | None) -> Tensor:
        """Return 1 - correlation with the probabilities of all teachers."""
        student, teacher = step.pair.student.logits, step.together(self.temperature)
        return dist_loss(student, teacher, temperature=self.temperature, beta=self.beta, gamma=self.gamma)
