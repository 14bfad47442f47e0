"""What a causal student sees of sound: log-mels of the newest samples, as the channels of a series.

A frame of a spectrogram is two hops long, so each hop makes one frame with the hop before it. A stream keeps that hop
and nothing else; before the first sample it is missing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.causal.series import CausalFront
from mmkd_models.networks.fronts.log_mel import LogMels


class CausalSound(nn.Module):
    """Waveform and presence -> normalised log-mels, one frame for each hop.

    Buffers as of `LogMelFront`.

    Args:
        channels: C, of the sound.

    Attributes:
        inner: the front-end behind this one, whose series the normalised log-mels are.
        before: samples that a frame needs before its hop.
        state: name and shape of what a stream keeps of the sound: samples and presence of the last hop.
    """

    mean: Tensor
    std: Tensor
    mel_mean: Tensor
    mel_std: Tensor
    every_mel: Tensor

    def __init__(self, mels: LogMels, channels: int, inner: CausalFront) -> None:
        super().__init__()
        self.mels, self.inner, self.channels = mels, inner, channels
        self.before = mels.hop
        self.state = ("waveform", (1, mels.hop, 2 * channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("mel_mean", torch.zeros(channels, mels.count))
        self.register_buffer("mel_std", torch.ones(channels, mels.count))
        self.register_buffer("every_mel", torch.ones(1, mels.count), persistent=False)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """The frames that end with each hop but the first.

        Args:
            values: (B, (N + 1) hop, C) raw; the first hop is what came before.
            present: the same.

        Returns:
            log-mels (B, N, C M), 0 where missing, and which are there, of the same shape.
        """
        mels, there = self._frames(values, present)
        scaled = (mels - self.mel_mean[:, None]) / self.mel_std[:, None] * there[..., None]  # (B, C, N, M)
        there = there[..., None] @ self.every_mel  # no expansion, which devices refuse
        return scaled.transpose(1, 2).flatten(2), there.transpose(1, 2).flatten(2)

    def along(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """A recording (B, N hop, C) from its beginning, before which a hop is missing."""
        before = (0, 0, self.before, 0)
        mels, there = self(F.pad(values, before), F.pad(present, before))
        return mels, there

    def step(self, values: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same after what the state keeps, and the next state."""
        both = torch.cat([state, torch.cat([values, present], dim=-1)], dim=1)
        mels, there = self(both[..., : self.channels], both[..., self.channels :])
        return mels, there, both[:, -self.before :]

    def log_mels(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, T, C) -> their log-mels (B, C, N, M) and which frames are there (B, C, N)."""
        used = values.shape[1] // self.mels.hop * self.mels.hop
        return self._frames(values[:, :used], present[:, :used])

    def _frames(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        samples, there = values.transpose(1, 2), present.transpose(1, 2)
        scaled = (samples - self.mean[:, None]) / self.std[:, None] * there
        shape = (-1, self.channels, samples.shape[-1] // self.mels.hop, self.mels.hop)
        return self.mels.of_blocks(scaled.reshape(shape), there.reshape(shape))


def mel_series(modality: ModalitySpec, mels: LogMels) -> ModalitySpec:
    """The series that log-mels of this sound are: a channel for each mel, a sample for each hop."""
    names = tuple(f"{channel} mel {number}" for channel in modality.channels for number in range(mels.count))
    return ModalitySpec(
        name=modality.name,
        channels=names,
        rate_hz=modality.rate_hz / mels.hop,
        samples=-(-modality.samples // mels.hop),
    )
