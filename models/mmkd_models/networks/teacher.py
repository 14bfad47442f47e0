"""The teacher: any number of modalities, fused by cross-attention. Training side only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.networks.answer import AnswerHead
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.dropout import Dropout
from mmkd_models.networks.encoder import Encoder, Projections, TokenPooling, Tokens
from mmkd_models.networks.fusion import CrossTap, FusionLayer

Inputs = Mapping[str, tuple[Tensor, Tensor]]
"""Modality name -> (values (B, T, C), present (B, T, C)); of video (B, T, H, W, C) and (B, T, 1)."""


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """What a teacher gives, ours or one of your own; what it lacks stays empty.

    Attributes:
        logits: (B, K); of a regression (B, 1), the number in the target's unit.
        embedding: (B, D) the fused representation.
        pooled: per modality (B, D), before fusion over modalities.
        hidden: per modality, (B, L + 2, D) after each encoder block and each fusion layer; empty without taps.
        cross_attention: per modality and fusion layer, (B, H, Lq, sum of the other modalities' Lk); empty without taps.
        self_attention: per modality and encoder block, (B, H, L + 2, L + 2); empty without taps.
        projections: per modality, queries, keys and values (B, L + 2, D) of the self-attention in each encoder block
            and each fusion layer, beside `hidden`; empty without taps.
        valid: per modality, (B, L + 2) 1 for tokens with samples behind them, else 0; empty without taps.
    """

    logits: Tensor
    embedding: Tensor
    pooled: dict[str, Tensor] = field(default_factory=dict)
    hidden: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    cross_attention: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    self_attention: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    projections: dict[str, tuple[Projections, ...]] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)


class Teacher(nn.Module):
    """A multimodal transformer with a head for K classes or labels, or for a number.

    A modality whose window is all missing is masked out of every attention; nothing is filled in for it.
    """

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
        self.fusion = nn.ModuleList(FusionLayer(self.names, config.encoder) for _ in range(fusing))
        self.pools = nn.ModuleDict({name: TokenPooling(config.encoder.width) for name in self.names})
        self.gate = nn.Linear(config.encoder.width, 1)
        self.dropout = Dropout(config.encoder.dropout)
        self.head = nn.Linear(config.encoder.width, classes)
        self.answer = AnswerHead(kind)

    def forward(self, inputs: Inputs, *, taps: bool = False) -> TeacherOutput:
        """Answers a batch of windows; every modality of the teacher must be in `inputs` (all-missing is fine)."""
        tokens: dict[str, Tokens] = {name: self.encoders[name](*inputs[name], taps=taps) for name in self.names}
        encoded = tokens
        hidden = {name: list(tokens[name].hidden) for name in self.names}
        fused: list[dict[str, CrossTap]] = []
        for layer in self.fusion:
            tokens, layer_taps = layer(tokens, want_maps=taps)
            if taps:
                fused.append(layer_taps)
                for name in self.names:
                    hidden[name].append(tokens[name].values)
        pooled = {name: self.pools[name](tokens[name].values, tokens[name].bias) for name in self.names}
        embedding = self._fuse(pooled, tokens)
        output = TeacherOutput(
            logits=self.answer.logits(self.head(self.dropout(embedding))), embedding=embedding, pooled=pooled
        )
        if not taps:
            return output
        own = {name: [*encoded[name].attention, *(layer_taps[name].own for layer_taps in fused)] for name in self.names}
        cross = {name: [layer_taps[name].cross for layer_taps in fused] for name in self.names}
        return replace(
            output,
            hidden={name: tuple(states) for name, states in hidden.items()},
            cross_attention={name: tuple(tap.map for tap in found) for name, found in cross.items()},
            self_attention={name: tuple(tap.map for tap in encoded[name].attention) for name in self.names},
            projections={name: tuple(tap.projections for tap in found) for name, found in own.items()},
            valid={name: encoded[name].valid for name in self.names},
        )

    def _fuse(self, pooled: Mapping[str, Tensor], tokens: Mapping[str, Tokens]) -> Tensor:
        """Softmax-gated sum over the modalities that are there, (B, D)."""
        stacked = torch.stack([pooled[name] for name in self.names], dim=1)  # (B, M, D)
        absent = torch.stack([tokens[name].bias[:, -1] for name in self.names], dim=1)  # (B, M)
        weights = torch.softmax(self.gate(stacked)[..., 0] + absent, dim=1)  # (B, M)
        return (stacked * weights[..., None]).sum(1)


def _kept(windows: Tensor, keep: Tensor) -> Tensor:
    """(B, ...) and (B,) 1 or 0 -> (B, ...), zeros where 0."""
    return windows * keep.to(windows.dtype).reshape(-1, *[1] * (windows.ndim - 1))


def hide_modalities(inputs: Inputs, probability: float, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Modality dropout: with `probability` a window loses one modality, chosen evenly; never the last one it has.

    Args:
        inputs: as for `Teacher.forward`; not changed.
        probability: of losing a modality, per window.
        generator: the source of chance, on the CPU.
    """
    names = list(inputs)
    if len(names) < 2 or probability <= 0:
        return dict(inputs)
    batch = inputs[names[0]][0].shape[0]
    hit = torch.rand(batch, generator=generator) < probability
    which = torch.randint(len(names), (batch,), generator=generator)
    there = torch.stack([(present > 0).flatten(1).any(1).cpu() for _, present in inputs.values()])  # (M, B)
    left = there.sum(0) - there[which, torch.arange(batch)].to(torch.int64)  # (B,) modalities there without the chosen
    hit = hit & (left > 0)
    hidden: dict[str, tuple[Tensor, Tensor]] = {}
    for position, name in enumerate(names):
        values, present = inputs[name]
        keep = (~(hit & (which == position))).to(present)  # (B,)
        hidden[name] = _kept(values, keep), _kept(present, keep)
    return hidden


def take_teacher(teacher: Teacher, old: Teacher) -> tuple[str, ...]:
    """Copy an old teacher's weights into one of the same size and labels, and return the names of what stays fresh.

    Encoder, fusion blocks and pool of a modality that only one of them has are left alone. An old teacher of several
    modalities keeps its answers while the new sensors are missing.
    """
    target, source = teacher.state_dict(), old.state_dict()
    taken = {name: value.detach().clone() for name, value in source.items() if name in target}
    teacher.load_state_dict({**target, **taken})
    return tuple(name for name in target if name not in taken)
