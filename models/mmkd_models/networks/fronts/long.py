"""What a windowed network sees of a long window: the views of `FrontEnd`, at a price that grows with the window alone.

The spectrum is a mean over frames instead of one transform of everything, whose matrix grows with the square of the
window. Channels stand before samples throughout: engines are several times faster along a long last axis.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.spectrum import spectrum_cuts, spectrum_matrices

_CLIP = 8.0  # standard deviations, as in `FrontEnd`
_LEVELS = (-1.5, -0.75, -0.25, 0.25, 0.75, 1.5)  # standard deviations of the training data, as in `FrontEnd`
_DISTRIBUTION = 1024  # samples, or a few more, that the distribution function is made of, in stretches of neighbours
_SHORTEST_STRETCH = 16
_SAMPLES = (2, 3)  # the axes of (B, C, N, T / N) that count samples
_SLOW = 3  # the levels of the spectrum below the first have one band for so many of its


class LongFrontEnd(nn.Module):
    """Raw values and presence -> normalised views and summaries, all masked; as `FrontEnd`, for long windows.

    Buffers hold the training data's statistics, so normalisation travels inside the graph.

    Args:
        bands: of the first level of the spectrum; each further one has a third of them.
        frame: samples of the longest frame.
    """

    mean: Tensor
    std: Tensor
    levels: Tensor

    def __init__(self, modality: ModalitySpec, bands: int, *, frame: int) -> None:
        super().__init__()
        self.samples, channels = modality.shape
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("levels", torch.tensor(_LEVELS), persistent=False)
        self.cuts = spectrum_cuts(self.samples, frame)
        frames, length = self.cuts[0]
        self.stretch = min(length, max(_SHORTEST_STRETCH, -(-_DISTRIBUTION // frames)))
        self.bands = 0
        for level, (_, length) in enumerate(self.cuts):
            basis, pooling = spectrum_matrices(length, bands if level == 0 else max(1, bands // _SLOW))
            self.register_buffer(f"spectrum_basis_{level}", basis, persistent=False)
            self.register_buffer(f"spectrum_bands_{level}", pooling, persistent=False)
            self.bands += pooling.shape[1]
        self.positions, self.width, self.spectrum = self.samples, 3 * channels, channels * self.bands
        self.statistics = (7 + len(_LEVELS)) * channels + channels * channels

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the three views of a window.

        Returns:
            series (B, 3 C, T), spectrum (B, C * bands) and statistics (B, S): what `FrontEnd` gives, series as a stem
            takes them.
        """
        # In frames from here on: onnxruntime would else move the transposition behind all that follows.
        values, present = (blocks_of(x.transpose(1, 2), *self.cuts[0]) for x in (values, present))  # (B, C, N, T / N)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        scaled = ((values - mean) / std).clamp(-_CLIP, _CLIP) * present
        count = present.sum(_SAMPLES, keepdim=True).clamp(min=1.0)  # (B, C, 1, 1)
        mean = scaled.sum(_SAMPLES, keepdim=True) / count
        centred = (scaled - mean) * present
        # Twice: float32 leaves a rest of a large mean, which a tiny spread blows up, and engines sum in other orders.
        centred = (centred - centred.sum(_SAMPLES, keepdim=True) / count) * present
        spread = ((centred * centred).sum(_SAMPLES, keepdim=True) / count + 1e-4).sqrt()
        local = centred / spread
        distribution = self._distribution(scaled, present)
        scaled, flat, present = (x.flatten(2) for x in (scaled, local, present))
        count, mean, spread = (x.flatten(1) for x in (count, mean, spread))  # (B, C)
        series = torch.cat([scaled, flat, present], dim=1)[..., : self.samples]
        statistics = self._statistics(scaled, flat, present, (count, mean, spread))
        return series, self._spectrum(local, count), torch.cat([statistics, distribution], dim=-1)

    def _spectrum(self, signal: Tensor, count: Tensor) -> Tensor:
        found = []
        for level, (frames, _) in enumerate(self.cuts):
            parts = signal @ getattr(self, f"spectrum_basis_{level}")  # (B, C, N, 2 F)
            real, imaginary = parts.chunk(2, dim=-1)
            # Over as many frames as there are samples for.
            power = (real * real + imaginary * imaginary).mean(2) / (count / self.samples)[..., None]  # (B, C, F)
            found.append((power @ getattr(self, f"spectrum_bands_{level}") + 1e-3).log())
            if level + 1 < len(self.cuts):
                half = -(-signal[0, 0].numel() // (2 * frames))
                means = blocks_of(signal.flatten(2), 2 * frames, half).sum(-1) / math.sqrt(half)
                signal = blocks_of(means, *self.cuts[level + 1])
        return torch.cat(found, dim=-1).flatten(1)

    def _statistics(self, scaled: Tensor, local: Tensor, present: Tensor, moments: tuple[Tensor, ...]) -> Tensor:
        count, mean, spread = moments
        reach = present * (2 * _CLIP)  # of what is missing none, and no value that is there has none
        low = (2 * _CLIP - (reach - scaled).amax(2)).clamp(max=_CLIP)  # (B, C)
        high = ((reach + scaled).amax(2) - 2 * _CLIP).clamp(min=-_CLIP)
        pairs = present[..., 1:] * present[..., :-1]
        step = ((scaled[..., 1:] - scaled[..., :-1]).abs() * pairs).sum(2) / pairs.sum(2).clamp(min=1.0)
        squares = local * local
        skewness = (squares * local).sum(2) / count
        kurtosis = ((squares * squares).sum(2) / count + 1e-2).log()
        products = local @ local.transpose(1, 2) / self.samples  # (B, C, C), correlations of the channels
        return torch.cat([mean, spread.log(), low, high, step, skewness, kurtosis, products.flatten(1)], dim=-1)

    def _distribution(self, scaled: Tensor, present: Tensor) -> Tensor:
        """The soft distribution function (B, C * levels), from a stretch of each frame (B, C, N, T / N)."""
        scaled, present = (x[..., : self.stretch].flatten(2)[:, :, None] for x in (scaled, present))
        below = torch.sigmoid((self.levels[:, None] - scaled) * 4.0) * present  # (B, C, levels, stretches)
        return (below.sum(3) / present.sum(3).clamp(min=1.0)).flatten(1)


def blocks_of(samples: Tensor, count: int, length: int) -> Tensor:
    """(..., T) -> (..., count, length), with zeros behind the last sample."""
    rest = count * length - samples.shape[-1]
    padded = F.pad(samples, (0, rest)) if rest else samples
    return padded.reshape(*samples.shape[:-1], count, length)
