"""The teacher: any number of modalities, fused by cross-attention.

As in Tsai et al., ACL 2019, but with all other modalities as keys: cost grows with modalities, not pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.networks.config import EncoderConfig, TeacherConfig
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.layers import (
    AnswerHead,
    Attention,
    AttentionTap,
    Dropout,
    Projections,
    TokenPooling,
    Tokens,
    TransformerBlock,
)

Inputs = Mapping[str, tuple[Tensor, Tensor]]
"""Modality name -> (values (B, T, C), present (B, T, C)); of video (B, T, H, W, C) and (B, T, 1)."""


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """Output of a teacher; yours may have the first two fields alone. Others, by modality, are empty without taps."""

    logits: Tensor  # (B, K); of a regression (B, 1), the number in the target's unit
    embedding: Tensor  # (B, D) fused
    hidden: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # (B, L + 2, D) after each block and fusion
    cross_attention: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # (B, H, Lq, sum of others' Lk)
    projections: dict[str, tuple[Projections, ...]] = field(default_factory=dict)  # (B, L + 2, D), as `hidden`
    valid: dict[str, Tensor] = field(default_factory=dict)  # (B, L + 2) 1 for tokens with samples, else 0


class _CrossBlock(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(config.width)
        self.norm_source = nn.LayerNorm(config.width)
        self.cross = Attention(config.width, config.heads, cross=True)
        self.block = TransformerBlock(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, own: Tensor, others: Tensor, own_bias: Tensor, others_bias: Tensor, *, want_map: bool
    ) -> tuple[Tensor, AttentionTap | None, AttentionTap | None]:
        """(B, Lq, D) queries, (B, Lk, D) keys -> (B, Lq, D), and the taps of cross- and self-attention."""
        attended, cross = self.cross(self.norm_query(own), self.norm_source(others), others_bias, want_map=want_map)
        some = (others_bias.amax(-1) == 0).to(own.dtype)[:, None, None]  # nothing to attend to: add nothing
        x, inner = self.block(own + self.dropout(attended * some), own_bias, want_map=want_map)
        return x, cross, inner


class _FusionLayer(nn.Module):
    def __init__(self, names: tuple[str, ...], config: EncoderConfig) -> None:
        super().__init__()
        self.names = names
        self.blocks = nn.ModuleDict({name: _CrossBlock(config) for name in names})

    def forward(
        self, tokens: Mapping[str, Tokens], *, want_maps: bool
    ) -> dict[str, tuple[Tokens, AttentionTap | None, AttentionTap | None]]:
        fused = {}
        for name in self.names:
            own = tokens[name]
            others = [tokens[other] for other in self.names if other != name]
            keys = torch.cat([other.values for other in others], dim=1)
            bias = torch.cat([other.bias for other in others], dim=1)
            values, *taps = self.blocks[name](own.values, keys, own.bias, bias, want_map=want_maps)
            fused[name] = (Tokens(values=values, bias=own.bias), *taps)
        return fused


class Teacher(nn.Module):
    """A multimodal transformer, which masks all-missing modalities."""

    def __init__(
        self,
        modalities: Sequence[ModalitySpec],
        classes: int,
        config: TeacherConfig,
        *,
        kind: TaskKind = "classification",
    ) -> None:
        super().__init__()
        if not modalities:
            raise UsageError("teacher: expected at least one modality, got none; name those it shall use")
        self.names = tuple(modality.name for modality in modalities)
        self.encoders = nn.ModuleDict({m.name: Encoder(m, config.encoder) for m in modalities})
        fusing = config.fusion_depth if len(self.names) > 1 else 0
        self.fusion = nn.ModuleList(_FusionLayer(self.names, config.encoder) for _ in range(fusing))
        self.pools = nn.ModuleDict({name: TokenPooling(config.encoder.width) for name in self.names})
        self.gate = nn.Linear(config.encoder.width, 1)
        self.dropout = Dropout(config.encoder.dropout)
        self.head = nn.Linear(config.encoder.width, classes)
        self.answer = AnswerHead(kind)

    def forward(self, inputs: Inputs, *, taps: bool = False) -> TeacherOutput:
        """Answer a batch; `inputs` must have every modality, but may be all-missing."""
        tokens: dict[str, Tokens] = {name: self.encoders[name](*inputs[name], taps=taps) for name in self.names}
        encoded = tokens
        layers = []
        for layer in self.fusion:
            layers.append(layer(tokens, want_maps=taps))
            tokens = {name: fused for name, (fused, _, _) in layers[-1].items()}
        pooled = [self.pools[name](tokens[name].values, tokens[name].bias) for name in self.names]
        stacked = torch.stack(pooled, dim=1)  # (B, M, D)
        absent = torch.stack([tokens[name].bias[:, -1] for name in self.names], dim=1)  # (B, M)
        weights = torch.softmax(self.gate(stacked)[..., 0] + absent, dim=1)  # (B, M)
        embedding = (stacked * weights[..., None]).sum(1)
        output = TeacherOutput(logits=self.answer.logits(self.head(self.dropout(embedding))), embedding=embedding)
        if not taps:
            return output
        own = {name: [*encoded[name].attention, *(layer[name][2] for layer in layers)] for name in self.names}
        return replace(
            output,
            hidden={name: (*encoded[name].hidden, *(layer[name][0].values for layer in layers)) for name in self.names},
            cross_attention={name: tuple(layer[name][1].map for layer in layers) for name in self.names},
            projections={name: tuple(tap.projections for tap in taps) for name, taps in own.items()},
            valid={name: encoded[name].valid for name in self.names},
        )


def hide_modalities(inputs: Inputs, probability: float, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Hide one random modality of each window with `probability`, never its last one."""
    names = list(inputs)
    if len(names) < 2 or probability <= 0:
        return dict(inputs)
    batch = inputs[names[0]][0].shape[0]
    hit = torch.rand(batch, generator=generator) < probability
    which = torch.randint(len(names), (batch,), generator=generator)
    presence = torch.stack([(present > 0).flatten(1).any(1).cpu() for _, present in inputs.values()])  # (M, B)
    # (B,) modalities present beside the chosen one
    left = presence.sum(0) - presence[which, torch.arange(batch)].to(torch.int64)
    hit = hit & (left > 0)
    hidden: dict[str, tuple[Tensor, Tensor]] = {}
    for position, name in enumerate(names):
        keep = ~(hit & (which == position))  # (B,)
        values, present = (
            part * keep.to(inputs[name][1].device, part.dtype).reshape(-1, *[1] * (part.ndim - 1))
            for part in inputs[name]
        )
        hidden[name] = values, present
    return hidden


def take_teacher(teacher: Teacher, old: Teacher) -> tuple[str, ...]:
    """Copy weights from a teacher of the same size and labels; return the names of the others."""
    target, source = teacher.state_dict(), old.state_dict()
    taken = {name: value.detach().clone() for name, value in source.items() if name in target}
    teacher.load_state_dict({**target, **taken})
    return tuple(name for name in target if name not in taken)
