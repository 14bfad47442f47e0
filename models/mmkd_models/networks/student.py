"""The student: one modality, one linear `head`; the only network outside the training side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.convolutions import ConvolutionFeatures
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.intervals import IntervalFeatures
from mmkd_models.networks.layers import AnswerHead, Dropout, Projections, TokenPooling, Tokens
from mmkd_models.networks.residual import ResidualHead
from mmkd_models.networks.trees import StudentTrees
from mmkd_models.novelty import NoveltyScore, TrainingEmbeddings


@dataclass(frozen=True, kw_only=True)
class StudentOutput:
    """Output of a student; yours may have the first two fields alone. Layers are empty without taps."""

    logits: Tensor  # (B, K); of a regression (B, 1), the number in the target's unit
    embedding: Tensor  # (B, D)
    hidden: tuple[Tensor, ...] = ()  # (B, L + 2, D) after each block
    attention: tuple[Tensor, ...] = ()  # (B, H, L + 2, L + 2) of each block
    projections: tuple[Projections, ...] = ()  # (B, L + 2, D) each, of each block
    valid: Tensor | None = None  # (B, L + 2) 1 for tokens with samples, else 0; None without taps or if all have
    raw: Tensor | None = None  # (B, K) logits; of a regression in standard deviations, of `normal` log scores
    features: Tensor | None = None  # (B, F) raw features of intervals, which trees read


class Student(nn.Module):
    """Members with one linear head on all their features, and trees, whose logits are added.

    Trees read the features of intervals, which are then part of the embedding. The answer to a task `normal` is the
    residual of the features, times the exponential of the head, which is 0 without known faults.
    """

    pool: TokenPooling

    def __init__(
        self, modality: ModalitySpec, classes: int, config: StudentConfig, *, kind: TaskKind = "classification"
    ) -> None:
        super().__init__()
        self.modality = modality
        self.encoder: Encoder | CausalEncoder | None = None
        self.convolutions: ConvolutionFeatures | None = None
        self.intervals: IntervalFeatures | None = None
        self.trees: StudentTrees | None = None
        width = 0
        if "transformer" in config.members:
            self.encoder = (CausalEncoder if config.causal else Encoder)(modality, config.encoder)
            self.pool = TokenPooling(config.encoder.width)
            width = config.encoder.width
        if "convolutions" in config.members:
            if config.convolutions is None:
                raise ValueError("student: expected the convolutional features that a training drew, got none")
            self.convolutions = ConvolutionFeatures(modality, config.convolutions)
            width += config.convolutions.features
        if config.has_intervals:
            self.intervals = IntervalFeatures(modality)
            width += self.intervals.features
        if "trees" in config.members:
            if config.trees is None:
                raise ValueError("student: expected the sizes of trees that a training grew, got none")
            self.trees = StudentTrees(config.trees, classes, kind=kind)
        self.dropout = Dropout(config.encoder.dropout)
        self.head = nn.Linear(width, classes)
        self.residual = ResidualHead(width, config.components) if kind == "normal" else None
        self.answer = AnswerHead(kind)

    def forward(
        self, values: Tensor, present: Tensor, *, taps: bool = False, votes: Tensor | None = None
    ) -> StudentOutput:
        """Answer a batch of windows; taps are the transformer's, and `votes` (B, K) an engine's."""
        tokens: Tokens | None = None if self.encoder is None else self.encoder(values, present, taps=taps)
        parts = [] if tokens is None else [self.pool(tokens.values, tokens.bias)]
        parts += [] if self.convolutions is None else [self.convolutions(values, present)]
        features = None if self.intervals is None else self.intervals(values, present)
        if self.intervals is not None and features is not None:
            parts.append(self.intervals.standardised(features))
        embedding = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        raw = self.head(self.dropout(embedding))
        if self.trees is not None and features is not None:
            raw = raw + self.trees(features, votes)
        if self.residual is not None:
            raw = raw + self.residual(embedding)
        logits = self.answer.logits(raw)
        if tokens is None or not taps:
            return StudentOutput(logits=logits, embedding=embedding, raw=raw, features=features)
        return StudentOutput(
            logits=logits,
            embedding=embedding,
            raw=raw,
            hidden=tokens.hidden,
            attention=tuple(tap.map for tap in tokens.attention),
            projections=tuple(tap.projections for tap in tokens.attention),
            valid=tokens.valid,
        )


def count_values(network: nn.Module) -> int:
    """Count weights, drawn kernels, components of normal windows, and the nodes of trees."""
    kernels = sum(
        buffer.numel()
        for module in network.modules()
        if isinstance(module, ConvolutionFeatures)
        for name, buffer in module.groups.named_buffers()
        if name.endswith((".weight", ".bias"))
    )
    nodes = sum(len(module.feature) for module in network.modules() if isinstance(module, StudentTrees))
    nodes += sum(module.components.numel() for module in network.modules() if isinstance(module, ResidualHead))
    return kernels + nodes + sum(parameter.numel() for parameter in network.parameters())


class ExportStudent(nn.Module):
    """The exported graph: raw values and presence in; logits, probabilities and perhaps novelty out.

    A regression returns the number in training standard deviations and in the target's unit, a task `normal` the log
    of the score and the score. The temperature changes probabilities alone; novelty needs `embeddings`. With
    trees, whose operator torch lacks, the traced graph takes their mean votes as a third input, and has the features
    that they read as another output.
    """

    def __init__(
        self, student: Student, *, temperature: float = 1.0, embeddings: TrainingEmbeddings | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.sharpness = 1 / temperature
        self.novelty = None if embeddings is None else NoveltyScore(embeddings)

    def forward(self, values: Tensor, present: Tensor, votes: Tensor | None = None) -> tuple[Tensor, ...]:
        """(1, T, C), (1, T, C) -> logits, probabilities (1, K), and novelty (1, 1)."""
        answer, output = self.student.answer, self.student(values, present, votes=votes)
        raw = output.raw
        answers: tuple[Tensor, ...] = raw, answer(raw if self.sharpness == 1 else raw * self.sharpness)
        answers = answers if self.novelty is None else (*answers, self.novelty(output.embedding))
        return answers if votes is None else (*answers, output.features)
