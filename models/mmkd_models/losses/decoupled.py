"""DKD, decoupled knowledge distillation: Zhao et al., CVPR 2022, section 3.

KL = TCKD + (1 - p_target) NCKD, and DKD = alpha TCKD + beta NCKD, both times T^2 as in the authors' code. That code
subtracts 1000 from the target's logit; here it is omitted.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmkd_models.losses.term import Factor, OutputTerm, Temperature, TrainingStep


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Return T^2 (alpha * TCKD + beta * NCKD), batch mean, in float32; `target` is int64 (B,)."""
    student = _parts(student_logits.float() / temperature, target)
    teacher = _parts(teacher_logits.detach().float() / temperature, target)
    tckd, nckd = ((t.exp() * (t - s)).sum(-1) for t, s in zip(teacher, student, strict=True))  # (B,) each
    return (alpha * tckd + beta * nckd).mean() * temperature**2


def _parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, all others), (B, 2), and among the others, (B, K - 1)."""
    batch, classes = logits.shape
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, target[:, None], True)
    others = logits[~chosen].view(batch, classes - 1)
    pair = torch.cat([logits.gather(1, target[:, None]), others.logsumexp(-1, keepdim=True)], dim=1)
    return torch.log_softmax(pair, dim=-1), torch.log_softmax(others, dim=-1)


class DkdTerm(OutputTerm, frozen=True, kw_only=True, tag="dkd"):
    """The teacher's outputs with the true class (`alpha`) and the others among themselves (`beta`) taught apart."""

    temperature: Temperature = 2.0
    alpha: Factor = 1.0
    beta: Factor = 2.0
    needs_classes: ClassVar[bool] = True

    def loss(self, step: TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the loss; mixed windows use the larger label, unlabelled ones the teachers' answer."""
        batch, teacher = step.batch, step.together(self.temperature)
        target = torch.where(batch.labelled > 0, batch.targets.argmax(-1), teacher.argmax(-1))
        student = step.pair.student.logits
        return dkd_loss(student, teacher, target, temperature=self.temperature, alpha=self.alpha, beta=self.beta)
