"""Relations: how alike the tokens of a window are, in queries, keys or values.

Source: Wang, Bao, Huang, Dong, Wei, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing
Pretrained Transformers", Findings of ACL 2021, section 3: the vectors of all heads side by side are split anew into
relation heads, R = softmax(X X^T / sqrt(D / heads)), and the loss is KL(R_teacher || R_student), mean over relation
heads and tokens. A relation is (L, L) on the tokens it is made of, so neither widths nor attention heads nor the keys
of a cross-attention have to agree. Here the rows and columns of tokens without samples are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmkd_models.losses.weighting import mean_over_tokens

_MASKED = -1e4  # additive score of a missing token: finite, so that a window without any token stays finite


def relation_loss(
    student: Tensor, teacher: Tensor, *, heads: int, valid: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Gives KL(R_teacher || R_student), mean over relation heads and valid tokens, then over windows; float32.

    Args:
        student: (B, L, D_S) queries, keys or values, heads side by side.
        teacher: (B, L, D_T) the same of the teacher; no gradient flows into it.
        heads: relation heads; divides D_S and D_T.
        valid: (B, L) 1 for tokens with samples behind them, else 0; all where None.
        weight: (B,) trust in each window.

    Raises:
        ValueError: the token counts differ, or a width is no multiple of `heads`.
    """
    if student.shape[1] != teacher.shape[1] or student.shape[-1] % heads or teacher.shape[-1] % heads:
        raise ValueError(
            f"relations: expected as many tokens on both sides and widths that are multiples of {heads} heads, got "
            f"(B, L, D)={tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher"
        )
    with torch.autocast(student.device.type, enabled=False):
        ours = _log_relation(student.float(), heads, valid)  # (B, H, L, L)
        theirs = _log_relation(teacher.detach().float(), heads, valid)
        rows = (theirs.exp() * (theirs - ours)).sum(-1).mean(1)  # (B, L)
        return mean_over_tokens(rows, valid, weight)


def _log_relation(vectors: Tensor, heads: int, valid: Tensor | None) -> Tensor:
    batch, length, width = vectors.shape
    split = vectors.reshape(batch, length, heads, width // heads).transpose(1, 2)  # (B, H, L, D / H)
    scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    if valid is not None:
        scores = scores + (1 - valid.float())[:, None, None, :] * _MASKED
    return torch.log_softmax(scores, dim=-1)
