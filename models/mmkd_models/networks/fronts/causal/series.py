"""What a causal student sees of its samples: running statistics and causal filters, block by block.

A block is as many samples as make one time token. Each block leaves a few sums behind; the statistics of any stretch of
time are sums, means and extremes over the blocks in it. So a pass over a whole recording and a stream that adds one
block at a time compute the same, nothing drifts, and every sum of nothing is zero: that is how a stream begins.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec

_CLIP = 8.0  # standard deviations, as in the front-end of a windowed student
_LEVELS = (-1.5, -0.75, -0.25, 0.25, 0.75, 1.5)  # standard deviations of the training data
_LONGEST_FILTER = 256  # samples; tones slower than that are left to the time tokens
_PERIODS = 2.0  # of a Hann window's half width: neighbouring filters meet at half their power


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """What is known of N blocks of samples, each (B, N, ...).

    Attributes:
        moments: 3 C: how many values are there, their mean, and their squared distance from it.
        sums: of what is added up over a stretch of time.
        peaks: 2 C: how far values reach down and up, 0 where none is there.
    """

    moments: Tensor
    sums: Tensor
    peaks: Tensor


@dataclass(frozen=True, kw_only=True)
class Running:
    """The statistics of the stretch of time that ends with each of I blocks, (B, I, C).

    Attributes:
        count: values that are there, at least 1.
        mean: of the normalised values.
        spread: their standard deviation, never 0.
    """

    count: Tensor
    mean: Tensor
    spread: Tensor


class CausalFront(nn.Module):
    """Raw samples -> normalised samples, sums of blocks, and summaries of stretches of time; all masked.

    Buffers hold the training data's statistics, so normalisation travels inside the graph. Nothing here is learnt.

    Args:
        stride: S, samples of a block.
        tokens: W, blocks of a window.
        bands: F, filters; fewer where a window is too short for them.
        products: whether the products of channels are summed: of many channels they are the most of all.
    """

    mean: Tensor
    std: Tensor
    filters: Tensor
    levels: Tensor

    def __init__(self, modality: ModalitySpec, *, stride: int, tokens: int, bands: int, products: bool = True) -> None:
        super().__init__()
        channels = len(modality.channels)
        filters = _filters(max(stride, min(stride * tokens, _LONGEST_FILTER)), bands)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("levels", torch.tensor(_LEVELS), persistent=False)
        self.channels, self.stride, self.tokens = channels, stride, tokens
        self.taps, self.bands = filters.shape[0], filters.shape[1] // 2
        self.history = max(1, self.taps - stride)
        self.products = channels if products else 0  # rows of their matrix
        self.sums = channels * (2 + len(_LEVELS) + self.bands + self.products)
        self.statistics = channels * (5 + len(_LEVELS) + self.products)

    def scaled(self, values: Tensor, present: Tensor) -> Tensor:
        """(B, T, C) raw values -> in standard deviations of the training data, 0 where missing."""
        return ((values - self.mean) / self.std).clamp(-_CLIP, _CLIP) * present

    def moments(self, scaled: Tensor, present: Tensor) -> Tensor:
        """Blocks (B, N, S, C) -> their moments (B, N, 3 C)."""
        count = present.sum(2)
        mean = scaled.sum(2) / count.clamp(min=1.0)
        rest = (scaled - mean[:, :, None]) * present
        return torch.cat([count, mean, (rest * rest).sum(2)], dim=-1)

    def running(self, moments: Tensor, band: Tensor) -> Running:
        """The statistics of stretches of time.

        Args:
            moments: (B, M, 3 C) of blocks.
            band: (I, M) 1 where a block belongs to the stretch, else 0.
        """
        count, mean, squares = moments.chunk(3, dim=-1)
        total = (band @ count).clamp(min=1.0)  # (B, I, C)
        centre = (band @ (count * mean)) / total
        away = mean[:, None] - centre[:, :, None]  # (B, I, M, C): about the mean, or large means would swallow the rest
        between = (band[..., None] * count[:, None] * away * away).sum(2)
        return Running(count=total, mean=centre, spread=((band @ squares + between) / total + 1e-4).sqrt())

    def series(self, scaled: Tensor, present: Tensor, running: Running) -> Tensor:
        """Blocks (B, N, S, C) -> (B, N S, 3 C): normalised by the training data, by what went before, and presence."""
        local = (scaled - running.mean[:, :, None]) * present / running.spread[:, :, None]
        return torch.cat([scaled, local, present], dim=-1).flatten(1, 2)

    def tones(self, history: Tensor) -> Tensor:
        """(B, T, C) -> the filters' answers (B, N, C, 2 F), real parts first, after every block but those in the taps.

        A convolution with one step per block; the last block's taps alone give the same.
        """
        batch, samples, channels = history.shape
        rows = history.transpose(1, 2).reshape(batch * channels, 1, samples)
        found = F.conv1d(rows, self.filters.T[:, None], stride=self.stride)  # (B C, 2 F, N)
        return found.reshape(batch, channels, 2 * self.bands, -1).permute(0, 3, 1, 2)

    def blocks(
        self,
        scaled: Tensor,
        present: Tensor,
        *,
        moments: Tensor,
        running: Running,
        tones: tuple[Tensor, Tensor],
        before: tuple[Tensor, Tensor],
    ) -> Blocks:
        """What N blocks leave behind.

        Args:
            scaled: (B, N, S, C).
            present: (B, N, S, C).
            moments: of the blocks.
            tones: the filters' answers to values and to presence.
            before: values and presence (B, N, S, C) one sample earlier.
        """
        value, there = before
        pairs = present * there
        step = ((scaled - value).abs() * pairs).sum(2)
        below = torch.sigmoid((self.levels - scaled[..., None]) * 4.0) * present[..., None]
        mean = moments.chunk(3, dim=-1)[1]
        # About the mean: what is missing, and what lies before the beginning, answers nothing then.
        answer = tones[0] - running.mean[..., None] * tones[1]
        real, imaginary = answer.chunk(2, dim=-1)
        power = real * real + imaginary * imaginary  # (B, N, C, F)
        reach = torch.cat([(2 * _CLIP - scaled) * present, (2 * _CLIP + scaled) * present], dim=-1)
        sums = [step, pairs.sum(2), below.sum(2).flatten(2), power.flatten(2)]
        if self.products:
            rest = (scaled - mean[:, :, None]) * present
            sums.append((rest.transpose(2, 3) @ rest).flatten(2))  # (B, N, C C)
        return Blocks(moments=moments, sums=torch.cat(sums, dim=-1), peaks=reach.amax(2))

    def summary(self, blocks: Blocks, running: Running, band: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of stretches of time.

        Args:
            blocks: M blocks.
            running: of the stretches.
            band: (I, M) as `running` took it.

        Returns:
            spectrum (B, I, C F): log power of each filter over the power of the signal;
            statistics (B, I, S): moments, extremes, mean absolute step, soft distribution function, channel products.
        """
        channels, levels = self.channels, len(_LEVELS)
        sizes = [channels, channels, channels * levels, channels * self.bands]
        sizes += [channels * channels] if self.products else []
        step, pairs, below, power, *products = torch.split(band @ blocks.sums, sizes, dim=-1)
        count = blocks.moments.chunk(3, dim=-1)[0]
        heard = (band @ count.clamp(max=1.0)).clamp(min=1.0)  # blocks with a sample
        variance = running.spread * running.spread  # (B, I, C)
        shape = (*power.shape[:2], channels, -1)
        spectrum = (power.reshape(shape) / (heard * variance)[..., None] + 1e-3).log()
        down, up = (band[..., None] * blocks.peaks[:, None]).amax(2).chunk(2, dim=-1)
        low, high = (2 * _CLIP - down).clamp(max=_CLIP), (up - 2 * _CLIP).clamp(min=-_CLIP)
        parts = [running.mean, running.spread.log(), low, high, step / pairs.clamp(min=1.0)]
        parts.append((below.reshape(shape) / running.count[..., None]).flatten(2))
        if products:
            parts.append(self._correlation(products[0], blocks, running, band))
        return spectrum.flatten(2), torch.cat(parts, dim=-1)

    def _correlation(self, products: Tensor, blocks: Blocks, running: Running, band: Tensor) -> Tensor:
        """(B, I, C C): products about the common mean, inside the blocks and of the blocks' means, scaled."""
        channels = self.channels
        count, mean, _ = blocks.moments.chunk(3, dim=-1)
        away = (mean[:, None] - running.mean[:, :, None]) * (band[..., None] * count[:, None]).sqrt()  # (B, I, M, C)
        whole = products.reshape(*products.shape[:2], channels, channels) + away.transpose(2, 3) @ away
        scale = running.spread[..., None] * running.spread[:, :, None] * (self.stride * self.tokens)
        return (whole / scale).flatten(2)


def _filters(taps: int, bands: int) -> Tensor:
    """A bank of complex tones under Hann windows that end with the newest sample: (taps, 2 F), real parts first.

    Centres rise geometrically to half the sampling rate; each window is as long as keeps neighbours apart, at most all
    taps (constant Q: Brown, "Calculation of a constant Q spectral transform", JASA 1991). No filter answers to a
    constant; white noise of variance 1 gives each a power of 1.
    """
    wanted = max(1, min(bands, taps // 2))
    edges = np.geomspace(1 / max(taps, 3), 0.5, wanted + 1)
    bank = np.zeros((taps, 2 * wanted))
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        centre = math.sqrt(low * high)
        length = min(taps, max(8, round(_PERIODS / (high - low))))
        window = np.hanning(length + 2)[1:-1]
        tone = window * np.exp(2j * np.pi * centre * np.arange(length))
        tone -= window * tone.sum() / window.sum()
        tone /= math.sqrt(float((np.abs(tone) ** 2).sum()))
        bank[taps - length :, number] = tone.real
        bank[taps - length :, wanted + number] = tone.imag
    return torch.from_numpy(bank.astype(np.float32))
