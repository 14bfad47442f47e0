"""The student: one modality, one linear `head`; the only network outside the training side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.layers import AnswerHead, Dropout, Projections, TokenPooling, Tokens
from mmkd_models.networks.rocket import RocketFeatures
from mmkd_models.novelty import NoveltyScore, TrainingEmbeddings


@dataclass(frozen=True, kw_only=True)
class StudentOutput:
    """Output of a student; yours may have the first two fields alone."""

    logits: Tensor  # (B, K); of a regression (B, 1), the number in the target's unit
    embedding: Tensor  # (B, D)
    hidden: tuple[Tensor, ...] = ()  # (B, L + 2, D) after each block; empty without taps
    attention: tuple[Tensor, ...] = ()  # (B, H, L + 2, L + 2) of each block; empty without taps
    # queries, keys and values (B, L + 2, D) of each block; empty without taps
    projections: tuple[Projections, ...] = ()
    # (B, L + 2) 1 for tokens with samples behind them, else 0; None without taps, or if all are
    valid: Tensor | None = None


class Student(nn.Module):
    """A transformer, convolutional features or both, with one linear head.

    The kind rocket has no `encoder` and `pool`, the kind transformer no `rocket`. Raises ValueError for convolutional
    features that were not drawn.
    """

    pool: TokenPooling

    def __init__(
        self, modality: ModalitySpec, classes: int, config: StudentConfig, *, kind: TaskKind = "classification"
    ) -> None:
        super().__init__()
        self.modality = modality
        self.encoder: Encoder | CausalEncoder | None = None
        self.rocket: RocketFeatures | None = None
        width = 0
        if config.kind != "rocket":
            self.encoder = (CausalEncoder if config.causal else Encoder)(modality, config.encoder)
            self.pool = TokenPooling(config.encoder.width)
            width = config.encoder.width
        if config.kind != "transformer":
            if config.rocket is None:
                raise ValueError(
                    f"student: expected the features that a training drew for the kind {config.kind}, got none"
                )
            self.rocket = RocketFeatures(modality, config.rocket)
            width += config.rocket.features
        self.dropout = Dropout(config.encoder.dropout)
        self.head = nn.Linear(width, classes)
        self.answer = AnswerHead(kind)

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        """Answer a batch of windows; taps are the transformer's."""
        tokens: Tokens | None = None if self.encoder is None else self.encoder(values, present, taps=taps)
        parts = [] if tokens is None else [self.pool(tokens.values, tokens.bias)]
        parts += [] if self.rocket is None else [self.rocket(values, present)]
        embedding = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        logits = self.answer.logits(self.head(self.dropout(embedding)))
        if tokens is None or not taps:
            return StudentOutput(logits=logits, embedding=embedding)
        return StudentOutput(
            logits=logits,
            embedding=embedding,
            hidden=tokens.hidden,
            attention=tuple(tap.map for tap in tokens.attention),
            projections=tuple(tap.projections for tap in tokens.attention),
            valid=tokens.valid,
        )


def count_values(network: nn.Module) -> int:
    """Count weights and drawn kernels."""
    kernels = sum(
        buffer.numel()
        for module in network.modules()
        if isinstance(module, RocketFeatures)
        for name, buffer in module.groups.named_buffers()
        if name.endswith((".weight", ".bias"))
    )
    return kernels + sum(parameter.numel() for parameter in network.parameters())


class ExportStudent(nn.Module):
    """The exported graph: raw values and presence in; logits, probabilities and perhaps novelty out.

    A regression returns the number in training standard deviations and in the target's unit. The temperature changes
    probabilities alone; novelty needs `seen` embeddings.
    """

    def __init__(self, student: Student, *, temperature: float = 1.0, seen: TrainingEmbeddings | None = None) -> None:
        super().__init__()
        self.student = student
        self.sharpness = 1 / temperature
        self.novelty = None if seen is None else NoveltyScore(seen)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        """(1, T, C), (1, T, C) -> logits, probabilities (1, K), and novelty (1, 1)."""
        answer, output = self.student.answer, self.student(values, present)
        raw = self.student.head(output.embedding) if answer.kind == "regression" else output.logits
        answers = raw, answer(raw if self.sharpness == 1 else raw * self.sharpness)
        return answers if self.novelty is None else (*answers, self.novelty(output.embedding))
