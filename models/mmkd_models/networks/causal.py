"""The encoder of a causal student: no token sees later samples.

Time tokens of a causal strided stem attend to a window of them, with a relative position code; spectrum and statistics
tokens attend to them only, so a stream computes three tokens per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig
from mmkd_models.networks.encoder import stem_strides, strided_stem
from mmkd_models.networks.fronts.causal import Blocks, CausalFront, CausalSound, Running, mel_series
from mmkd_models.networks.fronts.log_mel import LogMels
from mmkd_models.networks.layers import MASKED, AttentionTap, Dropout, Projections, Tokens, TransformerBlock

FORBIDDEN = 3 * MASKED
"""Additive attention score of a key that a query must not see: far below a missing one, and finite in FP16."""

_KERNEL = 5
_BANDS_OF_MANY = 4  # filters of every log-mel
_HISTORY = 0.5  # fraction of batches whose windows follow others, as in a stream


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording before the first block: time tokens (B, N, D), presence (B, N), and running statistics."""

    time: Tensor
    presence: Tensor
    blocks: Blocks
    running: Running


class CausalEncoder(nn.Module):
    """One modality -> causal tokens. Raises UsageError for windows below two tokens."""

    def __init__(self, modality: ModalitySpec, config: EncoderConfig) -> None:
        super().__init__()
        if modality.kind == "video":
            raise UsageError(
                f"modality {modality.name!r}: expected a series or audio for a causal student, got video; train a "
                "windowed one"
            )
        series, hop, is_sound = modality, 1, modality.kind == "audio"
        if is_sound:
            mels = LogMels(modality)
            series, hop = mel_series(modality, mels), mels.hop
        strides = stem_strides(modality, series.samples, config.most_tokens)
        channels, bands = len(series.channels), config.spectrum_bands
        self.modality = modality
        self.block = math.prod(strides)  # of the series; of sound its samples are frames
        self.stride = self.block * hop
        self.length = -(-series.samples // self.block)
        if self.length < 2:
            raise UsageError(
                f"modality {modality.name!r}: expected windows of at least {self.stride + 1} samples for a causal "
                f"student, got {modality.samples}; train a windowed one"
            )
        inner = CausalFront(
            series,
            stride=self.block,
            tokens=self.length,
            bands=min(bands, _BANDS_OF_MANY) if is_sound else bands,
            products=not is_sound,
        )
        self.front: CausalFront | CausalSound = inner
        if is_sound:
            self.front = CausalSound(mels, len(modality.channels), inner)
        field = 1 + (_KERNEL - 1) * sum(math.prod(strides[:stage]) for stage in range(len(strides)))
        self.reach = field - self.block  # before a block, what its time token sees of the series
        # Samples that an answer can depend on: the pool, every block and the statistics each look a window back, the
        # statistics from the oldest samples that the stem sees; what the series is made of begins before them.
        steps = (config.depth + 2) * (self.length - 1) + 1 - (-self.reach // self.block)
        self.memory = self.stride * steps + (0 if isinstance(self.front, CausalFront) else self.front.before)
        self.stem = strided_stem(3 * channels, config.width, strides, kernel=_KERNEL)
        self.spectrum = nn.Linear(channels * inner.bands, config.width)
        self.statistics = nn.Linear(inner.statistics, config.width)
        # Position codes, the newest last, begin as ALiBi's (Press, Smith, Lewis, ICLR 2022), and are trained.
        slopes, age = (
            2.0 ** (-8.0 * torch.arange(1, config.heads + 1) / config.heads),
            torch.arange(self.length - 1, -1, -1.0),
        )
        self.relative = nn.Parameter(-(slopes[:, None] * age).expand(config.depth, -1, -1).clone())  # (depth, H, W)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))

    @property
    def inner(self) -> CausalFront:
        """Front-end of the series: samples or log-mels."""
        return self.front if isinstance(self.front, CausalFront) else self.front.inner

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> Tokens:
        """Encode windows."""
        values, present = self.padded(values), self.padded(present)
        if self.training and float(torch.rand(())) < _HISTORY:
            values, present = (torch.cat([x.roll(1, 0), x], dim=1) for x in (values, present))
        recording = self.recording(values, present)
        # Not `torch.tensor`: LiteRT's converter gives the two different integers, and then they do not go together.
        last = torch.arange(recording.time.shape[1] - 1, recording.time.shape[1], device=values.device)
        x, bias = self.tokens(recording, last)
        kept = slice(-self.length - 2, None)
        hidden: list[Tensor] = []
        attention: list[AttentionTap] = []
        for block, mask in zip(self.blocks, bias, strict=True):
            x, tap = block(x, mask, want_map=taps)
            if taps:
                hidden.append(x[:, kept])
                q, k, v = (getattr(tap.projections, name)[:, kept] for name in ("query", "key", "value"))
                own = Projections(query=q, key=k, value=v)
                attention.append(AttentionTap(map=tap.map[:, :, kept, kept], projections=own))
        presence = recording.presence[:, -self.length :]
        whole = presence.amax(1, keepdim=True)
        return Tokens(
            values=x[:, kept],
            bias=(torch.cat([presence, whole, whole], dim=1) - 1.0) * -MASKED,
            hidden=tuple(hidden),
            attention=tuple(attention),
        )

    def padded(self, samples: Tensor) -> Tensor:
        """(B, T, ...) -> whole blocks, padded with missing samples at the start."""
        lead = -samples.shape[1] % self.stride
        return F.pad(samples, (0, 0) * (samples.ndim - 2) + (lead, 0)) if lead else samples

    def recording(self, values: Tensor, present: Tensor) -> Recording:
        """Whole blocks (B, N S, ...) -> time tokens and statistics."""
        if not isinstance(self.front, CausalFront):
            values, present = self.front.recording(values, present)
        front, count = self.inner, values.shape[1] // self.block
        scaled = front.scaled(values, present)
        band = last_blocks(torch.arange(count, device=values.device), count, self.length).to(values)
        shape = (-1, count, self.block, front.channels)
        rows, presence = scaled.reshape(shape), present.reshape(shape)  # (B, N, S, C)
        moments = front.moments(rows, presence)
        running = front.running(moments, band)
        history = (0, 0, front.taps - self.block, 0)
        blocks = front.blocks(
            rows,
            presence,
            moments=moments,
            running=running,
            tones=(front.tones(F.pad(scaled, history)), front.tones(F.pad(present, history))),
            before=(_earlier(scaled).view_as(rows), _earlier(present).view_as(rows)),
        )
        series = F.pad(front.series(rows, presence, running), (0, 0, self.reach, 0))
        time = self.stem(series.transpose(1, 2)).transpose(1, 2)  # (B, N, D)
        return Recording(time=time, presence=presence.amax((2, 3)), blocks=blocks, running=running)

    def tokens(self, recording: Recording, ends: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the tokens before the first block (B, N + 2 I, D), and each block's bias (B, H, N + 2 I, N + 2 I).

        The 2 I summary tokens look back from blocks `ends` (I,).
        """
        count = recording.time.shape[1]
        band = last_blocks(ends, count, self.length).to(recording.time)
        running = Running(**{name: getattr(recording.running, name)[:, ends] for name in ("count", "mean", "spread")})
        extra = self.extra(recording.blocks, running, band).flatten(1, 2)  # (B, 2 I, D)
        x = self.dropout(torch.cat([recording.time, extra], dim=1))
        steps = torch.cat([torch.arange(count, device=ends.device), ends.repeat_interleave(2)])
        keys = F.pad(recording.presence, (0, extra.shape[1]))
        missing = (keys - 1.0)[:, None, None] * -MASKED  # (B, 1, 1, N + 2 I)
        return x, [missing + pairs for pairs in self._pairs(steps, count)]

    def extra(self, blocks: Blocks, running: Running, band: Tensor) -> Tensor:
        """Spectrum and statistics tokens (B, I, 2, D) of stretches `band` (I, M)."""
        spectrum, statistics = self.inner.summary(blocks, running, band)
        return torch.stack([self.spectrum(spectrum), self.statistics(statistics)], dim=2)

    def _pairs(self, steps: Tensor, count: int) -> Tensor:
        """(depth, H, Q, Q): position code of each pair, or `FORBIDDEN`."""
        age = steps[:, None] - steps[None, :]
        visible = (age >= 0) & (age < self.length) & (torch.arange(len(steps), device=steps.device) < count)
        code = self.relative[:, :, self.length - 1 - age.clamp(0, self.length - 1)]
        return torch.where(visible, code, FORBIDDEN)


def last_blocks(ends: Tensor, count: int, length: int) -> Tensor:
    """(I, N): 1 for the `length` blocks up to each of `ends`, else 0."""
    age = ends[:, None] - torch.arange(count, device=ends.device)[None, :]
    return (age >= 0) & (age < length)


def _earlier(samples: Tensor) -> Tensor:
    return F.pad(samples, (0, 0, 1, 0))[:, :-1]
