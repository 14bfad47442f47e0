"""EDAM: entropy distillation in attention maps.

The student's self-attention learns where the teacher looks: the teacher's cross-attention whose *query* is the
student's modality is the target of a cross-entropy, row by row. Idea: Agarwal et al., "From Multimodal to Unimodal
Attention in Transformers using Knowledge Distillation", AVSS 2021 (arXiv 2110.08270). Its method section was not
available to us; the form here is the mean-head attention cross-entropy known from TextBrewer (Yang et al., ACL 2020
demo, loss `att_ce_mean`), taken on probabilities. Unlike TextBrewer's it expects maps whose rows already sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_models.losses.timeline import common_time
from mmkd_models.losses.weighting import mean_over_tokens

EPSILON = 1e-6
"""Smallest probability under the logarithm; 1e-8 would be 0 in half precision."""


def edam_loss(
    student_map: Tensor, teacher_map: Tensor, *, valid_rows: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Gives the cross-entropy -sum_j A_T[i, j] log A_S[i, j], mean over valid rows i, then over the batch.

    It does not reach 0: its least value is the entropy of the teacher's rows. Report `edam_divergence` as progress.

    Args:
        student_map: (B, H_S, L, L) self-attention, rows sum to 1.
        teacher_map: aligned target (see `aligned_map`), rows sum to 1; no gradient flows into it. (B, L, L) teaches the
            mean of the student's heads, (B, H_S, L, L) each head.
        valid_rows: (B, L) 1 for query rows that count; all where None.
        weight: (B,) trust in each window.
    """
    target = teacher_map.detach().float()
    student = student_map.float() if target.ndim == 4 else student_map.float().mean(1)
    rows = -(target * student.clamp(min=EPSILON).log()).sum(-1)  # (B, L) or (B, H_S, L)
    return mean_over_tokens(_over_heads(rows), valid_rows, weight)


def edam_divergence(
    student_map: Tensor, teacher_map: Tensor, *, valid_rows: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Gives KL = cross-entropy - H(teacher), which is 0 when the maps agree; arguments as `edam_loss`."""
    target = teacher_map.detach().float()
    rows = -(target * target.clamp(min=EPSILON).log()).sum(-1)
    entropy = mean_over_tokens(_over_heads(rows), valid_rows, weight)
    return edam_loss(student_map, teacher_map, valid_rows=valid_rows, weight=weight) - entropy


def aligned_map(
    teacher_map: Tensor,
    *,
    source_lengths: Sequence[int],
    length: int,
    extra: int,
    valid_keys: Tensor | None = None,
    groups: int | None = None,
) -> Tensor:
    """Brings a teacher's cross-attention onto the student's own keys.

    The teacher's keys are, per source modality, its time tokens and then `extra` summary tokens. Every source covers
    the same stretch of time, so the attention of each time key is shared out over the student's time keys by the time
    they have in common, and the sources are added up: attention to a moment, whatever sensor showed it. Keys that the
    student cannot see are taken out, and rows brought back to a sum of 1; a row that loses everything stays 0.

    Args:
        teacher_map: (B, H, Lq, sum of (L_source + extra)).
        source_lengths: time tokens of each source, in key order.
        length: time tokens of the student.
        extra: summary tokens after the time tokens, of every source and of the student.
        valid_keys: (B, length + extra) 1 for keys that the student can see, else 0; all where None.
        groups: average neighbouring heads into so many groups, a divisor of H; all of them into one map where None.

    Returns:
        (B, Lq, length + extra) float32, or (B, groups, Lq, length + extra).

    Raises:
        ValueError: the map's keys are not those of the sources.
    """
    mean = _over_heads(teacher_map.float()) if groups is None else _grouped(teacher_map.float(), groups)
    total = mean.new_zeros(*mean.shape[:-1], length + extra)
    start = 0
    for source_length in source_lengths:
        time = mean[..., start : start + source_length]  # (..., Lq, L_source)
        summary = mean[..., start + source_length : start + source_length + extra]
        total = total + torch.cat([_shared_out(time, length), summary], dim=-1)
        start += source_length + extra
    if start != mean.shape[-1]:
        raise ValueError(
            f"teacher map: expected {start} keys from sources {list(source_lengths)}, got {mean.shape[-1]}"
        )
    if valid_keys is not None:
        keys = valid_keys.float()[:, None, :]  # (B, 1, keys)
        total = total * (keys if groups is None else keys[:, None])
    return total / total.sum(-1, keepdim=True).clamp(min=EPSILON)


def _over_heads(rows: Tensor) -> Tensor:
    """The mean over dimension 1 where there is one for heads: (B, H, L) or (B, H, Lq, Lk)."""
    return rows.mean(1) if rows.ndim > 2 else rows


def _grouped(heads: Tensor, groups: int) -> Tensor:
    """(B, H, Lq, Lk) -> (B, groups, Lq, Lk), the means of neighbouring heads."""
    batch, count, queries, keys = heads.shape
    return heads.reshape(batch, groups, count // groups, queries, keys).mean(2)


def _shared_out(time: Tensor, length: int) -> Tensor:
    """(..., Lq, L) -> (..., Lq, length), the sum of every row unchanged."""
    source_length = time.shape[-1]
    if source_length == length:
        return time
    with torch.autocast(time.device.type, enabled=False):  # a matmul would run in half precision
        return time @ (common_time(source_length, length, device=time.device) / length)
