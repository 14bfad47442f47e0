"""DKD: the target class and the other classes taught apart.

Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, section 3:
KL = TCKD + (1 - p_target) NCKD, and DKD = alpha TCKD + beta NCKD, so that a teacher that is sure of the target no
longer silences what it says about the others. Both parts are multiplied by T^2, as in the authors' code (mdistiller,
`DKD.py`). That code hides the target by subtracting 1000 from its logit; here the target is left out, which is the same
in exact arithmetic and safe for logits of any size.
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
        target: (B,) int64 class that is taught apart: the label, or what the teacher takes for it.
        alpha: weight of the target class against all others together.
        beta: weight of the others among themselves.
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


class DkdTerm(OutputTerm, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dkd"):
    """The teacher's outputs with the true class (`alpha`) and the others among themselves (`beta`) taught apart."""

    weight: Weight = constant(1.0)
    temperature: float = 2.0
    alpha: float = 1.0
    beta: float = 2.0

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for numbers that cannot be, or a task that has no classes to tell apart."""
        check_temperature(self, self.temperature)
        check_two_weights(self, ("alpha", "beta"), self.alpha, self.beta)
        check_exclusive_classes(self, kind)
        if classes == 2 and self.alpha == 0:
            raise UsageError(
                "recipe: term 'dkd' has alpha 0, and with two classes there is one other class, about which beta has "
                "nothing to teach; set alpha above 0"
            )

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """A mixed window's target is the larger label; a window without one has what the teachers take for it."""
        batch, teacher = step.batch, step.together(self.temperature)
        target = torch.where(batch.labelled > 0, batch.targets.argmax(-1), teacher.argmax(-1))
        found = dkd_loss(
            step.pair.student.logits,
            teacher,
            target,
            temperature=self.temperature,
            alpha=self.alpha,
            beta=self.beta,
            weight=step.trust,
        )
        return {"dkd": found}
