"""Running statistics and filters of a series for causal students, block by block; sound as a series.

Statistics are sums, means and extremes over blocks, the samples of one time token each, so recordings and streams
compute the same without drift.
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
from mmkd_models.networks.fronts.log_mel import LogMels
from mmkd_models.networks.fronts.series import CLIP, LEVELS

_MAX_FILTER = 256  # samples; time tokens have slower tones
_PERIODS = 2.0  # per half Hann window: neighbours meet at half power


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sums of N blocks of samples, each (B, N, ...)."""

    moments: Tensor  # 3 C: count, mean, and squared distance from it
    sums: Tensor  # summed over a stretch of time
    peaks: Tensor  # 2 C: reach down and up, 0 if empty


@dataclass(frozen=True, kw_only=True)
class Running:
    """Statistics (B, I, C) of stretches that end with each of I blocks; count is at least 1, std above 0."""

    count: Tensor
    mean: Tensor
    spread: Tensor


class CausalFront(nn.Module):
    """Raw samples -> normalised samples, sums of blocks, and summaries of stretches; all masked.

    Blocks have S = `stride` samples, windows W `tokens`, and there are at most `bands` filters F.
    """

    def __init__(self, modality: ModalitySpec, *, stride: int, tokens: int, bands: int, products: bool = True) -> None:
        super().__init__()
        channels = len(modality.channels)
        filters = _filters(max(stride, min(stride * tokens, _MAX_FILTER)), bands)
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.filters = nn.Buffer(filters, persistent=False)
        self.levels = nn.Buffer(torch.tensor(LEVELS), persistent=False)
        self.channels, self.stride, self.tokens = channels, stride, tokens
        self.taps, self.bands = filters.shape[0], filters.shape[1] // 2
        self.history = max(1, self.taps - stride)
        self.products = channels if products else 0  # rows of their matrix
        self.sums = channels * (2 + len(LEVELS) + self.bands + self.products)
        self.statistics = channels * (5 + len(LEVELS) + self.products)

    def scaled(self, values: Tensor, present: Tensor) -> Tensor:
        """Scale raw values (B, T, C) to standard deviations of the training data, 0 where missing."""
        return ((values - self.mean) / self.std).clamp(-CLIP, CLIP) * present

    def moments(self, scaled: Tensor, present: Tensor) -> Tensor:
        """Blocks (B, N, S, C) -> their moments (B, N, 3 C)."""
        count = present.sum(2)
        mean = scaled.sum(2) / count.clamp(min=1.0)
        rest = (scaled - mean[:, :, None]) * present
        return torch.cat([count, mean, (rest * rest).sum(2)], dim=-1)

    def running(self, moments: Tensor, band: Tensor) -> Running:
        """Return statistics of stretches `band` (I, M) of M blocks with moments (B, M, 3 C)."""
        count, mean, squares = moments.chunk(3, dim=-1)
        total = (band @ count).clamp(min=1.0)  # (B, I, C)
        centre = (band @ (count * mean)) / total
        away = mean[:, None] - centre[:, :, None]  # (B, I, M, C): about the mean, for precision
        between = (band[..., None] * count[:, None] * away * away).sum(2)
        return Running(count=total, mean=centre, spread=((band @ squares + between) / total + 1e-4).sqrt())

    def series(self, scaled: Tensor, present: Tensor, running: Running) -> Tensor:
        """Blocks (B, N, S, C) -> (B, N S, 3 C): normalised by training data, by earlier samples, and presence."""
        local = (scaled - running.mean[:, :, None]) * present / running.spread[:, :, None]
        return torch.cat([scaled, local, present], dim=-1).flatten(1, 2)

    def tones(self, history: Tensor) -> Tensor:
        """(B, T, C) -> filter outputs (B, N, C, 2 F) after each block, real parts first."""
        batch, samples, channels = history.shape
        rows = history.transpose(1, 2).reshape(batch * channels, 1, samples)
        answers = F.conv1d(rows, self.filters.T[:, None], stride=self.stride)  # (B C, 2 F, N)
        return answers.reshape(batch, channels, 2 * self.bands, -1).permute(0, 3, 1, 2)

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
        """Return the sums of N blocks (B, N, S, C); `before` are values and presence one sample earlier."""
        value, presence = before
        pairs = present * presence
        step = ((scaled - value).abs() * pairs).sum(2)
        below = torch.sigmoid((self.levels - scaled[..., None]) * 4.0) * present[..., None]
        mean = moments.chunk(3, dim=-1)[1]
        # About the mean, so that missing samples, and those before the beginning, add nothing.
        answer = tones[0] - running.mean[..., None] * tones[1]
        real, imaginary = answer.chunk(2, dim=-1)
        power = real * real + imaginary * imaginary  # (B, N, C, F)
        reach = torch.cat([(2 * CLIP - scaled) * present, (2 * CLIP + scaled) * present], dim=-1)
        sums = [step, pairs.sum(2), below.sum(2).flatten(2), power.flatten(2)]
        if self.products:
            rest = (scaled - mean[:, :, None]) * present
            sums.append((rest.transpose(2, 3) @ rest).flatten(2))  # (B, N, C C)
        return Blocks(moments=moments, sums=torch.cat(sums, dim=-1), peaks=reach.amax(2))

    def summary(self, blocks: Blocks, running: Running, band: Tensor) -> tuple[Tensor, Tensor]:
        """Summarise stretches `band` (I, M) of M blocks.

        Returns relative log power of each filter (B, I, C F), and (B, I, S) moments, extremes, mean absolute step, soft
        distribution function, channel products.
        """
        channels = self.channels
        sizes = [channels, channels, channels * len(LEVELS), channels * self.bands]
        sizes += [channels * channels] if self.products else []
        step, pairs, below, power, *products = torch.split(band @ blocks.sums, sizes, dim=-1)
        count = blocks.moments.chunk(3, dim=-1)[0]
        present_blocks = (band @ count.clamp(max=1.0)).clamp(min=1.0)  # blocks with a sample
        variance = running.spread * running.spread  # (B, I, C)
        shape = (*power.shape[:2], channels, -1)
        spectrum = (power.reshape(shape) / (present_blocks * variance)[..., None] + 1e-3).log()
        down, up = (band[..., None] * blocks.peaks[:, None]).amax(2).chunk(2, dim=-1)
        low, high = (2 * CLIP - down).clamp(max=CLIP), (up - 2 * CLIP).clamp(min=-CLIP)
        parts = [running.mean, running.spread.log(), low, high, step / pairs.clamp(min=1.0)]
        parts.append((below.reshape(shape) / running.count[..., None]).flatten(2))
        if products:
            parts.append(self._correlation(products[0], blocks, running, band))
        return spectrum.flatten(2), torch.cat(parts, dim=-1)

    def _correlation(self, products: Tensor, blocks: Blocks, running: Running, band: Tensor) -> Tensor:
        channels = self.channels
        count, mean, _ = blocks.moments.chunk(3, dim=-1)
        away = (mean[:, None] - running.mean[:, :, None]) * (band[..., None] * count[:, None]).sqrt()  # (B, I, M, C)
        whole = products.reshape(*products.shape[:2], channels, channels) + away.transpose(2, 3) @ away
        scale = running.spread[..., None] * running.spread[:, :, None] * (self.stride * self.tokens)
        return (whole / scale).flatten(2)


def _filters(taps: int, bands: int) -> Tensor:
    """Complex tones under Hann windows that end with the newest sample: (taps, 2 F), real parts first.

    Centres rise geometrically to half the sampling rate (constant Q: Brown, JASA 1991). White noise of variance 1 has
    power 1.
    """
    filters = max(1, min(bands, taps // 2))
    edges = np.geomspace(1 / max(taps, 3), 0.5, filters + 1)
    bank = np.zeros((taps, 2 * filters))
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        centre = math.sqrt(low * high)
        length = min(taps, max(8, round(_PERIODS / (high - low))))
        window = np.hanning(length + 2)[1:-1]
        tone = window * np.exp(2j * np.pi * centre * np.arange(length))
        tone -= window * tone.sum() / window.sum()
        tone /= math.sqrt(float((np.abs(tone) ** 2).sum()))
        bank[taps - length :, number] = tone.real
        bank[taps - length :, filters + number] = tone.imag
    return torch.from_numpy(bank.astype(np.float32))


class CausalSound(nn.Module):
    """Waveform and presence -> normalised log-mels as a series, one frame of two hops per hop."""

    def __init__(self, mels: LogMels, channels: int, inner: CausalFront) -> None:
        super().__init__()
        self.mels, self.inner, self.channels = mels, inner, channels
        self.before = mels.hop
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.mel_mean = nn.Buffer(torch.zeros(channels, mels.count))
        self.mel_std = nn.Buffer(torch.ones(channels, mels.count))
        self.every_mel = nn.Buffer(torch.ones(1, mels.count), persistent=False)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, (N + 1) hop, C) values and presence -> log-mels (B, N, C M), 0 if missing, and presence."""
        mels, presence = self._frames(values, present)
        scaled = (mels - self.mel_mean[:, None]) / self.mel_std[:, None] * presence[..., None]  # (B, C, N, M)
        presence = presence[..., None] @ self.every_mel  # no expansion, which devices refuse
        return scaled.transpose(1, 2).flatten(2), presence.transpose(1, 2).flatten(2)

    def recording(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Run `forward` on a whole recording (B, N hop, C)."""
        before = (0, 0, self.before, 0)
        mels, presence = self(F.pad(values, before), F.pad(present, before))
        return mels, presence

    def step(self, values: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `forward` and the next state."""
        both = torch.cat([state, torch.cat([values, present], dim=-1)], dim=1)
        mels, presence = self(both[..., : self.channels], both[..., self.channels :])
        return mels, presence, both[:, -self.before :]

    def log_mels(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> log-mels (B, C, N, M) and presence of frames (B, C, N)."""
        used = values.shape[1] // self.mels.hop * self.mels.hop
        return self._frames(values[:, :used], present[:, :used])

    def _frames(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        samples, presence = values.transpose(1, 2), present.transpose(1, 2)
        scaled = (samples - self.mean[:, None]) / self.std[:, None] * presence
        shape = (-1, self.channels, samples.shape[-1] // self.mels.hop, self.mels.hop)
        return self.mels.from_blocks(scaled.reshape(shape), presence.reshape(shape))


def mel_series(modality: ModalitySpec, mels: LogMels) -> ModalitySpec:
    """Return the series of log-mels: channels are mels, samples are hops."""
    names = tuple(f"{channel} mel {number}" for channel in modality.channels for number in range(mels.count))
    samples, rate_hz = -(-modality.samples // mels.hop), modality.rate_hz / mels.hop
    return ModalitySpec(name=modality.name, channels=names, rate_hz=rate_hz, samples=samples)
