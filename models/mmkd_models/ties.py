"""Whether what a recipe ties can be tied: the shapes of two networks' layers, before the first step.

Computes no loss. Every refusal names both layers, both shapes and what to do.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_models.levels import edam_pairs, feature_pairs, relation_pairs, source_lengths, teaching
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.encoder import EXTRA_TOKENS
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import TeacherOutput
from mmkd_models.recipe import (
    DistTerm,
    DkdTerm,
    EdamTerm,
    FeatureTerm,
    LogitTerm,
    Recipe,
    RelationTerm,
    has_layers,
    kind_of,
)


def check_causal(recipe: Recipe, student: nn.Module) -> None:
    """Raises UsageError where a term asks of a causal student what it cannot learn."""
    if not (isinstance(student, Student) and isinstance(student.encoder, CausalEncoder)):
        return
    if any(isinstance(term, EdamTerm) for term in recipe.terms):
        raise UsageError(
            "recipe: term 'edam': expected a windowed student, got a causal one: its tokens attend to what came before "
            "them alone, and the teacher's maps look at the whole window; leave the term out"
        )


def check_ties(recipe: Recipe, student: StudentOutput, teacher: TeacherOutput, modality: str) -> None:
    """Raises UsageError where a term ties two shapes that cannot be tied; layers are those `check_recipe` let pass.

    Args:
        recipe: the terms.
        student: what the student gives for a window, with taps.
        teacher: what the teacher gives for the same window, with taps.
        modality: the student's.
    """
    for term in recipe.terms:
        match term:
            case LogitTerm() | DkdTerm() | DistTerm():
                if student.logits.shape[-1] != teacher.logits.shape[-1]:
                    raise UsageError(
                        f"recipe: term {kind_of(term)!r}: outputs (B, K)={_shape(student.logits)} of the student and "
                        f"{_shape(teacher.logits)} of the teacher cannot be tied; train both on the same classes"
                    )
            case EdamTerm():
                _check_maps(term, student, teacher, modality)
            case RelationTerm():
                _check_relations(term, student, teacher, modality)
            case FeatureTerm():
                _check_features(term, student, teacher, modality)


def _check_maps(term: EdamTerm, student: StudentOutput, teacher: TeacherOutput, modality: str) -> None:
    for own_layer, other_layer in edam_pairs(term, student, teacher, modality):
        own, other = student.attention[own_layer], teacher.cross_attention[modality][other_layer]
        tied = (
            f"recipe: term 'edam': self-attention (H, L, L)={_shape(own[0])} of student layer {own_layer} and "
            f"cross-attention (H, Lq, Lk)={_shape(other[0])} of teacher layer {other_layer} cannot be tied"
        )
        if term.heads == "group" and other.shape[1] % own.shape[1]:
            raise UsageError(
                f"{tied} head by head, {other.shape[1]} is no multiple of {own.shape[1]}; set heads to 'mean'"
            )
        keys = sum(length + EXTRA_TOKENS for length in source_lengths(teacher, modality))
        if modality not in teacher.valid or keys != other.shape[-1]:
            raise UsageError(
                f"{tied}: its keys are {other.shape[-1]}, and TeacherOutput.valid has {keys} tokens of modalities "
                f"other than {modality!r}; give the validity of every modality's tokens, in the order of the keys"
            )


def _check_relations(term: RelationTerm, student: StudentOutput, teacher: TeacherOutput, modality: str) -> None:
    for own, other in relation_pairs(term, student, teacher, modality):
        theirs = teaching(term, teacher, modality)[other]
        for kind in term.vectors:
            ours_shape, their_shape = (_shape(getattr(side, kind)[0]) for side in (student.projections[own], theirs))
            tied = (
                f"recipe: term 'relation': {kind} vectors (L, D)={ours_shape} of student layer {own} and {their_shape} "
                f"of teacher {term.teacher}-attention layer {other}"
            )
            if term.teacher == "cross" and kind != "query":
                raise UsageError(
                    f"{tied} cannot be tied, since the teacher's belong to the tokens of other modalities; "
                    "set vectors to query alone, or teacher to 'self'"
                )
            _check_tokens(tied, ours_shape[0], their_shape[0])
            width = math.gcd(ours_shape[-1], their_shape[-1])
            if width % term.heads:
                fitting = ", ".join(str(heads) for heads in range(1, width + 1) if width % heads == 0)
                raise UsageError(f"{tied} cannot both be split into {term.heads} heads; choose one of {fitting}")


def _check_features(term: FeatureTerm, student: StudentOutput, teacher: TeacherOutput, modality: str) -> None:
    if has_layers(term):
        pairs = feature_pairs(term, student, teacher, modality)
        tied = [
            (student.hidden[own], f"student layer {own}", teacher.hidden[modality][other], f"teacher layer {other}")
            for own, other in pairs
        ]
    else:
        tied = [(student.embedding, "the student's embedding", teacher.embedding, "the teacher's embedding")]
    for ours, own_name, theirs, other_name in tied:
        both = f"recipe: term 'feature': {_shape(ours[0])} of {own_name} and {_shape(theirs[0])} of {other_name}"
        if not term.project and ours.shape[-1] != theirs.shape[-1]:
            raise UsageError(
                f"{both} cannot be tied without a projector; "
                "set project to true, or choose a student of the teacher's width"
            )
        if has_layers(term):
            _check_tokens(both, ours.shape[1], theirs.shape[1])
        if has_layers(term) and term.keep < 1 and ours.shape[1] <= EXTRA_TOKENS:
            raise UsageError(f"{both} have no time tokens, and so no frequencies to keep; set keep to 1")


def _check_tokens(both: str, own: int, other: int) -> None:
    if own != other and min(own, other) <= EXTRA_TOKENS:
        raise UsageError(
            f"{both} cannot be tied by time: the last {EXTRA_TOKENS} tokens sum up the window, and one side has no "
            "others; give both as many tokens, or tie embeddings"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
