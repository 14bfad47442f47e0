"""Several teachers as one: the mean of their probabilities, or of their logits.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 1: the soft targets of an
ensemble are the arithmetic or the geometric mean of the members' predictive distributions. The first is the mean of the
probabilities at the temperature; the second, brought back to a sum of 1, is the softmax of the mean of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd_models.losses.goal import Goal
from mmkd_models.losses.term import Mix


def mixed_logits(logits: Sequence[Tensor], *, temperature: float, mix: Mix) -> Tensor:
    """Gives (B, K) logits z of all teachers together; those of a single teacher as they are.

    `probabilities`: softmax(z / T) is the mean of softmax(logits / T). `logits`: z is the mean, whatever T is.

    Args:
        logits: (B, K) of each teacher; no gradient flows into them.
        temperature: T > 0 at which z will be read.
    """
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack([one.detach().float() for one in logits])  # (M, B, K)
    if mix == "logits":
        return stacked.mean(0)
    log_probabilities = torch.log_softmax(stacked / temperature, dim=-1)
    return temperature * (torch.logsumexp(log_probabilities, dim=0) - math.log(len(logits)))


def mixed_label_logits(logits: Sequence[Tensor], *, temperature: float, mix: Mix) -> Tensor:
    """Gives (B, K) logits z of all teachers of several labels together; those of a single teacher as they are.

    `probabilities`: sigmoid(z / T) is the mean of sigmoid(logits / T). `logits`: z is the mean, whatever T is.
    Arguments as `mixed_logits`.
    """
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack([one.detach().float() for one in logits])  # (M, B, K)
    if mix == "logits":
        return stacked.mean(0)
    on, off = (torch.logsumexp(F.logsigmoid(sign * stacked / temperature), dim=0) for sign in (1, -1))
    return temperature * (on - off)


def together(goal: Goal, logits: Sequence[Tensor], *, temperature: float, mix: Mix) -> Tensor:
    """Gives (B, K) logits of all teachers together, to be read at this temperature; numbers are averaged."""
    if goal.kind == "multi_label":
        return mixed_label_logits(logits, temperature=temperature, mix=mix)
    return mixed_logits(logits, temperature=temperature, mix="logits" if goal.kind == "regression" else mix)
