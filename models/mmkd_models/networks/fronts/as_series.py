"""Sound and video as series, for networks that read series alone: trees, convolutional features.

Sound becomes its log-mels, video the brightness of a grid of cells, frame by frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.log_mel import LogMels

CELLS = 8
"""Cells of a side of the grid; fewer if a frame has fewer pixels."""


class SoundAsSeries(nn.Module):
    """(B, T, C) and presence -> log-mels (B, N, C M) and presence."""

    ones: Tensor

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.mels = LogMels(modality)
        self.register_buffer("ones", torch.ones(1, self.mels.count), persistent=False)
        self.spec = _series(modality, self.mels.positions, len(modality.channels) * self.mels.count)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return values, 0 where a frame is missing, and presence, each (B, N, C M)."""
        present = present.transpose(1, 2)
        mels, there = self.mels(values.transpose(1, 2) * present, present)
        there = there[..., None] @ self.ones  # (B, C, N, M)
        return (mels * there).transpose(1, 2).flatten(2), there.transpose(1, 2).flatten(2)


class VideoAsSeries(nn.Module):
    """(B, T, H, W, C) and presence (B, T, 1) -> the mean of each cell of a grid (B, T, cells) and presence."""

    down: Tensor
    across: Tensor
    ones: Tensor

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        _, height, width, _ = modality.shape
        self.frame = (modality.samples, height, width)
        for name, pixels in (("down", height), ("across", width)):
            self.register_buffer(name, _cells(pixels), persistent=False)
        cells = len(self.down) * len(self.across)
        self.register_buffer("ones", torch.ones(1, cells), persistent=False)
        self.spec = _series(modality, modality.samples, cells)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return values, 0 where a frame is missing, and presence, each (B, T, cells)."""
        samples, height, width = self.frame
        gray = values.to(present.dtype).mean(-1).reshape(-1, height, width)
        cells = (self.down @ gray @ self.across.T).reshape(-1, samples, self.spec.shape[1])
        there = present @ self.ones  # not `expand`: a device refuses a graph that says how large a tensor is to become
        return cells * there, there


SeriesView = SoundAsSeries | VideoAsSeries


def series_view(modality: ModalitySpec) -> SeriesView | None:
    """Return what turns a modality's windows into a series; None for a series."""
    match modality.kind:
        case "series":
            return None
        case "audio":
            return SoundAsSeries(modality)
        case "video":
            return VideoAsSeries(modality)


def series_views(modalities: Sequence[ModalitySpec]) -> dict[str, SeriesView]:
    """Return those of modalities that are no series, by name."""
    views = {modality.name: series_view(modality) for modality in modalities}
    return {name: view for name, view in views.items() if view is not None}


def as_series(
    inputs: Mapping[str, tuple[Tensor, Tensor]], views: Mapping[str, nn.Module], name: str
) -> tuple[Tensor, Tensor]:
    """Return a modality's values and presence (B, T, C) as a series."""
    values, present = views[name](*inputs[name]) if name in views else inputs[name]
    return values, present


def series_spec(modality: ModalitySpec) -> ModalitySpec:
    """Return the series that windows of a modality become; a series itself."""
    view = series_view(modality)
    return modality if view is None else view.spec


def _series(modality: ModalitySpec, samples: int, channels: int) -> ModalitySpec:
    return msgspec.structs.replace(
        modality,
        kind="series",
        channels=tuple(str(number) for number in range(channels)),
        samples=samples,
        rate_hz=samples / modality.duration_s,
        height=msgspec.UNSET,
        width=msgspec.UNSET,
    )


def _cells(pixels: int) -> Tensor:
    """(cells, pixels): rows average neighbouring pixels, about as many each."""
    count = min(CELLS, pixels)
    matrix = np.zeros((count, pixels), dtype=np.float32)
    matrix[np.arange(pixels) * count // pixels, np.arange(pixels)] = 1.0
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True))
