"""What networks see of video: normalised frames and what changed in them, through one light stem for every frame.

The graph takes the camera's bytes: its first node makes numbers of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec

LEAST_PIXELS = 8
"""Of the shorter side of a frame."""

MOST_PIXELS = 1024
"""Of the longer side of a frame: further ones cost a device time, and a stem that ends with a few values of each
channel makes nothing of them."""

_WIDE_FROM = 48  # pixels from which on the first convolution makes a quarter of them
_LAST = 4  # pixels of the last map, at most
_FLAT = 1e-2  # variance below which a frame counts as flat, of the training's


class FrameFront(nn.Module):
    """Bytes and presence of the frames of a window -> an embedding of each frame, and summaries, all masked.

    Each frame is normalised by the training's mean and standard deviation (buffers, so that they travel in the graph)
    and then about its own mean and spread, so that a lamp or a camera's gain changes little. Beside it stands what
    changed since the frame before. Convolutions that all frames share, halving by halving, and one linear layer make an
    embedding of both.

    Args:
        width: D, of the embeddings.

    Attributes:
        positions: T, frames of a window.
        width: of the series.
        spectrum: values behind the spectrum token.
        statistics: values behind the statistics token.

    Raises UsageError where frames are too small or too large.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modality: ModalitySpec, width: int) -> None:
        super().__init__()
        _, height, across, channels = modality.shape
        if min(height, across) < LEAST_PIXELS or max(height, across) > MOST_PIXELS:
            raise UsageError(
                f"modality {modality.name!r}: expected frames of {LEAST_PIXELS} to {MOST_PIXELS} rows and columns, got "
                f"{height} rows of {across} pixels; import them at another size"
            )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.shape = (height, across, channels)
        self.stem, last = _stem(2 * channels, width, height, across)
        self.embed = nn.Linear(last, width)
        self.positions = modality.samples
        self.width = self.spectrum = width
        self.statistics = width + 3

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the views of a window.

        Args:
            values: (B, T, H, W, C) uint8, or numbers from 0 to 255 where frames are mixed in training.
            present: (B, T, 1).

        Returns:
            series (B, D, T): each frame's embedding; spectrum (B, D): its mean; statistics (B, D + 3): its mean
            absolute step, and the step, mean and spread of the brightness.
        """
        height, across, channels = self.shape
        local, level = self._normalised(values.to(present.dtype), present)
        pairs = present * _before(present)  # (B, T, 1)
        changed = (local - _before(local)) * pairs
        views = torch.stack([local, changed], dim=2).reshape(-1, 2 * channels, height, across)
        found = self.embed(self.stem(views).flatten(1)).reshape(-1, self.positions, self.width) * present
        return found.transpose(1, 2), *self._summaries(found, level * present, present)

    def presence(self, present: Tensor) -> Tensor:
        """(B, T, 1) -> (B, T)."""
        return present[..., 0]

    def _normalised(self, pixels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Frames about their own mean and spread, (B, T, C H W), and their brightness (B, T, 1).

        Every pass over the pixels counts: means and spreads are put together from those of the channels.
        """
        height, across, channels = self.shape
        if channels == 1:
            rows = pixels.reshape(-1, self.positions, 1, height * across)  # (B, T, C, H W)
        else:
            rows = pixels.reshape(-1, self.positions, height * across, channels).transpose(2, 3)
        mean = rows.mean(-1, keepdim=True)
        rows = rows - mean
        flat = rows.reshape(-1, 1, height * across)
        square = (flat @ flat.transpose(1, 2)).reshape(-1, self.positions, channels) / (height * across)
        levels = (mean[..., 0] - self.mean) / self.std  # (B, T, C)
        level = levels.mean(-1, keepdim=True)
        apart = levels - level
        variance = (square / (self.std * self.std) + apart * apart).mean(-1, keepdim=True)
        gain = present / (variance + _FLAT).sqrt()  # (B, T, 1)
        local = rows * (gain / self.std)[..., None]
        if channels > 1:  # of one channel the level is its own
            local = local + (apart * gain)[..., None]
        return local.flatten(2), level

    def _summaries(self, found: Tensor, level: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        count = present.sum(1).clamp(min=1.0)  # (B, 1)
        both = torch.cat([found, level], dim=-1)  # (B, T, D + 1)
        pairs = present[:, 1:] * present[:, :-1]
        steps = ((both[:, 1:] - both[:, :-1]).abs() * pairs).sum(1) / pairs.sum(1).clamp(min=1.0)
        mean = both.sum(1) / count
        rest = (level - mean[:, None, -1:]) * present
        spread = ((rest * rest).sum(1) / count + _FLAT).log() * 0.5
        return mean[:, :-1], torch.cat([steps, mean[:, -1:], spread], dim=-1)


def _before(rows: Tensor) -> Tensor:
    """(B, T, ...) one frame earlier; the first stands before itself."""
    return torch.cat([rows[:, :1], rows[:, :-1]], dim=1)


def _stem(channels: int, width: int, height: int, across: int) -> tuple[nn.Sequential, int]:
    """Convolutions until at most 4 x 4 pixels are left, and how many values that are.

    With ReLU, which engines compute inside a convolution; a GELU over so many values is a pass of its own.
    """
    layers: list[nn.Module] = []
    out = max(4, width // 4)
    while max(height, across) > _LAST:
        wide = not layers and min(height, across) >= _WIDE_FROM
        kernel, stride = (5, 4) if wide else (3, 2)
        layers += [nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2), nn.ReLU()]
        height, across = (-(-size // stride) for size in (height, across))
        channels, out = out, max(4, width // 2)
    return nn.Sequential(*layers), channels * height * across
