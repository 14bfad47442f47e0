"""Distillation of outputs: Kullback-Leibler divergence at a temperature.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: the soft-target loss is
multiplied by T^2 so that its gradient keeps its size when T changes. Standardisation: Sun, Ren, Li, Wang, Cao, "Logit
Standardization in Knowledge Distillation", CVPR 2024, with the sample standard deviation of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.weighting import weighted_mean

_TINY = 1e-12  # under the root: the gradient of a constant row stays finite


def kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    standardise: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    """Gives T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Zero when both agree up to a constant shift, and when standardised also up to a scale. Works alike for two classes
    and for many; standardised it needs three.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        temperature: T > 0.
        standardise: compare z-scores over the classes, so that the student need not match the size of the logits.
        weight: (B,) trust in each row; rows of weight 0 teach nothing.

    Raises:
        ValueError: standardised logits of two classes, which carry nothing but a sign.
    """
    ours, theirs = student_logits.float(), teacher_logits.detach().float()
    if standardise:
        ours, theirs = standardised(ours), standardised(theirs)
    student = torch.log_softmax(ours / temperature, dim=-1)
    teacher = torch.log_softmax(theirs / temperature, dim=-1)
    rows = (teacher.exp() * (teacher - student)).sum(-1)  # (B,)
    return weighted_mean(rows, weight) * temperature**2


def standardised(logits: Tensor) -> Tensor:
    """Gives each row of (B, K) logits as z-scores over its classes; a constant row gives zeros.

    Raises:
        ValueError: fewer than three classes: with two the z-scores are always 0.707 and -0.707, whatever the logits.
    """
    if logits.shape[-1] < 3:
        raise ValueError(
            f"logits: expected three classes or more to standardise, got {logits.shape[-1]}; compare them as they are"
        )
    variance, mean = torch.var_mean(logits, dim=-1, keepdim=True)
    return (logits - mean) / (variance + _TINY).sqrt()
