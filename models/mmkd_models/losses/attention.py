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
        student_map: (B, H_S, L, L) self-attention, rows sum to 1; heads are averaged.
        teacher_map: (B, L, L) aligned target (see `aligned_map`), rows sum to 1; no gradient flows into it.
        valid_rows: (B, L) 1 for query rows that count; all where None.
        weight: (B,) trust in each window.
    """
    student = student_map.float().mean(1)
    target = teacher_map.detach().float()
    rows = -(target * student.clamp(min=EPSILON).log()).sum(-1)  # (B, L)
    return mean_over_tokens(rows, valid_rows, weight)


def edam_divergence(
    student_map: Tensor, teacher_map: Tensor, *, valid_rows: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Gives KL = cross-entropy - H(teacher), which is 0 when the maps agree; arguments as `edam_loss`."""
    target = teacher_map.detach().float()
    entropy = mean_over_tokens(-(target * target.clamp(min=EPSILON).log()).sum(-1), valid_rows, weight)
    return edam_loss(student_map, teacher_map, valid_rows=valid_rows, weight=weight) - entropy


def aligned_map(
    teacher_map: Tensor, *, source_lengths: Sequence[int], length: int, extra: int, valid_keys: Tensor | None = None
) -> Tensor:
    """Brings a teacher's cross-attention onto the student's own keys.

    The teacher's keys are, per source modality, its time tokens and then `extra` summary tokens. Every source covers
    the same stretch of time, so the attention of each time key is shared out over the student's time keys by the time
    they have in common, and the sources are added up: attention to a moment, whatever sensor showed it. Keys that the
    student cannot see are taken out, and rows brought back to a sum of 1; a row that loses everything stays 0.

    Args:
        teacher_map: (B, H, Lq, sum of (L_source + extra)); heads are averaged.
        source_lengths: time tokens of each source, in key order.
        length: time tokens of the student.
        extra: summary tokens after the time tokens, of every source and of the student.
        valid_keys: (B, length + extra) 1 for keys that the student can see, else 0; all where None.

    Returns:
        (B, Lq, length + extra) float32.

    Raises:
        ValueError: the map's keys are not those of the sources.
    """
    mean = teacher_map.float().mean(1)  # (B, Lq, keys)
    total = mean.new_zeros(*mean.shape[:2], length + extra)
    start = 0
    for source_length in source_lengths:
        time = mean[..., start : start + source_length]  # (B, Lq, L_source)
        summary = mean[..., start + source_length : start + source_length + extra]
        total = total + torch.cat([_shared_out(time, length), summary], dim=-1)
        start += source_length + extra
    if start != mean.shape[-1]:
        raise ValueError(
            f"teacher map: expected {start} keys from sources {list(source_lengths)}, got {mean.shape[-1]}"
        )
    if valid_keys is not None:
        total = total * valid_keys.float()[:, None, :]
    return total / total.sum(-1, keepdim=True).clamp(min=EPSILON)


def _shared_out(time: Tensor, length: int) -> Tensor:
    """(B, Lq, L) -> (B, Lq, length), the sum of every row unchanged."""
    source_length = time.shape[-1]
    if source_length == length:
        return time
    with torch.autocast(time.device.type, enabled=False):  # a matmul would run in half precision
        return time @ (common_time(source_length, length, device=time.device) / length)
