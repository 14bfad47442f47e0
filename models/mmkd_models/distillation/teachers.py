"""Several teachers of one student: what each answers to a batch, and whether a recipe fits them.

Outputs are mixed; what a teacher has inside is read from the one that a term names as its member. Computes no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec import UNSET
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.recipe import Recipe, Term, member_of, part_of
from mmkd_models.losses.term import Mix, name_of
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.committee.views import FixedViews
from mmkd_models.networks.out_of_fold import OutOfFoldTeachers
from mmkd_models.networks.teacher import Teacher, TeacherOutput


def mix_of(recipe: Recipe) -> Mix:
    """Gives what is averaged where several teachers teach."""
    return recipe.mix or "probabilities"


@torch.no_grad()
def answers_of(teachers: Sequence[nn.Module], batch: Batch, *, taps: bool) -> tuple[TeacherOutput, ...]:
    """Gives what each teacher says about a batch; out-of-fold teachers and committees by the windows' numbers."""
    answers = []
    for teacher in teachers:
        at_hand = teacher.to(batch.targets.device)
        if isinstance(at_hand, OutOfFoldTeachers):
            answers.append(at_hand(batch.inputs, index=batch.index, taps=taps))
        elif isinstance(at_hand, FixedViews):
            mixed = {"index": batch.index, "partner": batch.partner, "share": batch.share}
            answers.append(at_hand(batch.inputs, **mixed, taps=taps))
        else:
            answers.append(at_hand(batch.inputs, taps=taps))
    return tuple(answers)


def known_teacher(teacher: nn.Module) -> Teacher | None:
    """Gives a teacher of ours, of several the first transformer; None for a network of your own."""
    if isinstance(teacher, OutOfFoldTeachers | Committee | FixedViews):
        return teacher.first
    return teacher if isinstance(teacher, Teacher) else None


def check_teachers(recipe: Recipe, teachers: Sequence[nn.Module], modality: str) -> None:
    """Raises UsageError where a recipe asks these teachers for what they cannot give a student of this modality."""
    if not teachers:
        raise UsageError("distillation: expected one or more teachers, got none; name some")
    if len(teachers) == 1 and recipe.mix is not UNSET:
        raise UsageError(
            f"recipe: mix {recipe.mix!r} needs several teachers, got one; name more teachers, or leave it out"
        )
    for term in recipe.terms:
        if term.looks_into() is not None:
            _check_member(term, len(teachers))
    for number, teacher in enumerate(teachers):
        part = part_of(recipe, number)
        known = known_teacher(teacher)
        if known is not None and modality not in known.names:
            why = (
                f"that sees {modality!r}, and this one sees {', '.join(known.names)}; "
                "train a teacher with it, or learn from outputs and embedding alone"
            )
            _refuse_readers(part, number, [term for term in part.terms if term.compares_layers()], why)
        if isinstance(teacher, OutOfFoldTeachers):
            # Teachers that started apart have no directions in common.
            why = (
                "with one space of vectors, and out-of-fold teachers have one each; "
                "take a teacher that was trained once, or learn from outputs, attention and relations"
            )
            _refuse_readers(part, number, [term for term in part.terms if term.compares_vectors()], why)


def _check_member(term: Term, count: int) -> None:
    kind = name_of(term)
    if term.looks_into() is UNSET:
        if count > 1:
            raise UsageError(
                f"recipe: term {kind!r} looks into one teacher, and there are {count}; name it with member, "
                f"from 0 to {count - 1} in the order of the teachers"
            )
    elif not 0 <= member_of(term) < count:
        raise UsageError(
            f"recipe: term {kind!r}: expected a member from 0 to {count - 1} of {count} "
            f"{'teacher' if count == 1 else 'teachers'}, got {term.looks_into()}; correct it"
        )


def _refuse_readers(recipe: Recipe, number: int, readers: Sequence[Term], why: str) -> None:
    """Raises UsageError where a term, or the student's start, reads what the teacher of this number cannot give."""
    reads = [f"term {name_of(term)!r}" for term in readers]
    reads += ["init 'teacher'"] if recipe.init == "teacher" and number == 0 else []
    if reads:
        raise UsageError(f"recipe: {reads[0]} needs a teacher {why}")
