"""Projected features learn the teacher's normalised ones, after Romero et al., "FitNets", ICLR 2015."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.term import LayerTerm, Pair, TrainingStep, on_students_tokens, valid_tokens, weighted_mean


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

    def head(self, pair: Pair) -> nn.ModuleList:
        """Return linear projectors to the teacher's width, one per layer pair; never exported."""
        return nn.ModuleList(nn.Linear(own.shape[-1], other.shape[-1]) for own, other in self._vectors(pair))

    def loss(self, step: TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the mean over layer pairs."""
        losses = []
        for (student, teacher), project in zip(self._vectors(step.pair), cast("nn.ModuleList", head), strict=True):
            target = on_students_tokens(teacher, step.pair, student.shape[1])
            valid = valid_tokens(step.pair.student, student) if self.level == "hidden" else None
            losses.append(feature_loss(project, student, target, valid=valid))
        return torch.stack(losses).mean()

    def _vectors(self, pair: Pair) -> list[tuple[Tensor, Tensor]]:
        if self.level == "embedding":
            return [(pair.student.embedding[:, None], pair.teacher.embedding[:, None])]
        return self.tied(pair.student.hidden, pair.teacher.hidden.get(pair.modality, ()))
