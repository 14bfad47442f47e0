"""Windowed views of a series: normalised samples, a spectrum by constant matmuls, and statistics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec

CLIP = 8.0  # standard deviations, so that no glitch dominates a window (rosa_rotor's strain: 81,288)
LEVELS = (-1.5, -0.75, -0.25, 0.25, 0.75, 1.5)
"""Levels of the distribution function, in standard deviations of the training data."""

_STATISTICS = 7 + len(LEVELS)
_FLAT = 1e-4  # variance of a flat window, of the training's or, with movement, of its usual one
_FLAT_MOVEMENT = 1e-3
_STILL = 1e-2  # of the usual movement: minimum mean step

_DISTRIBUTION = 1024  # about so many samples make the distribution function
_MIN_STRETCH = 16
_SAMPLES = (2, 3)  # the axes of (B, C, N, T / N) that count samples
_SLOW = 3  # the spectrum's levels below the first have a third of its bands


class FrontEnd(nn.Module):
    """Raw values and presence of a short window -> normalised views and summaries, masked.

    Buffers hold training statistics. With `movement` (see `EncoderConfig`), the unit of extremes and steps, there is a
    slope.
    """

    def __init__(self, modality: ModalitySpec, bands: int, *, movement: bool = False) -> None:
        super().__init__()
        samples, channels = modality.shape
        basis, pooling = _spectrum_matrices(samples, bands)
        self.has_movement = movement
        if movement:
            self.movement = nn.Buffer(torch.ones(channels))
            self.time = nn.Buffer(torch.linspace(-1, 1, samples)[:, None], persistent=False)
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.spectrum_basis = nn.Buffer(basis, persistent=False)
        self.spectrum_bands = nn.Buffer(pooling, persistent=False)
        self.levels = nn.Buffer(torch.tensor(LEVELS), persistent=False)
        self.bands = pooling.shape[1]
        self.statistics = (_STATISTICS + movement) * channels + channels * channels
        self.positions, self.width, self.spectrum = samples, (3 + movement) * channels, channels * self.bands

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> series (B, T, 3 C or 4 C), spectrum (B, C * bands), statistics (B, S).

        Series: normalised by training data and window, movement, presence. Spectrum: log power of the normalised
        window. Statistics: moments, extremes, mean absolute step, slope, soft distribution function, products of
        channels.
        """
        scaled = ((values - self.mean) / self.std).clamp(-CLIP, CLIP) * present
        count = present.sum(1, keepdim=True).clamp(min=1.0)  # (B, 1, C)
        mean = scaled.sum(1, keepdim=True) / count
        centred = (scaled - mean) * present
        # Twice: float32 leaves a rest of a large mean, which a tiny spread blows up, and engines sum in other orders.
        centred = (centred - centred.sum(1, keepdim=True) / count) * present
        moved = centred * (self.std / self.movement) if self.has_movement else centred
        flat = _FLAT_MOVEMENT if self.has_movement else _FLAT
        spread = ((moved * moved).sum(1, keepdim=True) / count + flat).sqrt()
        local = moved / spread
        moved = moved.clamp(-CLIP, CLIP)
        views = [scaled, local, moved, present] if self.has_movement else [scaled, local, present]
        statistics = self._statistics(scaled, moved, local, present, (count, mean, spread))
        return torch.cat(views, dim=-1), self._spectrum(local), statistics

    def _spectrum(self, local: Tensor) -> Tensor:
        parts = local.transpose(1, 2) @ self.spectrum_basis  # (B, C, 2 F): real parts, then imaginary parts
        real, imaginary = parts.chunk(2, dim=-1)
        power = (real * real + imaginary * imaginary) @ self.spectrum_bands  # (B, C, bands)
        return (power + 1e-3).log().flatten(1)

    def _statistics(
        self, scaled: Tensor, moved: Tensor, local: Tensor, present: Tensor, moments: tuple[Tensor, ...]
    ) -> Tensor:
        count, mean, spread = moments
        absent, observed = 1.0 - present, moved if self.has_movement else scaled
        low = (observed + absent * 2 * CLIP).amin(1).clamp(max=CLIP)  # (B, C)
        high = (observed - absent * 2 * CLIP).amax(1).clamp(min=-CLIP)
        pairs = present[:, 1:] * present[:, :-1]
        step = ((observed[:, 1:] - observed[:, :-1]).abs() * pairs).sum(1) / pairs.sum(1).clamp(min=1.0)
        squares = local * local
        skewness = (squares * local).sum(1) / count[:, 0]
        kurtosis = ((squares * squares).sum(1) / count[:, 0] + 1e-2).log()
        below = torch.sigmoid((self.levels - scaled[..., None]) * 4.0) * present[..., None]  # (B, T, C, levels)
        below = below.sum(1) / count.transpose(1, 2)  # (B, C, levels)
        products = local.transpose(1, 2) @ local / local.shape[1]  # (B, C, C), correlations of the channels
        each = [mean[:, 0], spread[:, 0].log(), low, high, step, skewness, kurtosis]
        if self.has_movement:
            each[4] = (step + _STILL).log()
            each.append((moved * self.time).sum(1) / count[:, 0])  # slope
        return torch.cat([*each, below.flatten(1), products.flatten(1)], dim=-1)


class LongFrontEnd(nn.Module):
    """The views of `FrontEnd` without movement, for long windows; cost grows linearly.

    The spectrum is a mean over frames, in levels; further ones have a third of the bands. Engines are faster with
    samples as the last axis.
    """

    def __init__(self, modality: ModalitySpec, bands: int, *, frame: int) -> None:
        super().__init__()
        self.samples, channels = modality.shape
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.levels = nn.Buffer(torch.tensor(LEVELS), persistent=False)
        self.cuts = _spectrum_cuts(self.samples, frame)
        frames, length = self.cuts[0]
        self.stretch = min(length, max(_MIN_STRETCH, -(-_DISTRIBUTION // frames)))
        self.bands = 0
        for level, (_, length) in enumerate(self.cuts):
            basis, pooling = _spectrum_matrices(length, bands if level == 0 else max(1, bands // _SLOW))
            self.register_buffer(f"spectrum_basis_{level}", basis, persistent=False)
            self.register_buffer(f"spectrum_bands_{level}", pooling, persistent=False)
            self.bands += pooling.shape[1]
        self.positions, self.width, self.spectrum = self.samples, 3 * channels, channels * self.bands
        self.statistics = (7 + len(LEVELS)) * channels + channels * channels

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C), (B, T, C) -> series (B, 3 C, T), spectrum (B, C * bands) and statistics (B, S)."""
        # In frames from here on: onnxruntime would else move the transposition behind all that follows.
        values, present = (blocks_of(x.transpose(1, 2), *self.cuts[0]) for x in (values, present))  # (B, C, N, T / N)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        scaled = ((values - mean) / std).clamp(-CLIP, CLIP) * present
        count = present.sum(_SAMPLES, keepdim=True).clamp(min=1.0)  # (B, C, 1, 1)
        mean = scaled.sum(_SAMPLES, keepdim=True) / count
        centred = (scaled - mean) * present
        centred = (centred - centred.sum(_SAMPLES, keepdim=True) / count) * present  # twice, as in `FrontEnd`
        spread = ((centred * centred).sum(_SAMPLES, keepdim=True) / count + 1e-4).sqrt()
        local = centred / spread
        distribution = self._distribution(scaled, present)
        scaled, flat, present = (x.flatten(2) for x in (scaled, local, present))
        count, mean, spread = (x.flatten(1) for x in (count, mean, spread))  # (B, C)
        series = torch.cat([scaled, flat, present], dim=1)[..., : self.samples]
        statistics = self._statistics(scaled, flat, present, (count, mean, spread))
        return series, self._spectrum(local, count), torch.cat([statistics, distribution], dim=-1)

    def _spectrum(self, signal: Tensor, count: Tensor) -> Tensor:
        levels = []
        for level, (frames, _) in enumerate(self.cuts):
            parts = signal @ getattr(self, f"spectrum_basis_{level}")  # (B, C, N, 2 F)
            real, imaginary = parts.chunk(2, dim=-1)
            # The mean over as many frames as there are samples for.
            power = (real * real + imaginary * imaginary).mean(2) / (count / self.samples)[..., None]  # (B, C, F)
            levels.append((power @ getattr(self, f"spectrum_bands_{level}") + 1e-3).log())
            if level + 1 < len(self.cuts):
                half = -(-signal[0, 0].numel() // (2 * frames))
                means = blocks_of(signal.flatten(2), 2 * frames, half).sum(-1) / math.sqrt(half)
                signal = blocks_of(means, *self.cuts[level + 1])
        return torch.cat(levels, dim=-1).flatten(1)

    def _statistics(self, scaled: Tensor, local: Tensor, present: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        count, mean, spread = moments
        reach = present * (2 * CLIP)  # 0 where missing, below every present value
        low = (2 * CLIP - (reach - scaled).amax(2)).clamp(max=CLIP)  # (B, C)
        high = ((reach + scaled).amax(2) - 2 * CLIP).clamp(min=-CLIP)
        pairs = present[..., 1:] * present[..., :-1]
        step = ((scaled[..., 1:] - scaled[..., :-1]).abs() * pairs).sum(2) / pairs.sum(2).clamp(min=1.0)
        squares = local * local
        skewness = (squares * local).sum(2) / count
        kurtosis = ((squares * squares).sum(2) / count + 1e-2).log()
        products = local @ local.transpose(1, 2) / self.samples  # (B, C, C), correlations of the channels
        return torch.cat([mean, spread.log(), low, high, step, skewness, kurtosis, products.flatten(1)], dim=-1)

    def _distribution(self, scaled: Tensor, present: Tensor) -> Tensor:
        """The soft distribution function (B, C * levels) of frames (B, C, N, T / N)."""
        scaled, present = (x[..., : self.stretch].flatten(2)[:, :, None] for x in (scaled, present))
        below = torch.sigmoid((self.levels[:, None] - scaled) * 4.0) * present  # (B, C, levels, stretches)
        return (below.sum(3) / present.sum(3).clamp(min=1.0)).flatten(1)


def blocks_of(samples: Tensor, count: int, length: int) -> Tensor:
    """(..., T) -> (..., count, length), zero-padded."""
    rest = count * length - samples.shape[-1]
    padded = F.pad(samples, (0, rest)) if rest else samples
    return padded.reshape(*samples.shape[:-1], count, length)


def _spectrum_matrices(samples: int, bands: int) -> tuple[Tensor, Tensor]:
    """Hann-windowed Fourier transform as a matmul (T, 2 F), and the bands (F, bands) that pool its bins.

    Bins 1 .. T/2, at least one; geometric bands. White noise of variance 1 has power 1 in every bin (Harris, 1978).
    """
    bins = np.arange(1, max(1, samples // 2) + 1)
    window = np.hanning(samples + 2)[1:-1]
    angle = 2 * np.pi * np.outer(np.arange(samples), bins) / samples
    scale = window[:, None] / math.sqrt(float((window**2).sum()))
    basis = np.concatenate([np.cos(angle) * scale, np.sin(angle) * scale], axis=1)
    edges = np.unique(np.round(np.geomspace(1, len(bins) + 1, min(bands, len(bins)) + 1)).astype(int))
    pooling = np.zeros((len(bins), len(edges) - 1))
    for band, (start, stop) in enumerate(itertools.pairwise(edges)):
        pooling[start - 1 : stop - 1, band] = 1.0 / (stop - start)
    return torch.from_numpy(basis.astype(np.float32)), torch.from_numpy(pooling.astype(np.float32))


def is_long(samples: int, frame: int) -> bool:
    """Return whether a window has more than four frames."""
    return samples > 4 * frame


def _spectrum_cuts(samples: int, frame: int) -> tuple[tuple[int, int], ...]:
    """The number of frames and their samples, for each level of the spectrum of a long signal.

    Frames resolve fast changes (Welch, IEEE Trans. Audio Electroacoust. 15, 1967); the means of half frames, cut alike
    until two are left, hold slow ones.

    Example:
        >>> _spectrum_cuts(10_000, 256), _spectrum_cuts(100_000, 256)
        (((40, 250), (1, 80)), ((391, 256), (4, 196), (1, 8)))
    """
    cuts: list[tuple[int, int]] = []
    while samples > 2 * frame:
        count = -(-samples // frame)
        cuts.append((count, -(-samples // count)))
        samples = 2 * count
    return (*cuts, (1, samples))
