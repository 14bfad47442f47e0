"""The labels' own loss: cross-entropy against a label distribution (mixed labels included)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.weighting import weighted_mean


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Gives -sum_k targets_k log softmax(logits)_k, mean over the rows that count.

    Args:
        logits: (B, K).
        targets: (B, K), rows sum to 1 where `weight` is not 0.
        weight: (B,) 1 for labelled rows, 0 for the others.
    """
    rows = -(targets * torch.log_softmax(logits.float(), dim=-1)).sum(-1)  # (B,)
    return weighted_mean(rows, weight)
