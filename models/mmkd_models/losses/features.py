"""Distillation of hidden states: projected features, and relations between the tokens of a window.

Features: the teacher's normalised ones are learnt, after Romero et al., "FitNets", ICLR 2015. Relations: Wang et al.,
"MiniLMv2", Findings of ACL 2021, section 3: R = softmax(X X^T / sqrt(D / heads)) of each relation head; the loss is
KL(R_teacher || R_student). Widths and attention heads may differ.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from mmkd_models.losses import term
from mmkd_models.networks.layers import MASKED


def feature_loss(project: nn.Module, student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return the mean square of projected student (B, L, D_S) minus normalised teacher (B, L, D_T), in float32.

    Teacher tokens get mean 0 and variance 1 over channels, and no gradient.
    """
    with torch.autocast(student.device.type, enabled=False):
        target = F.layer_norm(teacher.detach().float(), teacher.shape[-1:])
        difference = project(student.float()) - target
        if valid is not None:
            difference = difference * valid.float()[..., None]
        total: Tensor = difference.square().mean(-1).sum(-1)  # (B,)
    tokens = torch.full_like(total, student.shape[1]) if valid is None else valid.float().sum(-1)
    return term.weighted_mean(total / tokens.clamp(min=1.0), (tokens > 0).float())


class FeatureTerm(term.LayerTerm, frozen=True, kw_only=True, tag="feature"):
    """Projected hidden states or embedding learn the teacher's."""

    level: Literal["hidden", "embedding"] = "hidden"

    def compares_layers(self) -> bool:
        """Return whether hidden states are compared."""
        return self.level == "hidden"

    def head(self, pair: term.Pair) -> nn.ModuleList:
        """Return linear projectors to the teacher's width, one per layer pair; never exported."""
        return nn.ModuleList(nn.Linear(own.shape[-1], other.shape[-1]) for own, other in self._vectors(pair))

    def loss(self, step: term.TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the mean over layer pairs."""
        losses = []
        for (student, teacher), project in zip(self._vectors(step.pair), cast("nn.ModuleList", head), strict=True):
            target = term.on_students_tokens(teacher, step.pair, student.shape[1])
            valid = term.valid_tokens(step.pair.student, student) if self.level == "hidden" else None
            losses.append(feature_loss(project, student, target, valid=valid))
        return torch.stack(losses).mean()

    def _vectors(self, pair: term.Pair) -> list[tuple[Tensor, Tensor]]:
        if self.level == "embedding":
            return [(pair.student.embedding[:, None], pair.teacher.embedding[:, None])]
        return self.tied(pair.student.hidden, pair.teacher.hidden.get(pair.modality, ()))


Vectors = Literal["query", "key", "value"]


def relation_loss(student: Tensor, teacher: Tensor, *, heads: int, valid: Tensor | None = None) -> Tensor:
    """Return KL(R_teacher || R_student), mean over relation heads and valid tokens, then over windows; float32.

    Student (B, L, D_S) and teacher (B, L, D_T) are queries, keys or values. Raises ValueError for different token
    counts, or a width that is no multiple of `heads`.
    """
    if student.shape[1] != teacher.shape[1] or student.shape[-1] % heads or teacher.shape[-1] % heads:
        raise ValueError(
            f"relations: expected as many tokens on both sides and widths that are multiples of {heads} heads, got "
            f"(B, L, D)={tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher"
        )
    with torch.autocast(student.device.type, enabled=False):
        own = _log_relation(student.float(), heads, valid)  # (B, H, L, L)
        target = _log_relation(teacher.detach().float(), heads, valid)
        rows = (target.exp() * (target - own)).sum(-1).mean(1)  # (B, L)
        return term.mean_over_tokens(rows, valid)


def _log_relation(vectors: Tensor, heads: int, valid: Tensor | None) -> Tensor:
    batch, length, width = vectors.shape
    split = vectors.reshape(batch, length, heads, width // heads).transpose(1, 2)  # (B, H, L, D / H)
    scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    if valid is not None:
        scores = scores + (1 - valid.float())[:, None, None, :] * MASKED
    return torch.log_softmax(scores, dim=-1)


class RelationTerm(term.LayerTerm, frozen=True, kw_only=True, tag="relation"):
    """How alike tokens are in queries, keys or values of the teacher's self-attention."""

    vectors: Annotated[tuple[Vectors, ...], Meta(min_length=1)] = ("query", "key", "value")
    heads: Annotated[int, Meta(ge=1)] = 8

    def loss(self, step: term.TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the mean over layer pairs and kinds of vectors."""
        pair, losses = step.pair, []
        for student, teacher in self.tied(pair.student.projections, pair.teacher.projections.get(pair.modality, ())):
            for kind in self.vectors:
                vectors: Tensor = getattr(student, kind)
                target = term.on_students_tokens(getattr(teacher, kind), pair, vectors.shape[1])
                valid = term.valid_tokens(pair.student, vectors)
                losses.append(relation_loss(vectors, target, heads=self.heads, valid=valid))
        return torch.stack(losses).mean()
