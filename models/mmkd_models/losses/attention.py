"""EDAM, entropy distillation in attention maps: the student's self-attention learns the teacher's cross-attention.

Agarwal et al., AVSS 2021 (arXiv 2110.08270), as TextBrewer's `att_ce_mean` (Yang et al., ACL 2020), on maps whose rows
sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkd_models.losses import term
from mmkd_models.networks.layers import EXTRA_TOKENS

EPSILON = 1e-6  # smallest probability under the logarithm; 1e-8 would be 0 in half precision


def edam_loss(
    student_map: Tensor, teacher_map: Tensor, *, valid_rows: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return KL(A_T || A_S) of maps, mean over valid rows and then over the batch.

    The student's map (B, H, L, L) is averaged over heads, the teacher's (B, L, L) is of `aligned_map`, and
    `valid_rows` (B, L) are 1 for query rows that count.
    """
    target, own = teacher_map.detach().float(), student_map.float().mean(1)
    rows = (target * (target.clamp(min=EPSILON).log() - own.clamp(min=EPSILON).log())).sum(-1)  # (B, L)
    return term.mean_over_tokens(rows, valid_rows, weight)


def aligned_map(
    teacher_map: Tensor, *, source_lengths: Sequence[int], length: int, valid_keys: Tensor | None = None
) -> Tensor:
    """Map a teacher's cross-attention, averaged over heads, onto the student's keys, (B, Lq, length + 2) float32.

    Time keys are divided by common time, sources added up. Rows are scaled to sum 1 over `valid_keys` (B, length + 2),
    or stay 0. The map is (B, H, Lq, sum of (L_source + 2)), with `source_lengths` in key order.

    Raises ValueError if the keys are not the sources'.
    """
    mean = teacher_map.float().mean(1)
    total = mean.new_zeros(*mean.shape[:-1], length + EXTRA_TOKENS)
    start = 0
    for source_length in source_lengths:
        time = mean[..., start : start + source_length]  # (B, Lq, L_source)
        summary = mean[..., start + source_length : start + source_length + EXTRA_TOKENS]
        if source_length != length:
            with torch.autocast(time.device.type, enabled=False):  # a matmul would run in half precision
                time = time @ (term.common_time(source_length, length, device=time.device) / length)
        total = total + torch.cat([time, summary], dim=-1)
        start += source_length + EXTRA_TOKENS
    if start != mean.shape[-1]:
        raise ValueError(
            f"teacher map: expected {start} keys from sources {list(source_lengths)}, got {mean.shape[-1]}"
        )
    if valid_keys is not None:
        total = total * valid_keys.float()[:, None, :]
    return total / total.sum(-1, keepdim=True).clamp(min=EPSILON)


class EdamTerm(term.LayerTerm, frozen=True, kw_only=True, tag="edam"):
    """The student's self-attention learns the teacher's cross-attention, heads averaged."""

    # A map shows where to look at first; the outputs decide the end.
    weight: term.Weight = term.Weight(start=0.5, end=0.0, until=0.6)

    def loss(self, step: term.TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the mean over layer pairs, for multimodal windows."""
        pair, teacher = step.pair, step.pair.teacher
        layers = self.tied(pair.student.attention, teacher.cross_attention.get(pair.modality, ()))
        others = [name for name in teacher.valid if name != pair.modality]
        if not others:
            raise ValueError(f"expected TeacherOutput.valid of modalities beside {pair.modality!r}, got none")
        # Elsewhere the teacher's cross-attention says nothing.
        there = torch.stack([step.batch.inputs[name][1].amax((1, 2)) for name in others]).amax(0)  # (B,)
        sources = [teacher.valid[name].shape[1] - EXTRA_TOKENS for name in others]
        losses = []
        for own, cross in layers:
            valid = term.valid_tokens(pair.student, own[:, 0])
            length = own.shape[-1] - EXTRA_TOKENS
            target = aligned_map(cross, source_lengths=sources, length=length, valid_keys=valid)
            target = term.on_students_tokens(target, pair, own.shape[-1])
            losses.append(edam_loss(own, target, valid_rows=valid, weight=there))
        return torch.stack(losses).mean()
