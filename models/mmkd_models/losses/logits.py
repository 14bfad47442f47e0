"""Distillation of outputs: Kullback-Leibler divergence at a temperature.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: the soft-target loss is
multiplied by T^2 so that its gradient keeps its size when T changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.weighting import weighted_mean


def kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """Gives T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Zero when both agree up to a constant shift. Works alike for two classes and for many.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        temperature: T > 0.
        weight: (B,) trust in each row; rows of weight 0 teach nothing.
    """
    student = torch.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = torch.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    rows = (teacher.exp() * (teacher - student)).sum(-1)  # (B,)
    return weighted_mean(rows, weight) * temperature**2
