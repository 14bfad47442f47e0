"""What a term of a recipe is: a weight over time, its options with their checks, and a loss.

A term and its loss share a file here. The union in `recipe.py` is the only other place that knows the terms there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.data.batches import Batch
from mmkd_models.losses.goal import Goal
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput


class Weight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight over time: from `start` to `end` along a cosine, reached after the share `until` of the training."""

    start: float
    end: float
    until: float = 1.0

    def at(self, share: float) -> float:
        """Gives the weight after `share` of the training.

        Example:
            >>> decay = Weight(start=0.5, end=0.0, until=0.6)
            >>> decay.at(0.0), round(decay.at(0.3), 3), decay.at(0.9)
            (0.5, 0.25, 0.0)
        """
        done = min(1.0, share / self.until)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))

    @property
    def lasts(self) -> bool:
        """Whether it stays above 0 during the whole training."""
        return self.start > 0 and (self.end > 0 or self.until == 1)


def constant(value: float) -> Weight:
    """Gives a weight that stays."""
    return Weight(start=value, end=value)


Mix = Literal["probabilities", "logits"]
"""What is averaged where several teachers teach."""

MemberIndex = int | msgspec.UnsetType
"""Which of several teachers a term looks into, from 0 in the order they are named; unset where there is one."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a student and one teacher gave for the same windows.

    Attributes:
        student: of a term with layers, with taps.
        teacher: the one that the term looks into, with taps; for a term of outputs any of them.
    """

    student: StudentOutput
    teacher: TeacherOutput
    modality: str


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """What a term sees of one training step.

    Attributes:
        pair: what the networks gave for the batch.
        goal: what logits stand for.
        together: temperature -> (B, K) logits of all teachers, to be read at that temperature.
        trust: (B,) how much the teacher counts in each window; None where it always does fully.
    """

    pair: Pair
    batch: Batch
    goal: Goal
    together: Callable[[float], Tensor]
    trust: Tensor | None


class LossTerm(Protocol):
    """What every term gives. The trainable part beside the student, if it has one, is its head."""

    @property
    def weight(self) -> Weight:
        """The weight over time."""
        ...

    def looks_into(self) -> MemberIndex | None:
        """Which teacher's inside is read; None for a term that needs nothing but what all teachers answer together."""
        ...

    def compares_layers(self) -> bool:
        """Whether layers are compared, so that the networks have to show what is inside them."""
        ...

    def compares_vectors(self) -> bool:
        """Whether vectors of several windows are compared, so that the teacher needs one space for all of them."""
        ...

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for options that are wrong whatever the networks are; `classes` is K where it is known.

        `mix` is what of several teachers is averaged; None where there is one.
        """
        ...

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Raises UsageError where layers are named that are not there.

        Args:
            student: self-attention layers of the student.
            fusion: cross-attention layers of the teacher.
            blocks: layers of the teacher with hidden states and self-attention of the student's modality.
        """
        ...

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raises UsageError where what two networks give cannot be compared; the layers are there."""
        ...

    def head(self, pair: Pair, *, windows: int | None) -> nn.Module | None:
        """What is trained beside the student and never exported; `windows` is the number of training windows."""
        ...

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The loss under the term's name, a mean over trusted windows, and what else there is to tell people."""
        ...


class OutputTerm:
    """What terms have in common that need nothing but answers: no layers, no head, no member."""

    __slots__ = ()

    def looks_into(self) -> None:
        """Into none: the answers of all teachers are mixed."""

    def compares_layers(self) -> bool:
        """None."""
        return False

    def compares_vectors(self) -> bool:
        """No."""
        return False

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Any depth will do."""

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Raises UsageError where the networks answer with different numbers of classes."""
        ours, theirs = pair.student.logits, pair.teacher.logits
        if ours.shape[-1] != theirs.shape[-1]:
            raise UsageError(
                f"recipe: term {name_of(self)!r}: outputs (B, K)={tuple(ours.shape)} of the student and "
                f"{tuple(theirs.shape)} of the teacher cannot be tied; train both on the same classes"
            )

    def head(self, pair: Pair, *, windows: int | None) -> None:
        """None: logits are compared as they are."""


def name_of(term: object) -> str:
    """Gives the name of a term in a recipe file."""
    return str(type(term).__struct_config__.tag)  # type: ignore[attr-defined]  # every term is a tagged Struct


def refused(term: object, expected: str, got: str) -> UsageError:
    """Gives the error for an option that cannot be."""
    return UsageError(f"recipe: term {name_of(term)!r}: expected {expected}, got {got}")


def check_temperature(term: object, temperature: float) -> None:
    """Raises UsageError for a temperature that is not above 0."""
    if not 0 < temperature < math.inf:
        raise refused(term, "a temperature above 0", f"{temperature}; correct it")


def check_two_weights(term: object, names: tuple[str, str], one: float, other: float) -> None:
    """Raises UsageError where one of two parts of a loss weighs less than 0, or both weigh nothing."""
    if not (0 <= one < math.inf and 0 <= other < math.inf and one + other > 0):
        wanted = f"{names[0]} >= 0 and {names[1]} >= 0, one above 0"
        raise refused(term, wanted, f"{one} and {other}; correct them")


def check_exclusive_classes(term: object, kind: TaskKind, *, what: str = "", cure: str = "use term 'logit'") -> None:
    """Raises UsageError for what compares classes with each other where there are none."""
    if kind != "classification":
        raise UsageError(
            f"recipe: term {name_of(term)!r}{what} compares classes that exclude each other, and {kind} has none; "
            f"{cure}"
        )
