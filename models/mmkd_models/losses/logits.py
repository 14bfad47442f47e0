"""Distillation of outputs: Kullback-Leibler divergence at a temperature (Hinton, Vinyals, Dean, 2015), DKD and DIST.

Several labels are K binary problems: Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, section 3.2.

DKD, decoupled knowledge distillation: Zhao et al., CVPR 2022, section 3. KL = TCKD + (1 - p_target) NCKD, and DKD =
alpha TCKD + beta NCKD, both times T^2 as in the authors' code.

DIST: the student's probabilities correlate with the teacher's (Huang et al., "Knowledge Distillation from A Stronger
Teacher", NeurIPS 2022, section 4): beta (1 - rho) of windows (rows) plus gamma (1 - rho) of classes (columns), rho
Pearson's correlation of probabilities at temperature tau, times tau^2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.task import DELTA, huber_loss
from mmkd_models.losses.term import Factor, Goal, OutputTerm, Temperature, TrainingStep

_TINY = 1e-8  # added to sums of squares: a class never named must have no gradient


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), batch mean, in float32."""
    student = torch.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = torch.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean() * temperature**2


def multilabel_kl_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T))), mean over labels and batch."""
    student, teacher = student_logits.float() / temperature, teacher_logits.detach().float() / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).mean(-1).mean() * temperature**2


def pearson_loss(values: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - Pearson's correlation of (B,) numbers over the batch; 0 for a batch of one."""
    if len(values) < 2:
        return values.float().sum() * 0.0
    return 1 - correlation(values.float()[None], teacher.detach().float()[None])[0]


def regression_loss(values: Tensor, teacher: Tensor) -> Tensor:
    """Return Huber's plus Pearson's loss of (B,) numbers in standard deviations."""
    return huber_loss(values, teacher, delta=DELTA) + pearson_loss(values, teacher)


def logit_loss(goal: Goal, student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the loss against a teacher; a regression has no temperature."""
    match goal.kind:
        case "classification":
            return kl_loss(student, teacher, temperature=temperature)
        case "multi_label":
            return multilabel_kl_loss(student, teacher, temperature=temperature)
        case "regression" | "normal":  # no loss is asked of the latter
            return regression_loss(student[:, 0] / goal.spread, teacher[:, 0] / goal.spread)


class LogitTerm(OutputTerm, frozen=True, kw_only=True, tag="logit"):
    """Kullback-Leibler divergence from the teacher's outputs at `temperature`.

    Several labels have a mean divergence; a regression has Huber's loss and correlation, and no temperature.
    """

    temperature: Temperature = 2.0

    def loss(self, step: TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the divergence from all teachers together."""
        teacher = step.together(self.temperature)
        return logit_loss(step.goal, step.pair.student.logits, teacher, temperature=self.temperature)


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
