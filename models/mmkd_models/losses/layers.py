"""Pairs of layers of two networks, and their tokens at the same times.

Tokens stand for equal stretches of the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mmkd_edge.errors import UsageError
from mmkd_models.losses.term import InnerTerm, Pair, weighted_mean
from mmkd_models.networks.layers import EXTRA_TOKENS
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput

Layers = Literal["uniform"] | int | tuple[tuple[int, int], ...]
"""`uniform`, each student layer with one of the teacher's, spread evenly; a number, the last so many in order; or
pairs (student, teacher), counted from 0, negative ones from the end.
"""

Shown = tuple[str, Sequence[Any]]
"""What a network returns of its layers: its name in messages, and one value per layer."""


class LayerTerm(InnerTerm, frozen=True, kw_only=True):
    """A term that compares layers."""

    layers: Layers = 1
    attention: ClassVar[str] = "self-attention"
    """The teacher's attention that teaches."""

    def compares_layers(self) -> bool:
        """Return True."""
        return True

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Raise UsageError if `layers` names a missing student layer, cross-attention or self-attention (`blocks`)."""
        if not self.compares_layers():
            return
        of_teacher = self.attention
        teacher = blocks if of_teacher == "self-attention" else fusion
        sides = (("student", student, "self-attention"), ("teacher", teacher, of_teacher))
        for who, count, what in sides:
            if count == 0:
                cure = "use a teacher of two or more modalities, or drop" if what == "cross-attention" else "drop"
                raise UsageError(
                    f"recipe: term {self.name!r} needs {what} layers of the {who}, which has none; {cure} the term"
                )
        if isinstance(self.layers, int) and not 1 <= self.layers <= min(student, teacher):
            raise UsageError(
                f"recipe: term {self.name!r} ties the last {self.layers} layers of a student with {student} "
                f"self-attention layers and a teacher with {teacher} {of_teacher} layers; choose 1 to "
                f"{min(student, teacher)}"
            )
        if isinstance(self.layers, int | str):
            return
        if not self.layers:
            raise self.refusal("one or more pairs of layers", "none; name some, a number of last layers, or 'uniform'")
        for pair in self.layers:
            for layer, (who, count, what) in zip(pair, sides, strict=True):
                if not -count <= layer < count:
                    raise UsageError(
                        f"recipe: term {self.name!r} names {what} layer {layer} of the {who}, which has {count}; "
                        f"choose {-count} to {count - 1}"
                    )

    def tied(self, pair: Pair, student: Shown, teacher: Shown, *, depth: int | None = None) -> list[tuple[int, int]]:
        """Return the pairs (student layer, teacher layer), with `depth` teacher layers.

        Raises UsageError if a network does not return a layer.
        """
        depth = teacher_depth(pair.teacher, pair.modality) if depth is None else depth
        pairs = layer_pairs(self.layers, student=student_depth(pair.student), teacher=depth)
        for who, (what, values), last in zip(
            ("student", "teacher"), (student, teacher), map(max, zip(*pairs, strict=True)), strict=True
        ):
            if last >= len(values):
                raise UsageError(
                    f"recipe: term {self.name!r} needs the {what} of layer {last} of the {who}, which gives those "
                    f"of {len(values)} layers; let its forward return them where it is called with taps=True"
                )
        return pairs


def layer_pairs(layers: Layers, *, student: int, teacher: int) -> list[tuple[int, int]]:
    """Return the pairs (student layer, teacher layer), from 0; uniform: round((l + 1) * teacher / student) - 1.

    Example:
        >>> layer_pairs("uniform", student=2, teacher=4), layer_pairs(2, student=3, teacher=2)
        ([(0, 1), (1, 3)], [(1, 0), (2, 1)])
    """
    if layers == "uniform":
        spread = (math.floor((layer + 1) * teacher / student + 0.5) - 1 for layer in range(student))
        return [(layer, max(0, at)) for layer, at in enumerate(spread)]
    if isinstance(layers, int):
        return [(student - back, teacher - back) for back in range(layers, 0, -1)]
    return [(own % student, other % teacher) for own, other in layers]


def student_depth(student: StudentOutput) -> int:
    """Return the number of layers a student returns."""
    return max(len(student.hidden), len(student.attention), len(student.projections))


def teacher_depth(teacher: TeacherOutput, modality: str) -> int:
    """Return the number of layers a teacher returns for the modality."""
    return max(len(teacher.hidden.get(modality, ())), len(teacher.projections.get(modality, ())))


def check_token_counts(both: str, own: int, other: int) -> None:
    """Raise UsageError if tokens cannot be matched by time."""
    if own != other and min(own, other) <= EXTRA_TOKENS:
        raise UsageError(
            f"{both} cannot be tied by time: the last {EXTRA_TOKENS} tokens sum up the window, and one side has no "
            "others; give both as many tokens, or tie embeddings"
        )


def on_students_tokens(tokens: Tensor, pair: Pair, length: int) -> Tensor:
    """(B, L_T + 2, D) -> (B, length, D): teacher tokens at the student's times."""
    if tokens.shape[1] == length:
        return tokens
    valid = pair.teacher.valid.get(pair.modality, tokens.new_ones(tokens.shape[:2]))
    return resampled(tokens, valid, length=length - EXTRA_TOKENS)[0]


def valid_tokens(student: StudentOutput, length: int, like: Tensor) -> Tensor:
    """(B, length) 1 for student tokens with samples; all if unknown."""
    if student.valid is not None:
        return student.valid
    return torch.ones(like.shape[0], length, device=like.device)


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
