"""Video as normalised frames and their changes, through one light stem."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec

_MIN_PIXELS = 8  # least of the shorter side of a frame
_MAX_PIXELS = 1024
"""Most of the longer side of a frame: more cost time, and the stem ignores them."""

_WIDE_FROM = 48  # pixels for a first stride of 4
_LATE_FROM = 64  # pixels for changes of small maps
_LAST = 4  # pixels of the last map, at most
_FLAT = 1e-2  # variance of a flat frame, of the training's


class FrameFront(nn.Module):
    """Bytes and presence of a window's frames -> an embedding of each frame, and summaries, masked.

    Frames are normalised by the training's mean and std (buffers), then about their own, against lamps and gain, and
    embedded with their changes (Li et al., "TEA", CVPR 2020). Large frames go through convolutions of patches, since
    passes over pixels take most of the time.
    """

    def __init__(self, modality: ModalitySpec, width: int) -> None:
        super().__init__()
        _, height, across, channels = modality.shape
        if min(height, across) < _MIN_PIXELS or max(height, across) > _MAX_PIXELS:
            raise UsageError(
                f"modality {modality.name!r}: expected frames of {_MIN_PIXELS} to {_MAX_PIXELS} rows and columns, got "
                f"{height} rows of {across} pixels; import them at another size"
            )
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.shape = self.map = (channels, height, across)
        self.patches: nn.Sequential | None = None
        if min(height, across) >= _LATE_FROM:
            self.patches, self.map = _patches(self.shape, width)
        self.stem, last = _stem(self.map, width, of_pixels=self.patches is None)
        if self.patches is not None:
            # Weights that preserve variance (He et al., "Delving Deep into Rectifiers", ICCV 2015).
            for layer in (*self.patches, *self.stem):
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(cast("Tensor", layer.bias))
        self.positions = modality.samples
        self.width = self.spectrum = width
        self.embed = nn.Linear(last, width)
        self.statistics = width + 3

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, H, W, C), values up to 255, (B, T, 1) -> series (B, D, T), spectrum (B, D), statistics (B, D + 3).

        These are embeddings; their mean; their mean absolute step, and step, mean and spread of brightness.
        """
        seen, level = self._normalise(values, present)
        if self.patches is not None:
            seen = self.patches(seen.reshape(-1, *self.shape)).reshape(*present.shape[:2], math.prod(self.map))
        changed = (seen - _before(seen)) * (present * _before(present))
        channels, height, across = self.map
        views = torch.stack([seen, changed], dim=2).reshape(-1, 2 * channels, height, across)
        embedded = self.embed(self.stem(views).flatten(1)).reshape(-1, seen.shape[1], self.width) * present
        return embedded.transpose(1, 2), *self._summaries(embedded, level * present, present)

    def presence(self, present: Tensor) -> Tensor:
        """(B, T, 1) -> (B, T)."""
        return present[..., 0]

    def _normalise(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised frames (B, T, C H W), and brightness (B, T, 1)."""
        channels, height, across = self.shape
        frames, pixels = values.shape[1], values.to(present.dtype)
        if channels == 1:
            rows = pixels.reshape(-1, frames, 1, height * across)  # (B, T, C, H W)
        else:
            rows = pixels.reshape(-1, frames, height * across, channels).transpose(2, 3)
        mean = rows.mean(-1, keepdim=True)
        rows = rows - mean
        flat = rows.reshape(-1, 1, height * across)
        square = (flat @ flat.transpose(1, 2)).reshape(-1, frames, channels) / (height * across)
        levels = (mean[..., 0] - self.mean) / self.std  # (B, T, C)
        level = levels.mean(-1, keepdim=True)
        apart = levels - level
        variance = (square / (self.std * self.std) + apart * apart).mean(-1, keepdim=True)
        gain = present / (variance + _FLAT).sqrt()  # (B, T, 1)
        local = rows * (gain / self.std)[..., None]
        if channels > 1:  # one channel has no other level
            local = local + (apart * gain)[..., None]
        return local.flatten(2), level

    def _summaries(self, embedded: Tensor, level: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        count = present.sum(1).clamp(min=1.0)  # (B, 1)
        both = torch.cat([embedded, level], dim=-1)  # (B, T, D + 1)
        pairs = present[:, 1:] * present[:, :-1]
        steps = ((both[:, 1:] - both[:, :-1]).abs() * pairs).sum(1) / pairs.sum(1).clamp(min=1.0)
        mean = both.sum(1) / count
        rest = (level - mean[:, None, -1:]) * present
        spread = ((rest * rest).sum(1) / count + _FLAT).log() * 0.5
        return mean[:, :-1], torch.cat([steps, mean[:, -1:], spread], dim=-1)


def _before(rows: Tensor) -> Tensor:
    """(B, T, ...) one frame earlier; the first repeats."""
    return torch.cat([rows[:, :1], rows[:, :-1]], dim=1)


def _stem(shape: tuple[int, int, int], width: int, *, of_pixels: bool) -> tuple[nn.Sequential, int]:
    """Convolutions of a map (C, H, W) and its changes to at most 4 x 4 pixels, and their number of values."""
    layers: list[nn.Module] = []
    channels, height, across = shape
    channels, out = 2 * channels, max(4, width // (4 if of_pixels else 2))
    while max(height, across) > _LAST:
        wide = of_pixels and not layers and min(height, across) >= _WIDE_FROM
        kernel, stride = (5, 4) if wide else (3, 2)
        layers += [nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2), nn.ReLU()]
        height, across = (-(-size // stride) for size in (height, across))
        channels, out = out, max(4, width // 2)
    return nn.Sequential(*layers), channels * height * across


def _patches(shape: tuple[int, int, int], width: int) -> tuple[nn.Sequential, tuple[int, int, int]]:
    layers: list[nn.Module] = []
    channels, height, across = shape
    while max(height, across) > 2 * _LAST:
        side, divisor = ((4, 6), (2, 3), (2, 2))[min(len(layers) // 2, 2)]
        out = max(8, round(width / divisor / 8) * 8)  # engines compute eight channels at a time
        padding = (_margin(height, side), _margin(across, side))
        layers += [nn.Conv2d(channels, out, side, stride=side, padding=padding), nn.ReLU()]
        channels, height, across = out, -(-height // side), -(-across // side)
    return nn.Sequential(*layers), (channels, height, across)


def _margin(pixels: int, side: int) -> int:
    return -(-(-pixels % side) // 2)
