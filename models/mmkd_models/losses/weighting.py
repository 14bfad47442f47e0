"""Means over a batch in which each row, and each token of a row, may count differently."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Gives the mean of (B,) rows weighted by (B,) weights >= 0; 0 when every weight is 0."""
    if weight is None:
        return rows.mean()
    return (rows * weight).sum() / weight.sum().clamp(min=1e-6)


def mean_over_tokens(tokens: Tensor, valid: Tensor | None, weight: Tensor | None) -> Tensor:
    """Gives the mean of (B, L) over the valid tokens of each window, then over the windows that have some.

    Args:
        tokens: (B, L), 0 or anything finite where not valid.
        valid: (B, L) 1 for tokens that count; all where None.
        weight: (B,) trust in each window.
    """
    if valid is None:
        return weighted_mean(tokens.mean(-1), weight)
    valid = valid.float()
    per_window = (tokens * valid).sum(-1) / valid.sum(-1).clamp(min=1.0)
    some = (valid.sum(-1) > 0).float()
    return weighted_mean(per_window, some if weight is None else some * weight)
