"""EDAM: entropy distillation in attention maps.

The student's self-attention learns where the teacher looks: the teacher's cross-attention whose *query* is the
student's modality is the target of a cross-entropy, row by row. Idea: Agarwal et al., "From Multimodal to Unimodal
Attention in Transformers using Knowledge Distillation", AVSS 2021 (arXiv 2110.08270). Its method section was not
available to us; the form here is the mean-head attention cross-entropy known from TextBrewer (Yang et al., ACL 2020
demo, loss `att_ce_mean`), taken on probabilities. Unlike TextBrewer's it expects maps whose rows already sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.layers import (
    Layers,
    check_layers,
    check_shown,
    fusion_depth,
    layer_pairs,
    shape,
    student_depth,
    valid_tokens,
)
from mmkd_models.losses.term import MemberIndex, Mix, Pair, TrainingStep, Weight
from mmkd_models.losses.tokens import common_time, mean_over_tokens, resampled
from mmkd_models.networks.encoder import EXTRA_TOKENS
from mmkd_models.networks.teacher import TeacherOutput

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

    Raises ValueError where the map's keys are not those of the sources.
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


class EdamTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="edam"):
    """The student's self-attention learns the teacher's cross-attention, by the mean head or by groups of heads."""

    # A map shows where to look at first; the outputs decide the end.
    weight: Weight = Weight(start=0.5, end=0.0, until=0.6)
    layers: Layers = 1
    heads: Literal["mean", "group"] = "mean"
    member: MemberIndex = msgspec.UNSET

    def looks_into(self) -> MemberIndex:
        """Into the member's cross-attention."""
        return self.member

    def compares_layers(self) -> bool:
        """Attention layers."""
        return True

    def compares_vectors(self) -> bool:
        """No: maps alone."""
        return False

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Every task has attention."""

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Raises UsageError where a layer is named that is not there."""
        check_layers(self, self.layers, student=student, teacher=fusion, cross=True)

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raises UsageError for a causal student, heads that cannot be grouped, and keys of unknown origin."""
        if causal:
            raise UsageError(
                "recipe: term 'edam': expected a windowed student, got a causal one: its tokens attend to what came "
                "before them alone, and the teacher's maps look at the whole window; leave the term out"
            )
        for own_layer, other_layer in self._pairs(pair):
            own, other = pair.student.attention[own_layer], pair.teacher.cross_attention[pair.modality][other_layer]
            tied = (
                f"recipe: term 'edam': self-attention (H, L, L)={shape(own[0])} of student layer {own_layer} and "
                f"cross-attention (H, Lq, Lk)={shape(other[0])} of teacher layer {other_layer} cannot be tied"
            )
            self._check_maps(pair, own, other, tied)

    def head(self, pair: Pair, *, windows: int | None) -> None:
        """None: maps are compared as they are."""

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The mean over the pairs of layers, and its divergence, where another modality has a sample."""
        pair = step.pair
        others = [name for name in pair.teacher.valid if name != pair.modality]
        # Elsewhere the teacher's cross-attention says nothing.
        there = torch.stack([step.batch.inputs[name][1].amax((1, 2)) for name in others]).amax(0)  # (B,)
        weight = there if step.trust is None else there * step.trust
        losses, divergences = [], []
        for own, other in self._pairs(pair):
            ours, theirs = pair.student.attention[own], pair.teacher.cross_attention[pair.modality][other]
            valid = valid_tokens(pair.student, ours.shape[-1], ours)
            target = _on_students_map(
                theirs,
                pair.teacher,
                pair.modality,
                length=ours.shape[-1] - EXTRA_TOKENS,
                valid=valid,
                groups=ours.shape[1] if self.heads == "group" else None,
            )
            losses.append(edam_loss(ours, target, valid_rows=valid, weight=weight))
            divergences.append(edam_divergence(ours, target, valid_rows=valid, weight=weight).detach())
        return {"edam": torch.stack(losses).mean(), "edam_kl": torch.stack(divergences).mean()}

    def _pairs(self, pair: Pair) -> tuple[tuple[int, int], ...]:
        """(self-attention layer of the student, cross-attention layer of the teacher)."""
        depth = fusion_depth(pair.teacher, pair.modality)
        pairs = layer_pairs(self.layers, student=student_depth(pair.student), teacher=depth)
        maps = pair.teacher.cross_attention.get(pair.modality, ())
        check_shown(self, "attention maps", [own for own, _ in pairs], pair.student.attention, "student")
        check_shown(self, "cross-attention maps", [other for _, other in pairs], maps, "teacher")
        return pairs

    def _check_maps(self, pair: Pair, own: Tensor, other: Tensor, tied: str) -> None:
        if self.heads == "group" and other.shape[1] % own.shape[1]:
            raise UsageError(
                f"{tied} head by head, {other.shape[1]} is no multiple of {own.shape[1]}; set heads to 'mean'"
            )
        keys = sum(length + EXTRA_TOKENS for length in _source_lengths(pair.teacher, pair.modality))
        if pair.modality not in pair.teacher.valid or keys != other.shape[-1]:
            raise UsageError(
                f"{tied}: its keys are {other.shape[-1]}, and TeacherOutput.valid has {keys} tokens of modalities "
                f"other than {pair.modality!r}; give the validity of every modality's tokens, in the order of the keys"
            )


def _on_students_map(
    cross: Tensor, teacher: TeacherOutput, modality: str, *, length: int, valid: Tensor, groups: int | None
) -> Tensor:
    """(B, H, Lq, Lk) -> (B, length + 2, length + 2), or with heads in groups: rows and keys at the student's times."""
    target = aligned_map(
        cross,
        source_lengths=_source_lengths(teacher, modality),
        length=length,
        extra=EXTRA_TOKENS,
        valid_keys=valid,
        groups=groups,
    )
    if target.shape[-2] == length + EXTRA_TOKENS:
        return target
    rows = target.reshape(-1, *target.shape[-2:])
    there = teacher.valid[modality]
    owners = there.repeat_interleave(len(rows) // len(there), dim=0)
    found, _ = resampled(rows, owners, length=length, extra=EXTRA_TOKENS)
    return found.reshape(*target.shape[:-2], length + EXTRA_TOKENS, -1)


def _source_lengths(teacher: TeacherOutput, modality: str) -> list[int]:
    """Time tokens of the other modalities, in the order of a cross-attention's keys."""
    return [there.shape[1] - EXTRA_TOKENS for name, there in teacher.valid.items() if name != modality]
