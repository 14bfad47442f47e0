"""Projected features learn the teacher's normalised ones, after Romero et al., "FitNets", ICLR 2015."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import TaskKind
from mmkd_models.losses.layers import LayerTerm, check_token_counts, on_students_tokens, valid_tokens
from mmkd_models.losses.term import Pair, TrainingStep, weighted_mean


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
    return weighted_mean(total / tokens.clamp(min=1.0), (tokens > 0).float())


class FeatureTerm(LayerTerm, frozen=True, kw_only=True, tag="feature"):
    """Projected hidden states or embedding learn the teacher's."""

    level: Literal["hidden", "embedding"] = "hidden"

    def compares_layers(self) -> bool:
        """Return whether hidden states are compared."""
        return self.level == "hidden"

    def check(self, *, kind: TaskKind, classes: int | None) -> None:
        """Raise UsageError for layers of an embedding."""
        if self.level == "embedding" and self.layers != 1:
            raise self.refusal("no layers with level 'embedding', which has none", f"{self.layers!r}; leave them out")

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raise UsageError for tokens without common time."""
        if self.level == "embedding":
            return
        for (own, other), (student, teacher) in zip(self._pairs(pair), self._vectors(pair), strict=True):
            tied = f"{tuple(student[0].shape)} of student layer {own} and {tuple(teacher[0].shape)} of teacher layer"
            check_token_counts(f"recipe: term 'feature': {tied} {other}", student.shape[1], teacher.shape[1])

    def head(self, pair: Pair) -> nn.ModuleList:
        """Return linear projectors to the teacher's width, one per layer pair; never exported."""
        widths = [(student.shape[-1], teacher.shape[-1]) for student, teacher in self._vectors(pair)]
        return nn.ModuleList(nn.Linear(*pair) for pair in widths)

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """Return the mean over layer pairs."""
        losses = []
        for (student, teacher), project in zip(self._vectors(step.pair), cast("nn.ModuleList", head), strict=True):
            if self.level == "embedding":
                losses.append(feature_loss(project, student[:, None], teacher[:, None]))
                continue
            length = student.shape[1]
            target = on_students_tokens(teacher, step.pair, length)
            valid = valid_tokens(step.pair.student, length, student)
            losses.append(feature_loss(project, student, target, valid=valid))
        return {"feature": torch.stack(losses).mean()}

    def _pairs(self, pair: Pair) -> list[tuple[int, int]]:
        others = pair.teacher.hidden.get(pair.modality, ())
        return self.tied(pair, ("hidden states", pair.student.hidden), ("hidden states", others))

    def _vectors(self, pair: Pair) -> list[tuple[Tensor, Tensor]]:
        if self.level == "embedding":
            return [(pair.student.embedding, pair.teacher.embedding)]
        hidden = pair.teacher.hidden.get(pair.modality, ())
        return [(pair.student.hidden[own], hidden[other]) for own, other in self._pairs(pair)]
