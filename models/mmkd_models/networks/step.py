"""A causal student by blocks of samples, with explicit float32 state that begins as zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.networks.causal import FORBIDDEN, CausalEncoder
from mmkd_models.networks.fronts.causal import Blocks, CausalFront
from mmkd_models.networks.layers import EXTRA_TOKENS, MASKED, TokenPooling, TransformerBlock
from mmkd_models.networks.student import Student
from mmkd_models.novelty import NoveltyScore, TrainingEmbeddings

_OF_SERIES = 5  # states of the series: `history`, `moments`, `sums`, `peaks` and `series`


class StepStudent(nn.Module):
    """One step of a causal student.

    The newest block replaces the oldest slot: sums ignore the order, attention gets each key's age. Arguments as in
    `ExportStudent`, errors as in `causal_encoder`.
    """

    def __init__(
        self, student: Student, *, temperature: float = 1.0, embeddings: TrainingEmbeddings | None = None
    ) -> None:
        super().__init__()
        self.sharpness = 1 / temperature  # of the probabilities, as in `ExportStudent`
        self.encoder = causal_encoder(student)
        self.pool = student.pool
        self.head, self.answer = student.head, student.answer
        self.novelty = None if embeddings is None else NoveltyScore(embeddings)
        places = torch.arange(self.encoder.length, dtype=torch.float32)[None]
        self.places = nn.Buffer(places, persistent=False)
        # By age, the newest first; a block as old as the window is not seen.
        relative = self.encoder.relative.detach()
        self.codes = nn.Buffer(F.pad(relative.flip(-1), (0, 1), value=FORBIDDEN), persistent=False)

    def state_shapes(self) -> dict[str, tuple[tuple[int, ...], int | None]]:
        """Return each state's name, in order, with its shape and slot axis, or None without slots.

        `history`: samples and presence for filters; `moments`, `sums`, `peaks`: of blocks; `series`: stem samples;
        `waveform`: last hop; `keys_N`, `values_N`: of block N; `tokens`: for pooling.
        """
        encoder, front = self.encoder, self.encoder.inner
        length, channels = encoder.length, front.channels
        width = self.head.in_features
        shapes: dict[str, tuple[tuple[int, ...], int | None]] = {
            "history": ((1, front.history, 2 * channels), None),
            "moments": ((1, length, 3 * channels), 1),
            "sums": ((1, length, front.sums), 1),
            "peaks": ((1, length, 2 * channels), 1),
            "series": ((1, encoder.reach, 3 * channels), None),
        }
        if not isinstance(encoder.front, CausalFront):
            shapes["waveform"] = ((1, encoder.front.before, 2 * encoder.front.channels), None)
        for number, block in enumerate(encoder.blocks):
            heads = cast("TransformerBlock", block).attention.heads
            for kind in ("keys", "values"):
                shapes[f"{kind}_{number}"] = ((1, heads, length, width // heads), 2)
        return shapes | {"tokens": ((1, length, width), 1)}

    def start(self) -> tuple[Tensor, ...]:
        """Return the state before the first step."""
        return tuple(torch.zeros(shape) for shape, _ in self.state_shapes().values())

    def kept(self, state: Sequence[Tensor], news: Sequence[Tensor], number: int) -> tuple[Tensor, ...]:
        """Return the state after step `number`, from 0, which returned `news`."""
        after = []
        for before, new, (_, axis) in zip(state, news, self.state_shapes().values(), strict=True):
            slot = torch.tensor([number % self.encoder.length])
            after.append(new if axis is None else before.index_copy(axis, slot, new))
        return tuple(after)

    def forward(self, values: Tensor, present: Tensor, slot: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Answer after one more block: raw values (1, S, C), 0 where missing, and presence.

        `slot` (1, 1) is the step's number from 0, modulo the slots; `state` is as in `state_shapes`. Returns logits and
        probabilities (1, K), perhaps novelty (1, 1), and news of every state, all or one slot.
        """
        *cache, tokens = state
        newest: tuple[Tensor, ...] = ()
        if not isinstance(self.encoder.front, CausalFront):
            values, present, waveform = self.encoder.front.step(values, present, cache[_OF_SERIES])
            newest = (waveform,)
        front_before, cache = cache[:_OF_SERIES], cache[_OF_SERIES + len(newest) :]
        behind = slot - self.places - 1.0  # (1, W)
        age = behind + (behind < 0).to(behind.dtype) * self.encoder.length + 1.0  # blocks; from 1 to W
        live = (age < self.encoder.length).to(age.dtype)
        x, presence, front_state = self._front(values, present, live, front_before)
        missing = (presence - 1.0)[:, None, None] * -MASKED  # (1, 1, 1, W + 1)
        codes = self.codes[:, :, torch.cat([age, torch.zeros_like(slot)], dim=1)[0].long()]  # (depth, H, W + 1)
        kept: list[Tensor] = []
        for number, block in enumerate(self.encoder.blocks):
            bias = missing + codes[number][:, None]  # (1, H, 1, W + 1)
            x, news = _block_step(cast("TransformerBlock", block), x, bias, cache[2 * number], cache[2 * number + 1])
            kept += news
        embedding, token = _pool_tokens(self.pool, x, presence * F.pad(live, (0, 1), value=1.0), tokens)
        logits = self.head(embedding)
        scaled = logits if self.sharpness == 1 else logits * self.sharpness
        novelty = () if self.novelty is None else (self.novelty(embedding),)
        return logits, self.answer(scaled), *novelty, *front_state, *newest, *kept, token

    def _front(
        self, values: Tensor, present: Tensor, live: Tensor, state: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """New tokens (1, 3, D), presence of blocks (1, W + 1), and news of the state."""
        encoder, front = self.encoder, self.encoder.inner
        history, moments, sums, peaks, series = state
        scaled = front.scaled(values, present)
        both = torch.cat([history, torch.cat([scaled, present], dim=-1)], dim=1)
        rows, presence = scaled[:, None], present[:, None]  # (1, 1, S, C)
        new = front.moments(rows, presence)
        band = F.pad(live, (0, 1), value=1.0)  # (1, W + 1): the slots, and the new block behind them
        moments = torch.cat([moments, new], dim=1)
        running = front.running(moments, band)
        tones = front.tones(both[:, -front.taps :])  # (1, 1, 2 C, 2 F)
        before = both[:, -front.stride - 1 : -1][:, None]  # (1, 1, S, 2 C)
        block = front.blocks(
            rows,
            presence,
            moments=new,
            running=running,
            tones=(tones[:, :, : front.channels], tones[:, :, front.channels :]),
            before=(before[..., : front.channels], before[..., front.channels :]),
        )
        series = torch.cat([series, front.series(rows, presence, running)], dim=1)
        time = encoder.stem(series.transpose(1, 2)).transpose(1, 2)  # (1, 1, D)
        blocks = Blocks(
            moments=moments, sums=torch.cat([sums, block.sums], dim=1), peaks=torch.cat([peaks, block.peaks], dim=1)
        )
        extra = encoder.extra(blocks, running, band)
        x = torch.cat([time, extra[:, 0]], dim=1)
        counts = moments[..., : front.channels].sum(-1).clamp(max=1.0)
        return x, counts, (both[:, -front.history :], new, block.sums, block.peaks, series[:, -encoder.reach :])


def _block_step(
    block: TransformerBlock, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """`TransformerBlock.forward` for the newest tokens (1, 3, D); keys are past time tokens and the newest one."""
    attention = block.attention
    batch, count, width = x.shape
    split = (batch, count, 3, attention.heads, width // attention.heads)
    q, k, v = attention.project(block.norm_attention(x)).view(split).permute(2, 0, 3, 1, 4)  # each (1, H, 3, D/H)
    q, k, v = q * (1.0 / math.sqrt(q.shape[-1])), k[:, :, :1], v[:, :, :1]
    scores = torch.cat([q @ keys.transpose(-1, -2), (q * k).sum(-1, keepdim=True)], dim=-1) + bias  # (1, H, 3, W + 1)
    weights = torch.softmax(scores, dim=-1)
    mixed = weights[..., :-1] @ values + weights[..., -1:] * v
    x = x + attention.out(mixed.transpose(1, 2).reshape(batch, count, width))
    x = x + block.feedforward(block.norm_feedforward(x))
    return x, [k, v]


def _pool_tokens(pool: TokenPooling, x: Tensor, presence: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`TokenPooling.forward` over time tokens: (1, D) and the newest token (1, 1, D)."""
    normed = pool.norm(x)  # (1, 3, D)
    token = normed[:, :1]
    total = (presence[:, None, :-1] @ tokens + presence[:, None, -1:] * token)[:, 0]
    mean = total / presence.sum(-1, keepdim=True).clamp(min=1.0)
    return F.gelu(pool.mix(torch.cat([mean, normed[:, -2], normed[:, -1]], dim=-1))), token


def causal_encoder(student: Student) -> CausalEncoder:
    """Return the encoder of a student. Raise ValueError if it is not causal."""
    if isinstance(student.encoder, CausalEncoder):
        return student.encoder
    raise ValueError("student: expected a causal one, got one that looks at whole windows; train with --causal")


@torch.no_grad()
def embeddings_along(student: Student, values: Tensor, present: Tensor) -> Tensor:
    """Return embeddings (B, N, D) after each block of S samples of a recording in one pass, as in a stream.

    Memory grows with its square.
    """
    encoder, pool = causal_encoder(student), student.pool
    recording = encoder.recording(encoder.padded(values), encoder.padded(present))
    count = recording.time.shape[1]
    x, masks = encoder.tokens(recording, torch.arange(count))
    for block, mask in zip(encoder.blocks, masks, strict=True):
        x, _ = block(x, mask, want_map=False)
    normed = pool.norm(x)
    time, extra = normed[:, :count], normed[:, count:].reshape(-1, count, EXTRA_TOKENS, normed.shape[-1])
    steps = torch.arange(count)
    age = steps[:, None] - steps[None, :]
    weights = ((age >= 0) & (age < encoder.length)) * recording.presence[:, None]  # (B, N, N)
    mean = weights @ time / weights.sum(-1, keepdim=True).clamp(min=1.0)
    return F.gelu(pool.mix(torch.cat([mean, extra[:, :, 0], extra[:, :, 1]], dim=-1)))
