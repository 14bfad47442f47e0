"""What training saw, as it travels with a student: centres of its embeddings, and how far a window is from them.

The distance to the nearest of a few centres, in standard deviations of each feature. A window whose embedding is near
none of them is unlike everything that was trained on. Labels play no part, so that every kind of task has it. Why not
Mahalanobis distances from classes: docs/decisions/023.

Owns the tensors, the checks of a file that has some, and the part of a graph that they become.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd_edge.bundle.manifest import MOST_NOVELTY_WINDOWS
from mmkd_edge.errors import CheckpointError

MOST_CENTRES = 64


@dataclass(frozen=True, kw_only=True)
class TrainingEmbeddings:
    """What training saw.

    Attributes:
        scale: (D,) float32 factors of an embedding's features; the score of training windows is then about 1.
        shift: (D,) float32, added after that.
        centres: (C, D) float32, of the embeddings that this gives.
        scores: (N,) float32 of validation windows, rising.
    """

    scale: Tensor
    shift: Tensor
    centres: Tensor
    scores: Tensor


class NoveltyScore(nn.Module):
    """The square distance of an embedding from the nearest centre; in float32 whatever the rest computes in."""

    middle: Tensor
    squares: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, seen: TrainingEmbeddings) -> None:
        super().__init__()
        scale, shift, centres = seen.scale.double(), seen.shift.double(), seen.centres.double()
        self.register_buffer("middle", (-shift / scale).float())
        self.register_buffer("squares", scale.square().float()[:, None])
        self.register_buffer("weight", (-2.0 * scale[:, None] * centres.T).float().contiguous())
        self.register_buffer("bias", centres.square().sum(1).float())

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D) -> (B, 1): s^2 z^2 - 2 s z c + |c|^2 of the nearest c, where z is the embedding from the middle.

        Two products, whatever the number of centres: in a small student it is operators that cost, not their size.
        """
        apart = embedding - self.middle
        nearest = torch.addmm(self.bias, apart, self.weight).amin(dim=-1, keepdim=True)
        return torch.relu(torch.addmm(nearest, apart * apart, self.squares))


def seen_tensors(seen: TrainingEmbeddings) -> dict[str, Tensor]:
    """Gives what a file keeps."""
    return {field.name: getattr(seen, field.name) for field in fields(seen)}


def seen_from(tensors: Mapping[str, Tensor], *, width: int, path: Path) -> TrainingEmbeddings:
    """Gives what training saw, from a file's tensors.

    Args:
        width: D, of the student's embeddings.

    Raises CheckpointError where they are not what `seen_tensors` gives.
    """
    names = [field.name for field in fields(TrainingEmbeddings)]
    found = {name: tensors.get(name, torch.empty(0)) for name in names}
    centres, scores = len(found["centres"]), len(found["scores"])
    shapes = {"scale": (width,), "shift": (width,), "centres": (centres, width), "scores": (scores,)}
    sound = (
        set(tensors) == set(names)
        and 1 <= centres <= MOST_CENTRES
        and 1 <= scores <= MOST_NOVELTY_WINDOWS
        and all(one.dtype == torch.float32 and one.shape == shapes[name] for name, one in found.items())
        and all(bool(torch.isfinite(one).all()) for one in found.values())
        and bool((found["scores"] >= 0).all() and (found["scores"].diff() >= 0).all())
    )
    if not sound:
        got = ", ".join(f"{name} {tuple(one.shape)}" for name, one in sorted(tensors.items()))
        raise CheckpointError(
            f"{path}: novelty: expected finite float32 scale and shift ({width},), centres (1 to {MOST_CENTRES}, "
            f"{width}) and rising scores, got {got}; the file was altered"
        )
    return TrainingEmbeddings(**found)
