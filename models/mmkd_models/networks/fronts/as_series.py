"""Sound as log-mels and video as the brightness of a grid of cells, series for trees and convolutional features."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalityKind, ModalitySpec
from mmkd_models.networks.fronts.log_mel import LogMels

_CELLS = 8  # cells of a side of the grid; fewer if a frame has fewer pixels


class _SoundAsSeries(nn.Module):
    """(B, T, C) and presence -> log-mels (B, N, C M) and presence."""

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.mels = LogMels(modality)
        self.ones = nn.Buffer(torch.ones(1, self.mels.count), persistent=False)
        self.spec = _series(modality, self.mels.positions, len(modality.channels) * self.mels.count)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        present = present.transpose(1, 2)
        mels, presence = self.mels(values.transpose(1, 2) * present, present)
        presence = presence[..., None] @ self.ones  # (B, C, N, M)
        return (mels * presence).transpose(1, 2).flatten(2), presence.transpose(1, 2).flatten(2)


class _VideoAsSeries(nn.Module):
    """(B, T, H, W, C) and presence (B, T, 1) -> means of a grid's cells (B, T, cells) and presence."""

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        _, height, width, _ = modality.shape
        self.frame = (modality.samples, height, width)
        self.down, self.across = (nn.Buffer(_cells(pixels), persistent=False) for pixels in (height, width))
        cells = len(self.down) * len(self.across)
        self.ones = nn.Buffer(torch.ones(1, cells), persistent=False)
        self.spec = _series(modality, modality.samples, cells)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        samples, height, width = self.frame
        gray = values.to(present.dtype).mean(-1).reshape(-1, height, width)
        cells = (self.down @ gray @ self.across.T).reshape(-1, samples, self.spec.shape[1])
        presence = present @ self.ones  # not `expand`, which devices refuse
        return cells * presence, presence


class _SeriesAsSeries(nn.Module):
    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.spec = modality

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        return values, present


_SeriesView = _SeriesAsSeries | _SoundAsSeries | _VideoAsSeries
_VIEWS: dict[ModalityKind, type[_SeriesView]] = {
    "series": _SeriesAsSeries,
    "audio": _SoundAsSeries,
    "video": _VideoAsSeries,
}


def series_view(modality: ModalitySpec) -> _SeriesView:
    """Return the module that turns a modality into the series `spec`, (B, T, C)."""
    return _VIEWS[modality.kind](modality)


def _series(modality: ModalitySpec, samples: int, channels: int) -> ModalitySpec:
    return msgspec.structs.replace(
        modality,
        kind="series",
        channels=tuple(str(number) for number in range(channels)),
        samples=samples,
        rate_hz=samples / modality.duration_s,
        height=None,
        width=None,
    )


def _cells(pixels: int) -> Tensor:
    count = min(_CELLS, pixels)
    matrix = np.zeros((count, pixels), dtype=np.float32)
    matrix[np.arange(pixels) * count // pixels, np.arange(pixels)] = 1.0
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True))
