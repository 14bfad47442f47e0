"""The student: one modality, one linear `head`; the only network that leaves the training side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.config import StudentConfig, StudentKind
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.layers import AnswerHead, Dropout, Projections, TokenPooling, Tokens
from mmkd_models.networks.rocket import RocketFeatures
from mmkd_models.novelty import NoveltyScore, TrainingEmbeddings


@dataclass(frozen=True, kw_only=True)
class StudentOutput:
    """The output of a student, ours or one of your own, which may leave out all but the first two.

    Attributes:
        logits: (B, K); of a regression (B, 1), the number in the target's unit.
        embedding: (B, D).
        hidden: (B, L + 2, D) after each block; empty without taps.
        attention: (B, H, L + 2, L + 2) of each block; empty without taps.
        projections: queries, keys and values (B, L + 2, D) of each block; empty without taps.
        valid: (B, L + 2) 1 for tokens with samples behind them, else 0; None without taps, or if all are.
    """

    logits: Tensor
    embedding: Tensor
    hidden: tuple[Tensor, ...] = ()
    attention: tuple[Tensor, ...] = ()
    projections: tuple[Projections, ...] = ()
    valid: Tensor | None = None


class Student(nn.Module):
    """A single-modality transformer."""

    def __init__(
        self, modality: ModalitySpec, classes: int, config: StudentConfig, *, kind: TaskKind = "classification"
    ) -> None:
        super().__init__()
        encoder = CausalEncoder if config.causal else Encoder
        self.encoder: Encoder | CausalEncoder = encoder(modality, config.encoder)
        self.pool = TokenPooling(config.encoder.width)
        self.dropout = Dropout(config.encoder.dropout)
        self.head = nn.Linear(config.encoder.width, classes)
        self.answer = AnswerHead(kind)

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        """Answer a batch of windows."""
        tokens = self.encoder(values, present, taps=taps)
        embedding = self.pool(tokens.values, tokens.bias)
        logits = self.answer.logits(self.head(self.dropout(embedding)))
        return _output(tokens, logits=logits, embedding=embedding, taps=taps)


class RocketStudent(nn.Module):
    """Convolutional features of a window, which are its embedding, and a linear head."""

    def __init__(
        self, modality: ModalitySpec, classes: int, config: StudentConfig, *, kind: TaskKind = "classification"
    ) -> None:
        super().__init__()
        self.rocket = _rocket(modality, config)
        self.head = nn.Linear(self.rocket.config.features, classes)
        self.answer = AnswerHead(kind)

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        """Answer a batch of windows; there is nothing inside to tap."""
        embedding = self.rocket(values, present)
        return StudentOutput(logits=self.answer.logits(self.head(embedding)), embedding=embedding)


class HybridStudent(nn.Module):
    """A transformer and convolutional features with one head: the weighted sum of two heads costs no engine more."""

    def __init__(
        self, modality: ModalitySpec, classes: int, config: StudentConfig, *, kind: TaskKind = "classification"
    ) -> None:
        super().__init__()
        self.encoder = Encoder(modality, config.encoder)
        self.pool = TokenPooling(config.encoder.width)
        self.rocket = _rocket(modality, config)
        self.head = nn.Linear(config.encoder.width + self.rocket.config.features, classes)
        self.answer = AnswerHead(kind)

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        """Answer a batch of windows; the taps are the transformer's."""
        tokens = self.encoder(values, present, taps=taps)
        embedding = torch.cat([self.pool(tokens.values, tokens.bias), self.rocket(values, present)], dim=-1)
        return _output(tokens, logits=self.answer.logits(self.head(embedding)), embedding=embedding, taps=taps)


AnyStudent = Student | RocketStudent | HybridStudent


def student_network(
    modality: ModalitySpec, classes: int, config: StudentConfig, *, kind: TaskKind = "classification"
) -> AnyStudent:
    """Return the network of a configuration, with fresh weights.

    Raises ValueError if it needs convolutional features that no training has drawn.
    """
    networks: dict[StudentKind, type[AnyStudent]] = {
        "transformer": Student,
        "rocket": RocketStudent,
        "hybrid": HybridStudent,
    }
    return networks[config.kind](modality, classes, config, kind=kind)


def values_of(network: nn.Module) -> int:
    """Return the number of values that a network computes with: weights, and the kernels that were drawn."""
    kernels = sum(
        buffer.numel()
        for module in network.modules()
        if isinstance(module, RocketFeatures)
        for name, buffer in module.groups.named_buffers()
        if name.endswith((".weight", ".bias"))
    )
    return kernels + sum(parameter.numel() for parameter in network.parameters())


def _output(tokens: Tokens, *, logits: Tensor, embedding: Tensor, taps: bool) -> StudentOutput:
    return StudentOutput(
        logits=logits,
        embedding=embedding,
        hidden=tokens.hidden,
        attention=tuple(tap.map for tap in tokens.attention),
        projections=tuple(tap.projections for tap in tokens.attention),
        valid=tokens.valid if taps else None,
    )


def _rocket(modality: ModalitySpec, config: StudentConfig) -> RocketFeatures:
    if config.rocket is None:
        raise ValueError(f"student: expected the features that a training drew for the kind {config.kind}, got none")
    return RocketFeatures(modality, config.rocket)


class ExportStudent(nn.Module):
    """The graph that is exported: raw values and presence in, logits, probabilities and perhaps novelty out.

    For a regression they are the number in standard deviations of the training targets, and in the target's unit.

    Args:
        temperature: divides the logits for the probabilities; the logits themselves stay.
        seen: the training's embeddings, for the novelty; None for none.
    """

    def __init__(
        self, student: AnyStudent, *, temperature: float = 1.0, seen: TrainingEmbeddings | None = None
    ) -> None:
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
