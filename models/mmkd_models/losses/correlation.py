"""DIST: the student's probabilities correlate with the teacher's, over classes and over windows.

Source: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, section 4: beta
times 1 - rho over the classes of each window (rows) plus gamma times 1 - rho over the windows of each class (columns),
rho Pearson's correlation of the probabilities at temperature tau, multiplied by tau^2 as in the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.weighting import weighted_mean

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
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        temperature: tau > 0.
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
