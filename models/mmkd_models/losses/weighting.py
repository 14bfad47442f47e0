"""The mean over a batch in which each row may count differently."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Gives the mean of (B,) rows weighted by (B,) weights >= 0; 0 when every weight is 0."""
    if weight is None:
        return rows.mean()
    return (rows * weight).sum() / weight.sum().clamp(min=1e-6)
