"""Means over windows and tokens that count differently, and tokens brought to another number of them.

Two networks cut the same window into different numbers of time tokens. Every token stands for an equal stretch of the
window, so which tokens share which time follows from the two lengths alone.
"""

from __future__ import annotations

import torch
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
    """
    if valid is None:
        return weighted_mean(tokens.mean(-1), weight)
    valid = valid.float()
    per_window = (tokens * valid).sum(-1) / valid.sum(-1).clamp(min=1.0)
    some = (valid.sum(-1) > 0).float()
    return weighted_mean(per_window, some if weight is None else some * weight)


def common_time(source: int, target: int, *, device: torch.device | None = None) -> Tensor:
    """Gives the (source, target) stretches that two cuts of one window have in common, float32.

    The unit is 1 / (source * target) of the window, so a row sums to `target` and a column to `source`.

    Example:
        >>> common_time(2, 3).tolist()
        [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    ours = torch.arange(source, device=device)[:, None] * target
    theirs = torch.arange(target, device=device)[None, :] * source
    common = torch.minimum(ours + target, theirs + source) - torch.maximum(ours, theirs)
    return common.clamp(min=0).float()


def resampled(tokens: Tensor, valid: Tensor, *, length: int, extra: int) -> tuple[Tensor, Tensor]:
    """Averages time tokens onto another number of them; summary tokens stay as they are.

    A new token is the mean, by common time, of the valid tokens that it overlaps.

    Args:
        tokens: (B, L + extra, D).
        valid: (B, L + extra) 1 for tokens with samples behind them, else 0.
        length: time tokens wanted.
        extra: summary tokens after the time tokens.

    Returns:
        (B, length + extra, D) float32, and their validity (B, length + extra).
    """
    tokens, valid = tokens.float(), valid.float()
    own = tokens.shape[1] - extra
    if own == length:
        return tokens, valid
    share = common_time(own, length, device=tokens.device).T / own  # (length, L), rows sum to 1
    with torch.autocast(tokens.device.type, enabled=False):  # a matmul would run in half precision
        total = share @ (tokens[:, :own] * valid[:, :own, None])  # (B, length, D)
        weight = valid[:, :own] @ share.T  # (B, length)
    time = total / weight.clamp(min=1e-6)[..., None]
    kept = torch.cat([(weight > 0).float(), valid[:, own:]], dim=1)
    return torch.cat([time, tokens[:, own:]], dim=1), kept
