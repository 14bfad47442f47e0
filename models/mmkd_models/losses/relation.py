"""Relations between the tokens of a window: Wang et al., "MiniLMv2", Findings of ACL 2021, section 3.

R = softmax(X X^T / sqrt(D / heads)) of each relation head; the loss is KL(R_teacher || R_student). Widths and attention
heads may differ.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.layers import LayerTerm, check_token_counts, mean_over_tokens, on_students_tokens, valid_tokens
from mmkd_models.losses.term import Pair, TrainingStep
from mmkd_models.networks.layers import MASKED

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
        return mean_over_tokens(rows, valid)


def _log_relation(vectors: Tensor, heads: int, valid: Tensor | None) -> Tensor:
    batch, length, width = vectors.shape
    split = vectors.reshape(batch, length, heads, width // heads).transpose(1, 2)  # (B, H, L, D / H)
    scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    if valid is not None:
        scores = scores + (1 - valid.float())[:, None, None, :] * MASKED
    return torch.log_softmax(scores, dim=-1)


class RelationTerm(LayerTerm, frozen=True, kw_only=True, tag="relation"):
    """How alike tokens are in queries, keys or values of the teacher's self-attention."""

    vectors: tuple[Vectors, ...] = ("query", "key", "value")
    heads: int = 8

    def check(self, *, kind: TaskKind, classes: int | None) -> None:
        """Raise UsageError for impossible heads or vectors."""
        if self.heads < 1 or not self.vectors or len(set(self.vectors)) != len(self.vectors):
            expected = "heads >= 1 and one or more of query, key and value, each once"
            raise self.refusal(expected, f"{self.heads} and {list(self.vectors)}; correct them")

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raise UsageError for tokens without common time, or widths the heads cannot split."""
        for own, other in self._pairs(pair):
            sides = pair.student.projections[own], pair.teacher.projections[pair.modality][other]
            for kind in self.vectors:
                student, teacher = (tuple(getattr(side, kind)[0].shape) for side in sides)
                tied = (
                    f"recipe: term 'relation': {kind} vectors (L, D)={student} of student layer {own} and "
                    f"{teacher} of teacher layer {other}"
                )
                check_token_counts(tied, student[0], teacher[0])
                width = math.gcd(student[-1], teacher[-1])
                if width % self.heads:
                    fitting = ", ".join(str(heads) for heads in range(1, width + 1) if width % heads == 0)
                    raise UsageError(f"{tied} cannot both be split into {self.heads} heads; choose one of {fitting}")

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """Return the mean over layer pairs and kinds of vectors."""
        pair, losses = step.pair, []
        for own, other in self._pairs(pair):
            student, teacher = pair.student.projections[own], pair.teacher.projections[pair.modality][other]
            for kind in self.vectors:
                vectors: Tensor = getattr(student, kind)
                valid = valid_tokens(pair.student, vectors.shape[1], vectors)
                target = on_students_tokens(getattr(teacher, kind), pair, vectors.shape[1])
                losses.append(relation_loss(vectors, target, heads=self.heads, valid=valid))
        return {"relation": torch.stack(losses).mean()}

    def _pairs(self, pair: Pair) -> list[tuple[int, int]]:
        others = pair.teacher.projections.get(pair.modality, ())
        return self.tied(pair, ("projections", pair.student.projections), ("projections", others))
