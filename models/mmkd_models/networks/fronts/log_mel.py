"""Sound as a log-mel spectrogram by constant matmuls, its statistics, and presence of frames.

As librosa's `melspectrogram` (0.11) without padding: periodic Hann window (Harris, Proc. IEEE 66, 1978), power of the
discrete Fourier transform, triangles of area 1 on Slaney's mel scale (M. Slaney, Interval Research TR 1998-010).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec

HOP_S = 0.016  # seconds from one frame to the next; a frame is twice as long. The usual 10 and 25 ms cost twice as much
_MAX_HOP = 512  # samples, so that the matrix of a frame stays below 5 MB at any rate
_MELS = 40  # fewer if a triangle would have no bin of the spectrum

FLOOR = 1e-8
"""Least power that a logarithm is taken of: 80 dB below a mel of power 1 (as `amin` of librosa's `power_to_db`)."""

_MIN_SAMPLES = 64  # of a window of sound

_CLIP = 8.0  # standard deviations
_MIN_FRACTION = 0.5  # of a present frame's samples
_STILL = 1e-2  # minimum variance over a window, of the training's
_LINEAR_HZ = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = math.log(6.4) / 27.0


class LogMels(nn.Module):
    """Samples and presence of a window -> unnormalised log-mels of N `positions` and M mels (`count`).

    A frame needs half of its samples, whose power is divided by their fraction. Samples after the last hop are ignored.
    """

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        samples = modality.samples
        if samples < _MIN_SAMPLES:
            raise UsageError(
                f"modality {modality.name!r}: expected windows of at least {_MIN_SAMPLES} samples of sound, got "
                f"{samples}; take longer windows, or the kind series"
            )
        self.hop = hop_samples(modality)
        matrices = mel_matrices(2 * self.hop, modality.rate_hz)
        self.window, self.even, self.odd, self.filters = (nn.Buffer(part, persistent=False) for part in matrices)
        self.blocks = samples // self.hop
        self.positions = self.blocks - 1
        self.count = self.filters.shape[1]

    def forward(self, samples: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T), 0 where missing, and presence -> log-mels (B, C, N, M) and presence of frames (B, C, N)."""
        return self.from_blocks(self._in_blocks(samples), self._in_blocks(present))

    def from_blocks(self, blocks: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Run `forward` on hops (B, C, N + 1, hop)."""
        first, second = blocks[:, :, :-1] * self.window[0], blocks[:, :, 1:] * self.window[1]  # (B, C, N, hop)
        power = torch.cat([_power((first + second) @ self.even), _power((first - second) @ self.odd)], dim=-1)
        power = power @ self.filters  # (B, C, N, M)
        fraction = _present_fraction(present)
        power = power / fraction.clamp(min=_MIN_FRACTION)[..., None]
        # No sum: the exporter takes the addition of something so small for one of nothing, and drops it.
        return power.clamp(min=FLOOR).log(), _is_there(fraction)

    def presence(self, present: Tensor) -> Tensor:
        """(B, T, C) -> (B, N): fraction of channels that have each frame."""
        return _is_there(_present_fraction(self._in_blocks(present.transpose(1, 2)))).mean(1)

    def _in_blocks(self, samples: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, N + 1, hop)."""
        used = samples[..., : self.blocks * self.hop]
        return used.reshape(-1, samples.shape[1], self.blocks, self.hop)


def hop_samples(modality: ModalitySpec) -> int:
    """Return the samples from one frame to the next."""
    return min(max(_MIN_SAMPLES // 4, round(HOP_S * modality.rate_hz)), _MAX_HOP, modality.samples // 4)


class LogMelFront(nn.Module):
    """Waveform and presence of a window -> normalised log-mels and summaries, masked.

    Buffers hold training statistics of samples and log-mels (C, M).
    """

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        channels = len(modality.channels)
        self.mels = LogMels(modality)
        self.mean = nn.Buffer(torch.zeros(channels))
        self.std = nn.Buffer(torch.ones(channels))
        self.mel_mean = nn.Buffer(torch.zeros(channels, self.mels.count))
        self.mel_std = nn.Buffer(torch.ones(channels, self.mels.count))
        self.positions = self.mels.positions
        self.spectrum = channels * self.mels.count
        self.width = 2 * self.spectrum + channels
        self.statistics = 3 * self.spectrum

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> series (B, C (2 M + 1), N), spectrum (B, C M), statistics (B, 3 C M).

        Series: log-mels, normalised globally and over the window, presence. Spectrum: means. Statistics: std, maximum,
        mean absolute step.
        """
        mels, presence = self.log_mels(values, present)
        presence = presence[..., None]  # (B, C, N, 1)
        scaled = ((mels - self.mel_mean[:, None]) / self.mel_std[:, None]).clamp(-_CLIP, _CLIP) * presence
        count = presence.sum(2).clamp(min=1.0)  # (B, C, 1)
        mean = scaled.sum(2) / count  # (B, C, M)
        local = (scaled - mean[:, :, None]) * presence
        spread = ((local * local).sum(2) / count + _STILL).log() * 0.5
        high = ((scaled + 2 * _CLIP) * presence).amax(2) - 2 * _CLIP
        pairs = presence[:, :, 1:] * presence[:, :, :-1]
        step = ((local[:, :, 1:] - local[:, :, :-1]).abs() * pairs).sum(2) / pairs.sum(2).clamp(min=1.0)
        series = torch.cat([scaled, local, presence], dim=-1).transpose(2, 3).flatten(1, 2)
        statistics = torch.cat([spread, high.clamp(min=-_CLIP), step], dim=-1)
        return series, mean.flatten(1), statistics.flatten(1)

    def log_mels(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> log-mels (B, C, N, M) of standardised samples and presence of frames (B, C, N)."""
        # Time last before anything else: onnxruntime takes many times longer for numbers that stand one to a row.
        samples, presence = values.transpose(1, 2), present.transpose(1, 2)
        mels, presence = self.mels((samples - self.mean[:, None]) / self.std[:, None] * presence, presence)
        return mels, presence

    def presence(self, present: Tensor) -> Tensor:
        """(B, T, C) -> (B, N): fraction of channels that have each frame."""
        return self.mels.presence(present)


def _is_there(fraction: Tensor) -> Tensor:
    return (fraction >= _MIN_FRACTION).to(fraction.dtype)


def _present_fraction(present: Tensor) -> Tensor:
    blocks = present.mean(-1)
    return (blocks[:, :, :-1] + blocks[:, :, 1:]) * 0.5


def _power(parts: Tensor) -> Tensor:
    real, imaginary = parts.chunk(2, dim=-1)
    return real * real + imaginary * imaginary


def mel_matrices(frame: int, rate_hz: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a windowed discrete Fourier transform as two matmuls, and the triangles that pool its power.

    Even bins transform the sum of a frame's halves and odd ones the difference (Cooley, Tukey, Math. Comp. 19, 1965).
    Returns window (2, frame / 2), bases of even and odd bins (frame / 2, 2 F), real parts first, and filters (F, M).
    """
    bins = np.concatenate([np.arange(2, frame // 2, 2), np.arange(1, frame // 2, 2)])
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).reshape(2, -1)
    angle = 2 * np.pi * (np.outer(np.arange(frame // 2), bins) % frame) / frame
    even, odd = angle[:, : len(bins) // 2], angle[:, len(bins) // 2 :]
    bases = [np.concatenate([np.cos(part), -np.sin(part)], axis=1) for part in (even, odd)]
    count = min(_MELS, len(bins))
    filters = _triangles(bins * rate_hz / frame, rate_hz, count)
    while count > 1 and not filters.any(axis=0).all():
        count -= 1
        filters = _triangles(bins * rate_hz / frame, rate_hz, count)
    first, second, third, fourth = (torch.from_numpy(part.astype(np.float32)) for part in (window, *bases, filters))
    return first, second, third, fourth


def _triangles(bins_hz: NDArray[np.float64], rate_hz: float, mels: int) -> NDArray[np.float64]:
    # Slaney's scale: linear up to 1 kHz, logarithmic above.
    top = rate_hz / 2
    highest = top / _LINEAR_HZ if top < _BREAK_HZ else _BREAK_MEL + math.log(top / _BREAK_HZ) / _LOG_STEP
    places = np.linspace(0.0, highest, mels + 2)
    above = _BREAK_HZ * np.exp(_LOG_STEP * (places - _BREAK_MEL))
    edges = np.where(places < _BREAK_MEL, _LINEAR_HZ * places, above)
    width = np.diff(edges)
    rising = (bins_hz[:, None] - edges[:-2]) / width[:-1]
    falling = (edges[2:] - bins_hz[:, None]) / width[1:]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2])))
