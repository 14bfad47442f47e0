"""A recipe's terms: weight over time, checked options, and loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.data.batches import Batch
from mmkd_models.data.windows import Windows
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput


class Weight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight from `start` to `end` along a cosine, until a fraction of the training."""

    start: float
    end: float
    until: float = 1.0

    def at(self, fraction: float) -> float:
        """Return the weight after this fraction of the training."""
        done = min(1.0, fraction / self.until)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))

    @property
    def lasts(self) -> bool:
        """Whether the weight stays above 0."""
        return self.start > 0 and (self.end > 0 or self.until == 1)


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
    """Return mean and std of a regression's labelled targets. Raise UsageError for under two."""
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
    """A term of a recipe: a subclass with a `tag`, in the union of `distillation/recipe.py`.

    `loss(step, head)` returns losses by name; `check(kind, classes)` raises UsageError.
    """

    weight: Weight = constant(1.0)

    @property
    def name(self) -> str:
        """The name in a recipe file."""
        return str(self.__struct_config__.tag)

    @property
    def reads_teacher(self) -> int | None:
        """Number of the teacher whose layers the term reads; None for mixed outputs."""
        return None

    def compares_layers(self) -> bool:
        """Return whether the networks must return their layers."""
        return False

    def head(self, pair: Pair) -> nn.Module | None:
        """Return modules trained with the student and never exported."""
        return None

    def refusal(self, expected: str, got: str) -> UsageError:
        """Return the error for an impossible option."""
        return UsageError(f"recipe: term {self.name!r}: expected {expected}, got {got}")

    def check_temperature(self, temperature: float) -> None:
        """Raise UsageError unless above 0."""
        if not 0 < temperature < math.inf:
            raise self.refusal("a temperature above 0", f"{temperature}; correct it")

    def check_two_weights(self, **weights: float) -> None:
        """Raise UsageError if a part of a loss has a negative weight, or both are 0."""
        (one, first), (other, second) = weights.items()
        if not (0 <= first < math.inf and 0 <= second < math.inf and first + second > 0):
            raise self.refusal(f"{one} >= 0 and {other} >= 0, one above 0", f"{first} and {second}; correct them")

    def check_exclusive_classes(self, kind: TaskKind) -> None:
        """Raise UsageError for a task without exclusive classes."""
        if kind != "classification":
            raise UsageError(
                f"recipe: term {self.name!r} compares classes that exclude each other, and {kind} has none; "
                "use term 'logit'"
            )


class OutputTerm(LossTerm, frozen=True, kw_only=True):
    """A term that compares outputs."""

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raise UsageError for different numbers of classes."""
        student, teacher = pair.student.logits, pair.teacher.logits
        if student.shape[-1] != teacher.shape[-1]:
            raise UsageError(
                f"recipe: term {self.name!r}: outputs (B, K)={tuple(student.shape)} of the student and "
                f"{tuple(teacher.shape)} of the teacher cannot be tied; train both on the same classes"
            )


class InnerTerm(LossTerm, frozen=True, kw_only=True):
    """A term that reads the layers of one teacher, `member`, if there are several."""

    member: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def reads_teacher(self) -> int:
        """The member, or the first teacher."""
        return self.member or 0


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of (B,) rows with (B,) weights >= 0; 0 if all are 0."""
    if weight is None:
        return rows.mean()
    return (rows * weight).sum() / weight.sum().clamp(min=1e-6)
