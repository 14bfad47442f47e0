"""Layers that teacher and student share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import TaskKind
from mmkd_models.networks.config import EncoderConfig

MASKED = -1e4  # additive attention score of a missing key: finite, so FP16 holds it and an all-missing row stays finite
EXTRA_TOKENS = 2  # spectrum and statistics, after the time tokens
_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Projections:
    """Queries (B, Lq, D), keys (B, Lk, D) and values (B, Lk, D), heads side by side."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionTap:
    """An attention for losses: its map (B, H, Lq, Lk), rows with sum 1, and projections."""

    map: Tensor
    projections: Projections


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The output of an encoder."""

    values: Tensor  # (B, L + 2, D)
    bias: Tensor  # (B, L + 2) attention score added to each key: 0, or `MASKED` if its samples are missing
    hidden: tuple[Tensor, ...] = ()  # (B, L + 2, D) after each block; empty without taps, as `attention`
    attention: tuple[AttentionTap, ...] = ()

    @property
    def valid(self) -> Tensor:
        """(B, L + 2): 1 for tokens with samples, else 0."""
        return (self.bias == 0).to(self.values.dtype)


class AnswerHead(nn.Module):
    """The output of a network, without weights; a regression has mean and std (1,) of training targets."""

    def __init__(self, kind: TaskKind) -> None:
        super().__init__()
        self.kind = kind
        if kind == "regression":
            self.mean = nn.Buffer(torch.zeros(1))
            self.std = nn.Buffer(torch.ones(1))

    def logits(self, raw: Tensor) -> Tensor:
        """(B, K) -> (B, K): logits, or a regression's numbers in the target's unit, (B, 1)."""
        return raw * self.std + self.mean if self.kind == "regression" else raw

    def forward(self, raw: Tensor) -> Tensor:
        """(B, K) -> (B, K): probabilities, a regression's numbers in the target's unit, or scores of `normal`."""
        if self.kind == "classification":
            return torch.softmax(raw, dim=-1)
        if self.kind == "multi_label":
            return torch.sigmoid(raw)
        return torch.exp(raw) if self.kind == "normal" else self.logits(raw)


class Dropout(nn.Module):
    """`nn.Dropout` (Srivastava et al., JMLR 2014) with masks that are cheap on a CPU.

    A byte of NumPy's SFC64, seeded by torch, decides, so the probability is a multiple of 1 / 256.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        kept = max(1, round(_BYTES * (1 - self.probability)))
        return x * ((_random_bytes(x.shape) < kept).to(x.dtype) * (_BYTES / kept))


def _random_bytes(shape: torch.Size) -> Tensor:
    count = math.prod(shape)
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, size=-(-count // 8), dtype=np.uint64)
    return torch.from_numpy(words.view(np.uint8)[:count]).view(shape)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017, section 3.2.2) with fused projections."""

    def __init__(self, width: int, heads: int, *, cross: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width) if cross else None
        self.project = nn.Linear(width, 2 * width if cross else 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor, *, want_map: bool) -> tuple[Tensor, AttentionTap | None]:
        """Attend from x (B, Lq, D) to source (B, Lk, D); self-attention ignores the source.

        Also returns the tap if `want_map`. The bias is added: (B, Lk) of keys, or (B, H, Lq, Lk) of pairs.
        """
        batch, length, width = x.shape
        if self.query is None:
            q, k, v = self.project(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q = self.query(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            shape = (batch, source.shape[1], 2, self.heads, width // self.heads)
            k, v = self.project(source).view(shape).permute(2, 0, 3, 1, 4)  # each (B, H, Lk, D/H)
        mask = bias[:, None, None, :] if bias.ndim == 2 else bias  # (B, 1, 1, Lk) or (B, H, Lq, Lk)
        # torch.export loses the strides of the fast path's answer if its mask has rows.
        if want_map or bias.ndim == 4:
            scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + mask
            weights = torch.softmax(scores, dim=-1)  # (B, H, Lq, Lk)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        tap = None
        if want_map:
            query, key, value = (part.transpose(1, 2).flatten(2) for part in (q, k, v))  # (B, L, D)
            tap = AttentionTap(map=weights, projections=Projections(query=query, key=key, value=value))
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width)), tap


class _FeedForward(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm self-attention block (Xiong et al., 2020)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads, cross=False)
        self.norm_feedforward = nn.LayerNorm(config.width)
        self.feedforward = _FeedForward(config.width, config.feedforward_ratio)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, *, want_map: bool) -> tuple[Tensor, AttentionTap | None]:
        """(B, L, D), (B, L) or (B, H, L, L) -> (B, L, D) and its attention's tap."""
        normed = self.norm_attention(x)
        attended, tap = self.attention(normed, normed, bias, want_map=want_map)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feedforward(self.norm_feedforward(x)))
        return x, tap


class TokenPooling(nn.Module):
    """Tokens -> embedding: the mean of present time tokens, with both summary tokens."""

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
