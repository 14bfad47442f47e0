"""A causal student one block of samples at a time: the same weights and answers, with the past in explicit state.

Owns what is kept from one step to the next. Every state is float32 and begins as zeros: nothing has been heard yet.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.causal_front import Blocks
from mmkd_models.networks.encoder import EXTRA_TOKENS, MASKED, Block, Pool
from mmkd_models.networks.student import Student


class StepStudent(nn.Module):
    """One step of a causal student.

    Args:
        student: whose weights it uses.
        temperature: what the logits are divided by for the probabilities; the logits themselves stay as they are.

    Raises:
        ValueError: the student is not causal.
    """

    everything: Tensor

    def __init__(self, student: Student, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.sharpness = 1 / temperature  # of the probabilities, as in `ExportStudent`
        self.encoder = causal_encoder(student)
        self.pool = student.pool
        self.head = student.head
        self.register_buffer("everything", torch.ones(1, self.encoder.length), persistent=False)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Gives the name and the shape of every state, in order; the first axis is the batch.

        `history` holds samples and presence for the filters, `moments`, `sums` and `peaks` what blocks left behind,
        `series` the stem's samples, `keys_N` and `values_N` what block N is asked for, `tokens` what is pooled.
        """
        encoder, front = self.encoder, self.encoder.front
        length, channels = encoder.length, front.channels
        width = self.head.in_features
        shapes: dict[str, tuple[int, ...]] = {
            "history": (1, front.history, 2 * channels),
            "moments": (1, length, 3 * channels),
            "sums": (1, length, front.sums),
            "peaks": (1, length, 2 * channels),
            "series": (1, encoder.reach, 3 * channels),
        }
        for number, block in enumerate(encoder.blocks):
            heads = cast("Block", block).attention.heads
            for kind in ("keys", "values"):
                shapes[f"{kind}_{number}"] = (1, heads, length, width // heads)
        return shapes | {"tokens": (1, length, width)}

    def start(self) -> tuple[Tensor, ...]:
        """Gives the state before the first step."""
        return tuple(torch.zeros(shape) for shape in self.state_shapes().values())

    def forward(self, values: Tensor, present: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Answers after one more block of samples.

        Args:
            values: (1, S, C) raw values, 0 where missing.
            present: (1, S, C) 1 or 0.
            state: in the order of `state_shapes`.

        Returns:
            Logits (1, K), probabilities (1, K), and the next state.
        """
        history, moments, sums, peaks, series, *cache, tokens = state
        x, there, front_state = self._front(values, present, (history, moments, sums, peaks, series))
        missing = (there - 1.0)[:, None, None] * -MASKED  # (1, 1, 1, W)
        kept: list[Tensor] = []
        for number, block in enumerate(self.encoder.blocks):
            bias = missing + self.encoder.relative[number][:, None]  # (1, H, 1, W)
            x, found = _block_step(cast("Block", block), x, bias, cache[2 * number], cache[2 * number + 1])
            kept += found
        embedding, tokens = _pooled(self.pool, x, there, tokens)
        logits = self.head(embedding)
        scaled = logits if self.sharpness == 1 else logits * self.sharpness
        return logits, torch.softmax(scaled, dim=-1), *front_state, *kept, tokens

    def _front(
        self, values: Tensor, present: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The new time, spectrum and statistics token (1, 3, D); presence of the window's tokens (1, W); next state."""
        encoder, front = self.encoder, self.encoder.front
        history, moments, sums, peaks, series = state
        scaled = front.scaled(values, present)
        both = torch.cat([history, torch.cat([scaled, present], dim=-1)], dim=1)
        rows, there = scaled[:, None], present[:, None]  # (1, 1, S, C)
        new = front.moments(rows, there)
        moments = _shifted(moments, new)
        running = front.running(moments, self.everything)
        heard = front.tones(both[:, -front.taps :])  # (1, 1, 2 C, 2 F)
        before = both[:, -front.stride - 1 : -1][:, None]  # (1, 1, S, 2 C)
        block = front.blocks(
            rows,
            there,
            moments=new,
            running=running,
            tones=(heard[:, :, : front.channels], heard[:, :, front.channels :]),
            before=(before[..., : front.channels], before[..., front.channels :]),
        )
        sums, peaks = _shifted(sums, block.sums), _shifted(peaks, block.peaks)
        series = torch.cat([series, front.series(rows, there, running)], dim=1)
        time = encoder.stem(series.transpose(1, 2)).transpose(1, 2)  # (1, 1, D)
        extra = encoder.extra(Blocks(moments=moments, sums=sums, peaks=peaks), running, self.everything)
        tokens = torch.cat([time, extra[:, 0]], dim=1)
        counts = moments[..., : front.channels].sum(-1).clamp(max=1.0)
        kept = (both[:, -front.history :], moments, sums, peaks, series[:, -encoder.reach :])
        return tokens, counts, kept


def _block_step(block: Block, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`Block.forward` for the newest tokens (1, 3, D), which ask the time tokens kept in keys and values."""
    attention = block.attention
    batch, count, width = x.shape
    split = (batch, count, 3, attention.heads, width // attention.heads)
    q, k, v = attention.project(block.norm_attention(x)).view(split).permute(2, 0, 3, 1, 4)  # each (1, H, 3, D/H)
    keys = torch.cat([keys[:, :, 1:], k[:, :, :1]], dim=2)  # (1, H, W, D/H)
    values = torch.cat([values[:, :, 1:], v[:, :, :1]], dim=2)
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ keys.transpose(-1, -2) + bias
    mixed = torch.softmax(scores, dim=-1) @ values
    x = x + attention.out(mixed.transpose(1, 2).reshape(batch, count, width))
    x = x + block.feedforward(block.norm_feedforward(x))
    return x, [keys, values]


def _pooled(pool: Pool, x: Tensor, there: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`Pool.forward` over the window's time tokens; gives the embedding (1, D) and the tokens (1, W, D)."""
    normed = pool.norm(x)  # (1, 3, D)
    tokens = _shifted(tokens, normed[:, :1])
    mean = (there[:, None] @ tokens)[:, 0] / there.sum(-1, keepdim=True).clamp(min=1.0)
    return F.gelu(pool.mix(torch.cat([mean, normed[:, -2], normed[:, -1]], dim=-1))), tokens


def _shifted(kept: Tensor, new: Tensor) -> Tensor:
    """(B, W, ...) without the oldest, with the new one behind."""
    return torch.cat([kept[:, 1:], new], dim=1)


def causal_encoder(student: Student) -> CausalEncoder:
    """Gives the encoder of a causal student.

    Raises:
        ValueError: the student is not causal.
    """
    if isinstance(student.encoder, CausalEncoder):
        return student.encoder
    raise ValueError("student: expected a causal one, got one that looks at whole windows; train with --causal")


@torch.no_grad()
def answers_along(student: Student, values: Tensor, present: Tensor) -> Tensor:
    """Logits (B, N, K) after each block of S samples of a whole recording, in one pass: what a stream answers.

    Memory grows with the square of the recording. Where a window holds no sample at all, its logits mean nothing.

    Args:
        student: a causal one, in evaluation mode.
        values: (B, T, C) raw values, 0 where missing.
        present: (B, T, C) 1 or 0.

    Raises:
        ValueError: the student is not causal.
    """
    encoder, pool = causal_encoder(student), student.pool
    along = encoder.along(encoder.padded(values), encoder.padded(present))
    count = along.time.shape[1]
    x, masks = encoder.tokens(along, torch.arange(count))
    for block, mask in zip(encoder.blocks, masks, strict=True):
        x, _ = block(x, mask, want_map=False)
    normed = pool.norm(x)
    time, extra = normed[:, :count], normed[:, count:].reshape(-1, count, EXTRA_TOKENS, normed.shape[-1])
    steps = torch.arange(count)
    age = steps[:, None] - steps[None, :]
    weights = ((age >= 0) & (age < encoder.length)) * along.there[:, None]  # (B, N, N)
    mean = weights @ time / weights.sum(-1, keepdim=True).clamp(min=1.0)
    found: Tensor = student.head(F.gelu(pool.mix(torch.cat([mean, extra[:, :, 0], extra[:, :, 1]], dim=-1))))
    return found
