"""Distillation of outputs: Kullback-Leibler divergence at a temperature (Hinton, Vinyals, Dean, 2015, section 2).

Several labels are K binary problems: Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.correlation import correlation
from mmkd_models.losses.task import DELTA, huber_loss
from mmkd_models.losses.term import Goal, OutputTerm, Temperature, TrainingStep


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
        case "regression":
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
