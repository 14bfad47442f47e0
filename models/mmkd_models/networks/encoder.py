"""One modality -> tokens: masked front-end, convolutional stem, two summary tokens, self-attention.

Every engine supports its operators: additive finite masks, static shapes. Tokens: L of time, a spectrum (of video the
mean embedding), statistics.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig
from mmkd_models.networks.fronts.frames import FrameFront
from mmkd_models.networks.fronts.log_mel import LogMelFront
from mmkd_models.networks.fronts.series import FrontEnd, LongFrontEnd, blocks_of, is_long
from mmkd_models.networks.layers import EXTRA_TOKENS, MASKED, Dropout, Tokens, TransformerBlock

_WIDE = 4  # halvings by a long window's first convolution, for speed

Front = FrontEnd | LongFrontEnd | LogMelFront | FrameFront
"""Front-end of a windowed encoder. Each returns a series (B, `width`, `positions`) for the stem, and (B, `spectrum`)
and (B, `statistics`) values for the two summary tokens; that of a short series has its axes swapped.
"""


def front_of(modality: ModalitySpec, config: EncoderConfig) -> Front:
    """Return a modality's front-end. Raise UsageError if it cannot read such windows."""
    match modality.kind:
        case "audio":
            return LogMelFront(modality)
        case "video":
            return FrameFront(modality, config.width)
        case "series":
            if is_long(modality.samples, config.frame):
                return LongFrontEnd(modality, config.spectrum_bands, frame=config.frame)
            return FrontEnd(modality, config.spectrum_bands, movement=config.movement)


def blank_inputs(modality: ModalitySpec) -> tuple[Tensor, Tensor]:
    """Return values and presence of a window of zeros, nothing missing."""
    dtype = torch.uint8 if modality.dtype == "uint8" else torch.float32
    return torch.zeros(1, *modality.shape, dtype=dtype), torch.ones(1, *modality.presence_shape)


class Encoder(nn.Module):
    """One modality's window -> tokens."""

    def __init__(self, modality: ModalitySpec, config: EncoderConfig) -> None:
        super().__init__()
        front = front_of(modality, config)
        strides = stem_strides(modality, front.positions, config.most_tokens)
        self.modality = modality
        self.stride = math.prod(strides)
        self.length = -(-front.positions // self.stride)
        if isinstance(front, LongFrontEnd):
            strides = (math.prod(strides[:_WIDE]), *strides[_WIDE:])
        else:
            # (T, L): column l averages the samples of token l
            matrix = np.zeros((front.positions, self.length), dtype=np.float32)
            matrix[np.arange(front.positions), np.arange(front.positions) // self.stride] = 1.0
            coverage = torch.from_numpy(matrix / matrix.sum(0, keepdims=True))
            self.coverage = nn.Buffer(coverage, persistent=False)
        self.front = front
        self.stem = strided_stem(front.width, config.width, strides)
        self.spectrum = nn.Linear(front.spectrum, config.width)
        self.statistics = nn.Linear(front.statistics, config.width)
        self.position = nn.Parameter(torch.randn(self.length + EXTRA_TOKENS, config.width) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> Tokens:
        """Encode a batch of windows."""
        series, spectrum, statistics = self.front(values, present)
        if isinstance(self.front, FrontEnd):
            series = series.transpose(1, 2)
        time = self.stem(series).transpose(1, 2)  # (B, L, D)
        extra = torch.stack([self.spectrum(spectrum), self.statistics(statistics)], dim=1)  # (B, 2, D)
        x = self.dropout(torch.cat([time, extra], dim=1) + self.position)
        bias = self.key_bias(present)
        hidden, attention = [], []
        for block in self.blocks:
            x, tap = block(x, bias, want_map=taps)
            if taps:
                hidden.append(x)
                attention.append(tap)
        return Tokens(values=x, bias=bias, hidden=tuple(hidden), attention=tuple(attention))

    def key_bias(self, present: Tensor) -> Tensor:
        """(B, T, C) -> (B, L + 2): 0 for tokens with a present sample or frame, else `MASKED`."""
        # (B, L): the part of each token's samples that is there
        if isinstance(self.front, LongFrontEnd):
            fraction = blocks_of(present.transpose(1, 2), self.length, self.stride).mean((1, 3))
        else:
            presence = present.mean(-1) if isinstance(self.front, FrontEnd) else self.front.presence(present)
            fraction = presence @ self.coverage
        time = (fraction <= 0).to(fraction.dtype) * MASKED
        whole = (fraction.sum(-1, keepdim=True) <= 0).to(fraction.dtype) * MASKED
        return torch.cat([time, whole, whole], dim=-1)


def stem_strides(modality: ModalitySpec, positions: int, most_tokens: int) -> tuple[int, ...]:
    """Return the stem's strides: halvings to at most `most_tokens`, at least one for a series."""
    if modality.kind != "series" and positions <= most_tokens:
        return (1,)
    return (2,) * max(1, math.ceil(math.log2(positions / most_tokens)))


def strided_stem(channels: int, width: int, strides: tuple[int, ...], *, kernel: int | None = None) -> nn.Sequential:
    """Return convolutions (B, C, T) -> (B, width, L); with a `kernel` they see nothing after their last sample."""
    layers: list[nn.Module] = []
    for stage, stride in enumerate(strides):
        out = width if stage == len(strides) - 1 else width // 2
        size, padding = (2 * stride + 1, stride) if kernel is None else (kernel, 0)
        layers += [nn.Conv1d(channels, out, kernel_size=size, stride=stride, padding=padding), nn.GELU()]
        channels = out
    return nn.Sequential(*layers)
