"""Distillation of outputs: Kullback-Leibler divergence at a temperature.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: the soft-target loss is
multiplied by T^2 so that its gradient keeps its size when T changes. Standardisation: Sun, Ren, Li, Wang, Cao, "Logit
Standardization in Knowledge Distillation", CVPR 2024, with the sample standard deviation of the authors' code.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.goal import Goal
from mmkd_models.losses.multilabel import multilabel_kl_loss
from mmkd_models.losses.regression import DELTA, regression_loss
from mmkd_models.losses.term import (
    Mix,
    OutputTerm,
    TrainingStep,
    Weight,
    check_exclusive_classes,
    check_temperature,
    constant,
)
from mmkd_models.losses.tokens import weighted_mean

_USUAL_TEMPERATURE = 2.0
_CORRELATION = 1.0  # weight of the correlation beside Huber's loss
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
        standardise: compare z-scores over the classes, so that the student need not match the size of the logits.

    Raises ValueError for standardised logits of two classes, which carry nothing but a sign.
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

    Raises ValueError for fewer than three classes: with two the z-scores are always 0.707 and -0.707, whatever the
    logits.
    """
    if logits.shape[-1] < 3:
        raise ValueError(
            f"logits: expected three classes or more to standardise, got {logits.shape[-1]}; compare them as they are"
        )
    variance, mean = torch.var_mean(logits, dim=-1, keepdim=True)
    return (logits - mean) / (variance + _TINY).sqrt()


def logit_loss(
    goal: Goal, student: Tensor, teacher: Tensor, *, temperature: float, standardise: bool, weight: Tensor | None
) -> Tensor:
    """Gives the loss against a teacher's outputs: divergence at a temperature, or Huber's plus the correlation's.

    Args:
        temperature: T > 0; a regression has none.
        standardise: compare z-scores over the classes; classification alone.
    """
    match goal.kind:
        case "classification":
            return kl_loss(student, teacher, temperature=temperature, standardise=standardise, weight=weight)
        case "multi_label":
            return multilabel_kl_loss(student, teacher, temperature=temperature, weight=weight)
        case "regression":
            ours, theirs = student[:, 0] / goal.spread, teacher[:, 0] / goal.spread
            return regression_loss(ours, theirs, delta=DELTA, correlation=_CORRELATION, weight=weight)


class LogitTerm(OutputTerm, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="logit"):
    """Kullback-Leibler divergence from the teacher's outputs at `temperature`; `standardise` compares z-scores.

    Of several labels each one's own divergence; of a regression Huber's loss and the correlation over the batch.
    """

    weight: Weight = constant(1.0)
    temperature: float = _USUAL_TEMPERATURE
    standardise: bool = False

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for a temperature that is none, or what the task cannot teach."""
        check_temperature(self, self.temperature)
        if self.standardise:
            check_exclusive_classes(self, kind, what=" with standardise", cure="set it to false")
        if self.standardise and classes == 2:
            raise UsageError(
                "recipe: term 'logit' cannot standardise the outputs of two classes: their z-scores are 0.707 and "
                "-0.707 whatever the network says; set standardise to false"
            )
        if self.standardise and mix == "probabilities":
            raise UsageError(
                "recipe: term 'logit' standardises logits, and mix 'probabilities' has none; set mix to 'logits'"
            )
        if kind == "regression" and self.temperature != _USUAL_TEMPERATURE:
            raise UsageError(
                f"recipe: term 'logit' has temperature {self.temperature}, which softens probabilities, and regression "
                "has none; leave it out"
            )

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The divergence from all teachers together."""
        found = logit_loss(
            step.goal,
            step.pair.student.logits,
            step.together(self.temperature),
            temperature=self.temperature,
            standardise=self.standardise,
            weight=step.trust,
        )
        return {"logit": found}
