"""Numbers: how far the student is from a target or a teacher, and whether both rise and fall together.

Sources: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964: square near the
target, straight far away, so that an outlier pulls with a bounded force. Correlation over a batch's windows: Huang,
You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, there of class probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd_models.losses.correlation import weighted_correlation
from mmkd_models.losses.tokens import weighted_mean

DELTA = 1.0
"""Where the square of Huber's loss ends, in standard deviations of the target."""


def huber_loss(values: Tensor, targets: Tensor, *, delta: float, weight: Tensor | None = None) -> Tensor:
    """Gives d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = values - targets, mean over the rows.

    Args:
        targets: (B,) numbers, or a teacher's values; no gradient flows into them. Rows of weight 0 may be NaN.
        delta: where the square ends, above 0, in the unit of the targets.
        weight: (B,) 1 for labelled rows, or the trust in each; rows of weight 0 teach nothing.
    """
    counted = torch.ones_like(values, dtype=torch.bool) if weight is None else weight > 0
    distance = torch.where(counted, values.float() - targets.detach().float(), 0.0).abs()
    rows = torch.where(distance <= delta, distance.square() / 2, delta * (distance - delta / 2))
    return weighted_mean(rows, weight)


def pearson_loss(values: Tensor, teacher: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Gives 1 - Pearson's correlation over the batch, 0 to 2; shift and scale do not matter.

    A batch with fewer than two rows that count has no correlation: the loss is 0 there.
    """
    trust = torch.ones_like(values, dtype=torch.float32) if weight is None else weight.float()
    if int((trust > 0).sum()) < 2:
        return values.float().sum() * 0.0
    return 1 - weighted_correlation(values.float()[None], teacher.detach().float()[None], trust[None])[0]


def regression_loss(
    values: Tensor, teacher: Tensor, *, delta: float, correlation: float, weight: Tensor | None = None
) -> Tensor:
    """Gives what a student of numbers learns from a teacher: Huber plus `correlation` times Pearson.

    Args:
        delta: as in `huber_loss`.
        correlation: weight of the correlation, 0 or more.
    """
    near = huber_loss(values, teacher, delta=delta, weight=weight)
    return near + correlation * pearson_loss(values, teacher, weight=weight)
