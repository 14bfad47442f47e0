"""Layers of two networks that are compared: which with which, are they there, and their tokens at the same times.

Teacher and student may differ in width, heads, depth and number of time tokens; tokens are brought together by the time
they stand for. Everything here reads what a student and a teacher give, so that networks of your own need nothing but
to give it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmkd_edge.errors import UsageError
from mmkd_models.losses.term import Pair, name_of, refused
from mmkd_models.losses.tokens import resampled
from mmkd_models.networks.encoder import EXTRA_TOKENS
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput

Layers = Literal["uniform"] | int | tuple[tuple[int, int], ...]
"""Which layers learn from which: `uniform`, each student layer from teacher layers spread evenly; a number, the last so
many, in order; or pairs (student, teacher). Layers count from 0, negative ones from the end."""


def layer_pairs(layers: Layers, *, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Gives the pairs (student layer, teacher layer), counted from 0, for networks of that many layers.

    Uniform spreads the teacher's layers evenly, its last one to the last one: round((l + 1) * teacher / student) - 1.

    Example:
        >>> layer_pairs("uniform", student=2, teacher=4), layer_pairs(2, student=3, teacher=2)
        (((0, 1), (1, 3)), ((1, 0), (2, 1)))
    """
    if layers == "uniform":
        spread = (math.floor((layer + 1) * teacher / student + 0.5) - 1 for layer in range(student))
        return tuple((layer, max(0, at)) for layer, at in enumerate(spread))
    if isinstance(layers, int):
        return tuple((student - back, teacher - back) for back in range(layers, 0, -1))
    return tuple((own % student, other % teacher) for own, other in layers)


def student_depth(student: StudentOutput) -> int:
    """Gives the number of layers that a student shows."""
    return max(len(student.hidden), len(student.attention), len(student.projections))


def teacher_depth(teacher: TeacherOutput, modality: str) -> int:
    """Gives the number of layers in which a teacher shows its own tokens of the modality."""
    return max(len(teacher.hidden.get(modality, ())), len(teacher.projections.get(modality, ())))


def fusion_depth(teacher: TeacherOutput, modality: str) -> int:
    """Gives the number of layers in which a teacher's tokens of the modality query those of others."""
    maps = teacher.cross_attention.get(modality, ())
    return max(len(maps), len(teacher.cross_projections.get(modality, ())))


def check_layers(term: object, layers: Layers, *, student: int, teacher: int, cross: bool) -> None:
    """Raises UsageError where `layers` of a term names what is not there.

    Args:
        student: self-attention layers of the student.
        teacher: layers of the teacher's attention that teaches.
        cross: whether that is cross-attention.
    """
    kind = name_of(term)
    of_student, of_teacher = "self-attention", "cross-attention" if cross else "self-attention"
    for who, count, what in (("student", student, of_student), ("teacher", teacher, of_teacher)):
        if count == 0:
            cure = "use a teacher of two or more modalities, or drop the term" if cross else "drop the term"
            raise UsageError(f"recipe: term {kind!r} needs {what} layers of the {who}, which has none; {cure}")
    if layers == "uniform":
        return
    if isinstance(layers, int):
        if not 1 <= layers <= min(student, teacher):
            raise UsageError(
                f"recipe: term {kind!r} ties the last {layers} layers of a student with {student} {of_student} layers "
                f"and a teacher with {teacher} {of_teacher} layers; choose 1 to {min(student, teacher)}"
            )
        return
    if not layers:
        raise refused(term, "one or more pairs of layers", "none; name some, a number of last layers, or 'uniform'")
    for own, other in layers:
        for who, layer, count, what in (
            ("student", own, student, of_student),
            ("teacher", other, teacher, of_teacher),
        ):
            if not -count <= layer < count:
                raise UsageError(
                    f"recipe: term {kind!r} names {what} layer {layer} of the {who}, which has {count}; "
                    f"choose {-count} to {count - 1}"
                )


def check_shown(term: object, what: str, layers: Sequence[int], given: Sequence[object], who: str) -> None:
    """Raises UsageError where a network does not show a layer: a silent zero would look like a loss that is learnt."""
    if max(layers) >= len(given):
        raise UsageError(
            f"recipe: term {name_of(term)!r} needs the {what} of layer {max(layers)} of the {who}, which gives those "
            f"of {len(given)} layers; let its forward return them where it is called with taps=True"
        )


def check_token_counts(both: str, own: int, other: int) -> None:
    """Raises UsageError where tokens cannot be brought together by time; `both` names the two sides."""
    if own != other and min(own, other) <= EXTRA_TOKENS:
        raise UsageError(
            f"{both} cannot be tied by time: the last {EXTRA_TOKENS} tokens sum up the window, and one side has no "
            "others; give both as many tokens, or tie embeddings"
        )


def on_students_tokens(tokens: Tensor, pair: Pair, length: int) -> Tensor:
    """(B, L_T + 2, D) -> (B, length, D): the teacher's tokens at the student's times."""
    if tokens.shape[1] == length:
        return tokens
    valid = pair.teacher.valid.get(pair.modality, tokens.new_ones(tokens.shape[:2]))
    found, _ = resampled(tokens, valid, length=length - EXTRA_TOKENS, extra=EXTRA_TOKENS)
    return found


def valid_tokens(student: StudentOutput, length: int, like: Tensor) -> Tensor:
    """(B, length) 1 for tokens of the student with samples behind them; all where it does not say."""
    if student.valid is not None:
        return student.valid
    return torch.ones(like.shape[0], length, device=like.device)


def shape(tensor: Tensor) -> tuple[int, ...]:
    """Gives the shape as a message shows it."""
    return tuple(tensor.shape)
