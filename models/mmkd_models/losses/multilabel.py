"""Several labels at once: each label is a question of its own, answered by the sigmoid of its own logit.

Source: Yang, Xie, Zong, Feng, Niu, Sugiyama, Huang, "Multi-Label Knowledge Distillation", ICCV 2023, section 3.2: the
K labels are taken as K binary problems, and each one's Bernoulli distribution is distilled (one versus all). A softmax
over labels that may hold together would make them compete. The temperature is that of Hinton, Vinyals, Dean, 2015.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd_models.losses.tokens import weighted_mean


def label_loss(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Gives the binary cross-entropy of each label, mean over the labels, then over the rows that count, in float32.

    Args:
        targets: (B, K) from 0 to 1: the labels, mixed ones included.
    """
    rows = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return weighted_mean(rows.mean(-1), weight)


def multilabel_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """Gives T^2 KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T))), mean over labels and batch.

    Its gradient is that of the binary cross-entropy against the teacher's probabilities; unlike that it is 0 where both
    agree. One label alone is enough.
    """
    ours, theirs = student_logits.float() / temperature, teacher_logits.detach().float() / temperature
    yes = theirs.sigmoid() * (F.logsigmoid(theirs) - F.logsigmoid(ours))
    no = (-theirs).sigmoid() * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
    return weighted_mean((yes + no).mean(-1), weight) * temperature**2
