"""Relations: how alike the tokens of a window are, in queries, keys or values.

Source: Wang, Bao, Huang, Dong, Wei, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing
Pretrained Transformers", Findings of ACL 2021, section 3: the vectors of all heads side by side are split anew into
relation heads, R = softmax(X X^T / sqrt(D / heads)), and the loss is KL(R_teacher || R_student), mean over relation
heads and tokens. A relation is (L, L) on the tokens it is made of, so neither widths nor attention heads nor the keys
of a cross-attention have to agree. Here the rows and columns of tokens without samples are left out.
"""

from __future__ import annotations

import math
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
    check_token_counts,
    fusion_depth,
    layer_pairs,
    on_students_tokens,
    shape,
    student_depth,
    teacher_depth,
    valid_tokens,
)
from mmkd_models.losses.term import MemberIndex, Mix, Pair, TrainingStep, Weight, constant, refused
from mmkd_models.losses.tokens import mean_over_tokens
from mmkd_models.networks.encoder import Projections

Vectors = Literal["query", "key", "value"]

_MASKED = -1e4  # additive score of a missing token: finite, so that a window without any token stays finite


def relation_loss(
    student: Tensor, teacher: Tensor, *, heads: int, valid: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Gives KL(R_teacher || R_student), mean over relation heads and valid tokens, then over windows; float32.

    Args:
        student: (B, L, D_S) queries, keys or values, heads side by side.
        teacher: (B, L, D_T) the same of the teacher; no gradient flows into it.
        heads: relation heads; divides D_S and D_T.

    Raises ValueError where the token counts differ, or a width is no multiple of `heads`.
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


class RelationTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="relation"):
    """How alike tokens are in queries, keys or values; `teacher` names the attention that teaches, self or cross."""

    weight: Weight = constant(1.0)
    layers: Layers = 1
    vectors: tuple[Vectors, ...] = ("query", "key", "value")
    heads: int = 8
    teacher: Literal["self", "cross"] = "self"
    member: MemberIndex = msgspec.UNSET

    def looks_into(self) -> MemberIndex:
        """Into the member's attention."""
        return self.member

    def compares_layers(self) -> bool:
        """Attention layers."""
        return True

    def compares_vectors(self) -> bool:
        """Of one window alone, which any teacher may turn as it likes."""
        return False

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for heads or vectors that cannot be."""
        if self.heads < 1 or not self.vectors or len(set(self.vectors)) != len(self.vectors):
            wanted = "heads >= 1 and one or more of query, key and value, each once"
            raise refused(self, wanted, f"{self.heads} and {list(self.vectors)}; correct them")

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Raises UsageError where a layer is named that is not there."""
        cross = self.teacher == "cross"
        check_layers(self, self.layers, student=student, teacher=fusion if cross else blocks, cross=cross)

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raises UsageError for tokens that have no time in common, and widths that cannot be split into the heads."""
        for own, other in self._pairs(pair):
            theirs = self._teaching(pair)[other]
            for kind in self.vectors:
                ours_shape, their_shape = (
                    shape(getattr(side, kind)[0]) for side in (pair.student.projections[own], theirs)
                )
                tied = (
                    f"recipe: term 'relation': {kind} vectors (L, D)={ours_shape} of student layer {own} and "
                    f"{their_shape} of teacher {self.teacher}-attention layer {other}"
                )
                self._check_vectors(kind, ours_shape, their_shape, tied)

    def head(self, pair: Pair, *, windows: int | None) -> None:
        """None: relations have no width."""

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The mean over the pairs of layers and the kinds of vectors."""
        pair, losses = step.pair, []
        for own, other in self._pairs(pair):
            ours, theirs = pair.student.projections[own], self._teaching(pair)[other]
            for kind in self.vectors:
                vectors: Tensor = getattr(ours, kind)
                valid = valid_tokens(pair.student, vectors.shape[1], vectors)
                target = on_students_tokens(getattr(theirs, kind), pair, vectors.shape[1])
                losses.append(relation_loss(vectors, target, heads=self.heads, valid=valid, weight=step.trust))
        return {"relation": torch.stack(losses).mean()}

    def _pairs(self, pair: Pair) -> tuple[tuple[int, int], ...]:
        """(self-attention layer of the student, layer of the teacher's attention that teaches)."""
        cross = self.teacher == "cross"
        depth = (fusion_depth if cross else teacher_depth)(pair.teacher, pair.modality)
        pairs = layer_pairs(self.layers, student=student_depth(pair.student), teacher=depth)
        what = "cross-attention projections" if cross else "projections"
        check_shown(self, "projections", [own for own, _ in pairs], pair.student.projections, "student")
        check_shown(self, what, [other for _, other in pairs], self._teaching(pair), "teacher")
        return pairs

    def _teaching(self, pair: Pair) -> tuple[Projections, ...]:
        """The projections of the attention that teaches, by layer."""
        found = pair.teacher.cross_projections if self.teacher == "cross" else pair.teacher.projections
        return found.get(pair.modality, ())

    def _check_vectors(self, kind: Vectors, ours: tuple[int, ...], theirs: tuple[int, ...], tied: str) -> None:
        if self.teacher == "cross" and kind != "query":
            raise UsageError(
                f"{tied} cannot be tied, since the teacher's belong to the tokens of other modalities; "
                "set vectors to query alone, or teacher to 'self'"
            )
        check_token_counts(tied, ours[0], theirs[0])
        width = math.gcd(ours[-1], theirs[-1])
        if width % self.heads:
            fitting = ", ".join(str(heads) for heads in range(1, width + 1) if width % heads == 0)
            raise UsageError(f"{tied} cannot both be split into {self.heads} heads; choose one of {fitting}")
