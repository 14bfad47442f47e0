"""A recipe's terms, and the layers that they compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.data.batches import Batch
from mmkd_models.data.windows import Windows
from mmkd_models.networks.layers import EXTRA_TOKENS
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput

Temperature = Annotated[float, Meta(gt=0, le=1e6)]
Factor = Annotated[float, Meta(ge=0, le=1e6)]

Layers = Literal["uniform"] | int | tuple[tuple[int, int], ...]
"""`uniform`, each student layer with one of the teacher's, spread evenly; a number, the last so many in order; or
pairs (student, teacher), counted from 0, negative ones from the end.
"""

_StudentLayer = TypeVar("_StudentLayer")
_TeacherLayer = TypeVar("_TeacherLayer")


class Weight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight from `start` to `end` along a cosine, until a fraction of the training."""

    start: Factor
    end: Factor
    until: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def at(self, progress: float) -> float:
        """Return the weight after this fraction of the training."""
        done = min(1.0, progress / self.until)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))


def constant(value: float) -> Weight:
    """Return a constant weight."""
    return Weight(start=value, end=value)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Meaning of logits; `spread` is the std of a regression's training targets."""

    kind: TaskKind = "classification"
    spread: float = 1.0


CLASSES = Goal()


def training_goal(windows: Windows) -> Goal:
    """Return the goal of training on these windows."""
    kind = windows.spec.task.kind
    return Goal(kind=kind, spread=target_scale(windows)[1] if kind == "regression" else 1.0)


def target_scale(windows: Windows) -> tuple[float, float]:
    """Return mean and std of a regression's labelled targets."""
    known = windows.labels[windows.labelled].astype(np.float64)
    if len(np.unique(known)) < 2:
        raise UsageError(
            f"training windows: expected two different values of {windows.spec.task.labels[0]!r} or more in labelled "
            f"windows, got {len(np.unique(known))}; label some, or raise --label-fraction"
        )
    return float(known.mean()), float(known.std())


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Outputs of a student and one teacher for the same windows, with taps to compare layers."""

    student: StudentOutput
    teacher: TeacherOutput
    modality: str


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """One training step; `together` maps a temperature to all teachers' (B, K) logits."""

    pair: Pair
    batch: Batch
    goal: Goal
    together: Callable[[float], Tensor]


class LossTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A term of a recipe: a subclass with a `tag` and `loss(step, head)`, in the union of `distillation/recipe.py`."""

    weight: Weight = constant(1.0)
    needs_classes: ClassVar[bool] = False
    """Whether the term compares classes that exclude each other."""

    @property
    def name(self) -> str:
        """The name in a recipe file."""
        return str(self.__struct_config__.tag)

    def compares_layers(self) -> bool:
        """Return whether the networks must return their layers."""
        return False

    def head(self, pair: Pair) -> nn.Module | None:
        """Return modules trained with the student and never exported."""
        return None


class OutputTerm(LossTerm, frozen=True, kw_only=True):
    """A term that compares outputs."""


class InnerTerm(LossTerm, frozen=True, kw_only=True):
    """A term that reads the layers of one teacher, `member`, if there are several."""

    member: int | msgspec.UnsetType = msgspec.UNSET


class LayerTerm(InnerTerm, frozen=True, kw_only=True):
    """A term that compares layers. Its loss raises ValueError for layers that cannot be compared."""

    layers: Layers = 1

    def compares_layers(self) -> bool:
        """Return True."""
        return True

    def tied(
        self, student: Sequence[_StudentLayer], teacher: Sequence[_TeacherLayer]
    ) -> list[tuple[_StudentLayer, _TeacherLayer]]:
        """Return the outputs of the tied layers."""
        counts = len(student), len(teacher)
        pairs = layer_pairs(self.layers, student=counts[0], teacher=counts[1]) if min(counts) else []
        if not pairs or any(not -n <= layer < n for pair in pairs for layer, n in zip(pair, counts, strict=True)):
            raise UsageError(
                f"recipe: term {self.name!r}: layers={self.layers} does not fit: it can compare {counts[0]} layers of "
                f"the student and {counts[1]} of the teacher; choose other layers, or leave the term out"
            )
        return [(student[own], teacher[other]) for own, other in pairs]


def layer_pairs(layers: Layers, *, student: int, teacher: int) -> list[tuple[int, int]]:
    """Return the pairs (student layer, teacher layer); uniform: round((l + 1) * teacher / student) - 1.

    Example:
        >>> layer_pairs("uniform", student=2, teacher=4), layer_pairs(2, student=3, teacher=2)
        ([(0, 1), (1, 3)], [(1, 0), (2, 1)])
    """
    if layers == "uniform":
        spread = (math.floor((layer + 1) * teacher / student + 0.5) - 1 for layer in range(student))
        return [(layer, max(0, at)) for layer, at in enumerate(spread)]
    if isinstance(layers, int):
        return [(student - back, teacher - back) for back in range(layers, 0, -1) if layers <= min(student, teacher)]
    return list(layers)


def on_students_tokens(tokens: Tensor, pair: Pair, length: int) -> Tensor:
    """(B, L_T + 2, D) -> (B, length, D): teacher tokens at the student's times; ValueError for none but summaries."""
    if tokens.shape[1] == length:
        return tokens
    if min(tokens.shape[1], length) <= EXTRA_TOKENS:
        raise ValueError(
            f"expected as many tokens, or more than the last {EXTRA_TOKENS}, which sum up the window, got {length} of "
            f"the student and {tokens.shape[1]} of the teacher"
        )
    valid = pair.teacher.valid.get(pair.modality, tokens.new_ones(tokens.shape[:2]))
    return resampled(tokens, valid, length=length - EXTRA_TOKENS)[0]


def valid_tokens(student: StudentOutput, like: Tensor) -> Tensor:
    """(B, L) 1 for student tokens with samples; all of `like` (B, L, ...) if unknown."""
    return like.new_ones(like.shape[:2]) if student.valid is None else student.valid


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of (B,) rows with (B,) weights >= 0; 0 if all are 0."""
    if weight is None:
        return rows.mean()
    return (rows * weight).sum() / weight.sum().clamp(min=1e-6)


def mean_over_tokens(tokens: Tensor, valid: Tensor | None, weight: Tensor | None = None) -> Tensor:
    """Return the mean of (B,) windows' means of (B, L) over valid tokens."""
    if valid is None:
        return weighted_mean(tokens.mean(-1), weight)
    valid = valid.float()
    per_window = (tokens * valid).sum(-1) / valid.sum(-1).clamp(min=1.0)
    some = (valid.sum(-1) > 0).float()
    return weighted_mean(per_window, some if weight is None else some * weight)


def common_time(source: int, target: int, *, device: torch.device | None = None) -> Tensor:
    """Return (source, target) the common time of two cuts, float32, in 1 / (source * target) of the window.

    Example:
        >>> common_time(2, 3).tolist()
        [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    starts = torch.arange(source, device=device)[:, None] * target
    others = torch.arange(target, device=device)[None, :] * source
    common = torch.minimum(starts + target, others + source) - torch.maximum(starts, others)
    return common.clamp(min=0).float()


def resampled(tokens: Tensor, valid: Tensor, *, length: int) -> tuple[Tensor, Tensor]:
    """Average valid time tokens (B, L + 2, D) onto `length` by common time; return tokens and validity."""
    tokens, valid = tokens.float(), valid.float()
    own = tokens.shape[1] - EXTRA_TOKENS
    if own == length:
        return tokens, valid
    overlap = common_time(own, length, device=tokens.device).T / own  # (length, L), rows sum to 1
    with torch.autocast(tokens.device.type, enabled=False):  # a matmul would run in half precision
        total = overlap @ (tokens[:, :own] * valid[:, :own, None])  # (B, length, D)
        weight = valid[:, :own] @ overlap.T  # (B, length)
    time = total / weight.clamp(min=1e-6)[..., None]
    resampled_valid = torch.cat([(weight > 0).float(), valid[:, own:]], dim=1)
    return torch.cat([time, tokens[:, own:]], dim=1), resampled_valid
