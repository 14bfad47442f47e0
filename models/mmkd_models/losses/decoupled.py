"""DKD: the target class and the other classes taught apart.

Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, section 3:
KL = TCKD + (1 - p_target) NCKD, and DKD = alpha TCKD + beta NCKD, so that a teacher that is sure of the target no
longer silences what it says about the others. Both parts are multiplied by T^2, as in the authors' code (mdistiller,
`DKD.py`). That code hides the target by subtracting 1000 from its logit; here the target is left out, which is the same
in exact arithmetic and safe for logits of any size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.weighting import weighted_mean


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Gives T^2 (alpha * TCKD + beta * NCKD), mean over the batch, in float32.

    With two classes there is one other class: NCKD is 0, and TCKD is the whole divergence of `kl_loss`.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        target: (B,) int64 class that is taught apart: the label, or what the teacher takes for it.
        temperature: T > 0.
        alpha: weight of the target class against all others together.
        beta: weight of the others among themselves.
        weight: (B,) trust in each row.
    """
    student = _parts(student_logits.float() / temperature, target)
    teacher = _parts(teacher_logits.detach().float() / temperature, target)
    of_target, of_others = (_divergence(t, s) for t, s in zip(teacher, student, strict=True))
    return weighted_mean(alpha * of_target + beta * of_others, weight) * temperature**2


def _parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, all others together), (B, 2), and of the others among themselves, (B, K - 1)."""
    batch, classes = logits.shape
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, target[:, None], True)
    others = logits[~chosen].view(batch, classes - 1)
    pair = torch.cat([logits.gather(1, target[:, None]), others.logsumexp(-1, keepdim=True)], dim=1)
    return torch.log_softmax(pair, dim=-1), torch.log_softmax(others, dim=-1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1)  # (B,)
