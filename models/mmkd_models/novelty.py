"""Centres of training embeddings, and the distance from the nearest in standard deviations (docs/decisions/023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd_edge.bundle.manifest import MAX_NOVELTY_WINDOWS
from mmkd_edge.errors import CheckpointError

MAX_CENTRES = 64


@dataclass(frozen=True, kw_only=True)
class TrainingEmbeddings:
    """Centres and scale of the training embeddings, float32."""

    scale: Tensor  # (D,) factors of the features; the score of training windows is then about 1
    shift: Tensor  # (D,) added after that
    centres: Tensor  # (C, D) of the scaled embeddings
    scores: Tensor  # (N,) of validation windows, rising


class NoveltyScore(nn.Module):
    """Squared distance of an embedding from the nearest centre, in float32."""

    def __init__(self, embeddings: TrainingEmbeddings) -> None:
        super().__init__()
        scale, shift, centres = embeddings.scale.double(), embeddings.shift.double(), embeddings.centres.double()
        self.middle = nn.Buffer((-shift / scale).float())
        self.squares = nn.Buffer(scale.square().float()[:, None])
        self.weight = nn.Buffer((-2.0 * scale[:, None] * centres.T).float().contiguous())
        self.bias = nn.Buffer(centres.square().sum(1).float())

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D) -> (B, 1): s^2 z^2 - 2 s z c + |c|^2 of the nearest c; z is the embedding minus the middle."""
        apart = embedding - self.middle
        nearest = torch.addmm(self.bias, apart, self.weight).amin(dim=-1, keepdim=True)
        return torch.relu(torch.addmm(nearest, apart * apart, self.squares))


def embedding_tensors(embeddings: TrainingEmbeddings) -> dict[str, Tensor]:
    """Return the tensors that a file stores."""
    return {field.name: getattr(embeddings, field.name) for field in fields(embeddings)}


def embeddings_from_tensors(tensors: Mapping[str, Tensor], *, width: int, path: Path) -> TrainingEmbeddings:
    """Return training embeddings of `width` values; raise CheckpointError for other tensors."""
    names = [field.name for field in fields(TrainingEmbeddings)]
    values = {name: tensors.get(name, torch.empty(0)) for name in names}
    centres, scores = len(values["centres"]), len(values["scores"])
    shapes = {"scale": (width,), "shift": (width,), "centres": (centres, width), "scores": (scores,)}
    sound = (
        set(tensors) == set(names)
        and 1 <= centres <= MAX_CENTRES
        and 1 <= scores <= MAX_NOVELTY_WINDOWS
        and all(tensor.dtype == torch.float32 and tensor.shape == shapes[name] for name, tensor in values.items())
        and all(bool(torch.isfinite(tensor).all()) for tensor in values.values())
        and bool((values["scores"] >= 0).all() and (values["scores"].diff() >= 0).all())
    )
    if not sound:
        got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(tensors.items()))
        raise CheckpointError(
            f"{path}: novelty: expected finite float32 scale and shift ({width},), centres (1 to {MAX_CENTRES}, "
            f"{width}) and rising scores, got {got}; the file was altered"
        )
    return TrainingEmbeddings(**values)
