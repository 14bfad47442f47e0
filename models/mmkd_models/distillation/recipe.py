"""Recipe: which losses teach a student, with which weight over time.

Owns the list of terms and the words of a recipe file. What a term is, checks and computes is its own file's in
`losses/`.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.correlation import DistTerm
from mmkd_models.losses.decoupled import DkdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import LossTerm, Mix, name_of

Term = TaskTerm | LogitTerm | DkdTerm | DistTerm | EdamTerm | RelationTerm | FeatureTerm | CrdTerm
TeacherTrust = Literal["none", "label", "confidence"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one distillation consists of.

    Attributes:
        terms: at most one of a kind.
        trust: how much a window's teacher counts, in all terms but `task`. `none`: always fully. `label`: by its
            probability of the true class; a window without a label fully. `confidence`: the same, and a window
            without a label by the teacher's largest probability.
        init: `teacher` starts the student with the weights of the teacher's own encoder of its modality; of several
            teachers the first one's.
        mix: what is averaged where several teachers teach: their `probabilities`, at a term's own temperature, or their
            `logits`. Unset, it is probabilities; one teacher has nothing to mix.
    """

    terms: tuple[Term, ...]
    trust: TeacherTrust = "none"
    init: Literal["fresh", "teacher"] = "fresh"
    mix: Mix | msgspec.UnsetType = msgspec.UNSET


def part_of(recipe: Recipe, member: int) -> Recipe:
    """Gives the recipe without the terms that look into another teacher."""
    terms = tuple(term for term in recipe.terms if term.looks_into() is None or member_of(term) == member)
    return msgspec.structs.replace(recipe, terms=terms)


def member_of(term: LossTerm) -> int:
    """Gives the number of the teacher that a term looks into; the first one where it names none."""
    member = term.looks_into()
    return member if isinstance(member, int) else 0


def check_recipe(
    recipe: Recipe,
    *,
    student_layers: int,
    teacher_layers: int,
    teacher_blocks: int | None = None,
    classes: int | None = None,
    kind: TaskKind = "classification",
) -> None:
    """Raises UsageError where the terms cannot be computed: repeats, layers that are not there, impossible numbers.

    Args:
        student_layers: self-attention blocks of the student.
        teacher_layers: cross-attention layers of the teacher.
        teacher_blocks: layers of the teacher with hidden states and self-attention of the student's modality;
            as many as cross-attention layers where None.
        classes: K, to refuse what cannot teach two classes; not checked where None.
    """
    check_terms(recipe, classes=classes, kind=kind)
    blocks = teacher_layers if teacher_blocks is None else teacher_blocks
    for term in recipe.terms:
        term.check_depth(student=student_layers, fusion=teacher_layers, blocks=blocks)


def check_terms(
    recipe: Recipe, *, classes: int | None = None, kind: TaskKind = "classification", mix: Mix | None = None
) -> None:
    """Raises UsageError for what is wrong whatever the networks are.

    Args:
        mix: what is averaged of several teachers; None where there is one.
    """
    names = [name_of(term) for term in recipe.terms]
    if not names or len(set(names)) != len(names):
        raise UsageError(
            f"recipe: expected one or more terms of different kinds, got {', '.join(names) or 'none'}; "
            "name each kind once"
        )
    for term in recipe.terms:
        _check_weight(term)
        term.check(kind=kind, classes=classes, mix=mix)
    if kind == "regression":
        _check_numbers_only(recipe)
    if not any(term.weight.lasts for term in recipe.terms):
        raise UsageError(
            "recipe: expected a term whose weight stays above 0 during the whole training, got none; "
            "keep one term on, or let its weight end above 0"
        )


def _check_weight(term: LossTerm) -> None:
    weight = term.weight
    if not (0 <= weight.start < math.inf and 0 <= weight.end < math.inf and 0 < weight.until <= 1):
        raise UsageError(
            f"recipe: term {name_of(term)!r}: expected a weight of start >= 0 and end >= 0, reached at 0 < until <= 1, "
            f"got {weight.start}, {weight.end} and {weight.until}; correct it"
        )


def _check_numbers_only(recipe: Recipe) -> None:
    """Refuses what asks a regression for probabilities."""
    for key, value, asks in (
        ("trust", recipe.trust, recipe.trust != "none"),
        ("mix", recipe.mix, recipe.mix == "probabilities"),
    ):
        if asks:
            raise UsageError(
                f"recipe: {key} {value!r} needs a teacher's probabilities, and regression has none; leave it out"
            )
