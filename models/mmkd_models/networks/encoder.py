"""One modality -> tokens: masked front-end of its kind, convolutional stem, two summary tokens, self-attention.

Owns everything that teacher and student share. Uses only operators that every engine takes: the spectrum is a
constant matmul, masks are additive and finite, shapes are static.

Token layout, everywhere: L time tokens, then one spectrum token, then one statistics token. Of video the spectrum token
is the mean of the frames' embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig
from mmkd_models.networks.dropout import Dropout
from mmkd_models.networks.fronts.frames import FrameFront
from mmkd_models.networks.fronts.log_mel import LogMelFront
from mmkd_models.networks.fronts.long import LongFrontEnd, blocks_of
from mmkd_models.networks.fronts.spectrum import is_long, spectrum_matrices

MASKED = -1e4
"""Additive attention score of a missing key: finite, so FP16 holds it and an all-missing row stays finite."""

EXTRA_TOKENS = 2
"""Spectrum and statistics, after the time tokens."""

_CLIP = 8.0  # standard deviations; keeps one glitch of a sensor from owning the window (rosa_rotor's strain: 81,288)
_CDF_LEVELS = (-1.5, -0.75, -0.25, 0.25, 0.75, 1.5)  # standard deviations of the training data
_STATISTICS = 7 + len(_CDF_LEVELS)
_FLAT = 1e-4  # variance below which a window counts as flat, of the training data's or, with movement, of its usual one
_FLAT_MOVEMENT = 1e-3
_STILL = 1e-2  # of the usual movement: a mean step below that counts as none
_WIDE = 4  # halvings that the first convolution of a long window's stem makes at once, a price that a wide kernel pays


@dataclass(frozen=True, kw_only=True)
class Projections:
    """Queries (B, Lq, D), keys (B, Lk, D) and values (B, Lk, D) of one attention, the heads side by side."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionTap:
    """What one attention computed on the way, for losses that look inside.

    Attributes:
        map: (B, H, Lq, Lk), rows sum to 1.
        projections: what the map and the output were made of.
    """

    map: Tensor
    projections: Projections


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What an encoder gives.

    Attributes:
        values: (B, L + 2, D).
        bias: (B, L + 2) additive attention score of each token as a key: 0, or `MASKED` where its samples are missing.
        hidden: (B, L + 2, D) after each block; empty unless taps were asked for.
        attention: the self-attention of each block; empty unless taps were asked for.
    """

    values: Tensor
    bias: Tensor
    hidden: tuple[Tensor, ...] = ()
    attention: tuple[AttentionTap, ...] = ()

    @property
    def valid(self) -> Tensor:
        """(B, L + 2): 1 for tokens with samples behind them, else 0."""
        return (self.bias == 0).to(self.values.dtype)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017, section 3.2.2) with fused projections.

    The fast path is `scaled_dot_product_attention`; with `want_map` the same result is computed with its map.
    """

    def __init__(self, width: int, heads: int, *, cross: bool) -> None:
        super().__init__()
        self.heads = heads
        self.cross = cross
        self.query = nn.Linear(width, width) if cross else None
        self.project = nn.Linear(width, 2 * width if cross else 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor, *, want_map: bool) -> tuple[Tensor, AttentionTap | None]:
        """Attends from x to source.

        Args:
            x: (B, Lq, D) queries.
            source: (B, Lk, D) keys and values; ignored by self-attention.
            bias: additive scores: of the keys (B, Lk), or of every pair (B, H, Lq, Lk).
            want_map: also give the attention map and the projections.

        Returns:
            (B, Lq, D), and what was computed on the way or None.
        """
        batch, length, width = x.shape
        if self.query is None:
            q, k, v = self.project(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q = self.query(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            shape = (batch, source.shape[1], 2, self.heads, width // self.heads)
            k, v = self.project(source).view(shape).permute(2, 0, 3, 1, 4)  # each (B, H, Lk, D/H)
        mask = bias[:, None, None, :] if bias.ndim == 2 else bias  # (B, 1, 1, Lk) or (B, H, Lq, Lk)
        # torch.export loses the strides of the fast path's answer where its mask has rows.
        if want_map or bias.ndim == 4:
            scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + mask
            weights = torch.softmax(scores, dim=-1)  # (B, H, Lq, Lk)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        tap = None
        if want_map:
            projections = Projections(query=_side_by_side(q), key=_side_by_side(k), value=_side_by_side(v))
            tap = AttentionTap(map=weights, projections=projections)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width)), tap


def _side_by_side(heads: Tensor) -> Tensor:
    """(B, H, L, D/H) -> (B, L, D)."""
    return heads.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear layers with a GELU."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm self-attention block (Xiong et al., 2020)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads, cross=False)
        self.norm_feedforward = nn.LayerNorm(config.width)
        self.feedforward = FeedForward(config.width, config.feedforward_ratio)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, *, want_map: bool) -> tuple[Tensor, AttentionTap | None]:
        """(B, L, D), (B, L) or (B, H, L, L) -> (B, L, D) and its attention (map (B, H, L, L)) or None."""
        normed = self.norm_attention(x)
        attended, tap = self.attention(normed, normed, bias, want_map=want_map)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feedforward(self.norm_feedforward(x)))
        return x, tap


class FrontEnd(nn.Module):
    """Raw values and presence -> normalised views and summaries, all masked.

    Buffers hold the training data's statistics, so normalisation travels inside the graph.

    Args:
        movement: see `EncoderConfig`; what is told about extremes and steps is then in that unit, and there is a slope.
    """

    mean: Tensor
    std: Tensor
    movement: Tensor
    time: Tensor
    spectrum_basis: Tensor
    spectrum_bands: Tensor
    levels: Tensor

    def __init__(self, modality: ModalitySpec, bands: int, *, movement: bool = False) -> None:
        super().__init__()
        samples, channels = modality.shape
        self.has_movement = movement
        if movement:
            self.register_buffer("movement", torch.ones(channels))
            self.register_buffer("time", torch.linspace(-1, 1, samples)[:, None], persistent=False)
        basis, band_matrix = spectrum_matrices(samples, bands)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("spectrum_basis", basis, persistent=False)
        self.register_buffer("spectrum_bands", band_matrix, persistent=False)
        self.register_buffer("levels", torch.tensor(_CDF_LEVELS), persistent=False)
        self.bands = band_matrix.shape[1]
        self.statistics = (_STATISTICS + movement) * channels + channels * channels
        self.positions, self.width, self.spectrum = samples, (3 + movement) * channels, channels * self.bands

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the three views of a window.

        Returns:
            series (B, T, 3 C or 4 C): globally normalised, per-window normalised, movement where it is seen, presence;
            spectrum (B, C * bands): log power in bands of the per-window normalised signal;
            statistics (B, S): moments, extremes, mean absolute step, soft distribution function, channel products.
        """
        scaled = ((values - self.mean) / self.std).clamp(-_CLIP, _CLIP) * present
        count = present.sum(1, keepdim=True).clamp(min=1.0)  # (B, 1, C)
        mean = scaled.sum(1, keepdim=True) / count
        centred = (scaled - mean) * present
        # Twice: float32 leaves a rest of a large mean, which a tiny spread blows up, and engines sum in other orders.
        centred = (centred - centred.sum(1, keepdim=True) / count) * present
        moved = centred * (self.std / self.movement) if self.has_movement else centred
        flat = _FLAT_MOVEMENT if self.has_movement else _FLAT
        spread = ((moved * moved).sum(1, keepdim=True) / count + flat).sqrt()
        local = moved / spread
        moved = moved.clamp(-_CLIP, _CLIP)
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
        absent, seen = 1.0 - present, moved if self.has_movement else scaled
        low = (seen + absent * 2 * _CLIP).amin(1).clamp(max=_CLIP)  # (B, C)
        high = (seen - absent * 2 * _CLIP).amax(1).clamp(min=-_CLIP)
        pairs = present[:, 1:] * present[:, :-1]
        step = ((seen[:, 1:] - seen[:, :-1]).abs() * pairs).sum(1) / pairs.sum(1).clamp(min=1.0)
        squares = local * local
        skewness = (squares * local).sum(1) / count[:, 0]
        kurtosis = ((squares * squares).sum(1) / count[:, 0] + 1e-2).log()
        below = torch.sigmoid((self.levels - scaled[..., None]) * 4.0) * present[..., None]  # (B, T, C, levels)
        below = below.sum(1) / count.transpose(1, 2)  # (B, C, levels)
        products = local.transpose(1, 2) @ local / local.shape[1]  # (B, C, C), correlations of the channels
        one_each = [mean[:, 0], spread[:, 0].log(), low, high, step, skewness, kurtosis]
        if self.has_movement:
            one_each[4] = (step + _STILL).log()
            one_each.append((moved * self.time).sum(1) / count[:, 0])  # slope
        return torch.cat([*one_each, below.flatten(1), products.flatten(1)], dim=-1)


Front = FrontEnd | LongFrontEnd | LogMelFront | FrameFront
"""What a windowed encoder sees its samples through. Each gives a series (B, `width`, `positions`) for the stem, and
(B, `spectrum`) and (B, `statistics`) values for the two summary tokens; that of a short series has its axes swapped."""


def front_of(modality: ModalitySpec, config: EncoderConfig) -> Front:
    """Gives the front-end of a modality's kind. Raises UsageError where it cannot see such windows."""
    match modality.kind:
        case "audio":
            return LogMelFront(modality)
        case "video":
            return FrameFront(modality, config.width, late_change=config.late_change)
        case "series":
            if config.frame is not None and is_long(modality.samples, config.frame):
                return LongFrontEnd(modality, config.spectrum_bands, frame=config.frame)
            return FrontEnd(modality, config.spectrum_bands, movement=config.movement)


def blank_inputs(modality: ModalitySpec) -> tuple[Tensor, Tensor]:
    """Gives values and presence of one window of zeros that misses nothing."""
    dtype = torch.uint8 if modality.dtype == "uint8" else torch.float32
    return torch.zeros(1, *modality.shape, dtype=dtype), torch.ones(1, *modality.presence_shape)


class Encoder(nn.Module):
    """One modality's window -> tokens."""

    coverage: Tensor

    def __init__(self, modality: ModalitySpec, config: EncoderConfig) -> None:
        super().__init__()
        front = front_of(modality, config)
        strides = strides_of(modality, front.positions, config.most_tokens)
        self.modality = modality
        self.stride = math.prod(strides)
        self.length = -(-front.positions // self.stride)
        if isinstance(front, LongFrontEnd):
            strides = (math.prod(strides[:_WIDE]), *strides[_WIDE:])
        else:
            self.register_buffer("coverage", _coverage(front.positions, self.stride), persistent=False)
        self.front = front
        self.stem = _stem(front.width, config.width, strides)
        self.spectrum = nn.Linear(front.spectrum, config.width)
        self.statistics = nn.Linear(front.statistics, config.width)
        self.position = nn.Parameter(torch.randn(self.length + EXTRA_TOKENS, config.width) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> Tokens:
        """Encodes a batch of windows."""
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
        """(B, T, C) -> (B, L + 2): 0 for tokens with at least one present sample behind them, else `MASKED`.

        Of sound and video frames stand for samples.
        """
        # (B, L): share of each token's samples that are there
        if isinstance(self.front, LongFrontEnd):
            share = blocks_of(present.transpose(1, 2), self.length, self.stride).mean((1, 3))
        else:
            there = present.mean(-1) if isinstance(self.front, FrontEnd) else self.front.presence(present)
            share = there @ self.coverage
        time = (share <= 0).to(share.dtype) * MASKED
        whole = (share.sum(-1, keepdim=True) <= 0).to(share.dtype) * MASKED
        return torch.cat([time, whole, whole], dim=-1)


class TokenPooling(nn.Module):
    """Tokens -> one embedding: mean of the present time tokens beside the spectrum and statistics tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(3 * width, width)

    def forward(self, values: Tensor, bias: Tensor) -> Tensor:
        """(B, L + 2, D), (B, L + 2) -> (B, D)."""
        x = self.norm(values)
        weights = (bias[:, :-EXTRA_TOKENS] == 0).to(x.dtype)[..., None]  # (B, L, 1)
        mean = (x[:, :-EXTRA_TOKENS] * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return F.gelu(self.mix(torch.cat([mean, x[:, -2], x[:, -1]], dim=-1)))


def stem_strides(samples: int, most_tokens: int) -> tuple[int, ...]:
    """Strides of the stem's convolutions: halvings until at most `most_tokens` are left, at least one.

    Example:
        >>> stem_strides(200, 32)
        (2, 2, 2)
    """
    halvings = max(1, math.ceil(math.log2(samples / most_tokens)))
    return (2,) * halvings


def strides_of(modality: ModalitySpec, positions: int, most_tokens: int) -> tuple[int, ...]:
    """Of the stem: a series is halved at least once, and frames of sound and video only where they are too many."""
    if modality.kind != "series" and positions <= most_tokens:
        return (1,)
    return stem_strides(positions, most_tokens)


def _stem(channels: int, width: int, strides: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for stage, stride in enumerate(strides):
        last = stage == len(strides) - 1
        out = width if last else width // 2
        layers += [nn.Conv1d(channels, out, kernel_size=2 * stride + 1, stride=stride, padding=stride), nn.GELU()]
        channels = out
    return nn.Sequential(*layers)


def _coverage(samples: int, stride: int) -> Tensor:
    """(T, L): column l averages the samples that token l stands for."""
    length = -(-samples // stride)
    owner = np.arange(samples) // stride
    matrix = np.zeros((samples, length), dtype=np.float32)
    matrix[np.arange(samples), owner] = 1.0
    return torch.from_numpy(matrix / matrix.sum(0, keepdims=True))
