"""What can be told wrong in a recipe before any network is there, and which layers learn from which."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_models.distillation.recipe import Recipe, Term, check_terms
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.correlation import DistTerm
from mmkd_models.losses.decoupled import DkdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.layers import Layers, LayerTerm, layer_pairs
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant

ONE = constant(1.0)


def check(recipe: Recipe, *, classes: int | None = None, **depths: int) -> None:
    check_terms(recipe, classes=classes)
    for term in recipe.terms:
        if isinstance(term, LayerTerm):
            term.check_depth(**depths)


def refusal(*terms: Term, classes: int | None = None, **counts: int) -> str:
    with pytest.raises(UsageError) as caught:
        check(Recipe(terms=terms), classes=classes, **{"student": 2, "fusion": 2, "blocks": 2, **counts})
    return str(caught.value)


def test_every_term_survives_json() -> None:
    terms = (
        TaskTerm(weight=ONE),
        LogitTerm(weight=ONE, temperature=4.0),
        DkdTerm(weight=ONE, beta=8.0),
        DistTerm(weight=ONE, gamma=2.0),
        EdamTerm(weight=ONE, layers="uniform"),
        RelationTerm(weight=ONE, layers=2, vectors=("value",)),
        FeatureTerm(weight=ONE, layers=((0, 1), (1, -1))),
        CrdTerm(weight=ONE, width=7, queue=0),
    )
    recipe = Recipe(terms=terms)
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe
    check_terms(recipe, classes=3)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "pairs"),
    [
        ("uniform", 2, 4, ((0, 1), (1, 3))),
        ("uniform", 4, 2, ((0, 0), (1, 0), (2, 1), (3, 1))),
        ("uniform", 2, 3, ((0, 1), (1, 2))),
        ("uniform", 5, 1, ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0))),
        (1, 3, 5, ((2, 4),)),
        (2, 3, 2, ((1, 0), (2, 1))),
        (((0, -1), (-1, 0)), 3, 2, ((0, 1), (2, 0))),
    ],
)
def test_layers_are_paired(layers: Layers, student: int, teacher: int, pairs: tuple[tuple[int, int], ...]) -> None:
    assert tuple(layer_pairs(layers, student=student, teacher=teacher)) == pairs


@given(st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_uniform_pairs_rise_through_both_networks_to_their_last_layers(student: int, teacher: int) -> None:
    pairs = layer_pairs("uniform", student=student, teacher=teacher)
    others = [other for _, other in pairs]
    assert [own for own, _ in pairs] == list(range(student))
    assert others == sorted(others)
    assert 0 <= others[0] <= others[-1] == teacher - 1


@pytest.mark.parametrize("last", [0, 3, -1])
def test_more_last_layers_than_there_are_is_refused(last: int) -> None:
    assert refusal(RelationTerm(weight=ONE, layers=last), blocks=4) == (
        f"recipe: term 'relation' ties the last {last} layers of a student with 2 self-attention layers and a teacher "
        "with 4 self-attention layers; choose 1 to 2"
    )


def test_no_pairs_are_refused() -> None:
    assert refusal(EdamTerm(weight=ONE, layers=())) == (
        "recipe: term 'edam': expected one or more pairs of layers, got none; "
        "name some, a number of last layers, or 'uniform'"
    )


def test_pairs_count_the_layers_of_the_attention_that_teaches() -> None:
    pair = ((0, 3),)
    RelationTerm(weight=ONE, layers=pair).check_depth(student=2, fusion=2, blocks=4)
    assert refusal(EdamTerm(weight=ONE, layers=pair), blocks=4) == (
        "recipe: term 'edam' names cross-attention layer 3 of the teacher, which has 2; choose -2 to 1"
    )
    assert refusal(FeatureTerm(weight=ONE, layers=((0, 4),)), blocks=4) == (
        "recipe: term 'feature' names self-attention layer 4 of the teacher, which has 4; choose -4 to 3"
    )


def test_an_embedding_needs_no_cross_attention() -> None:
    term = FeatureTerm(weight=ONE, level="embedding")
    term.check_depth(student=2, fusion=0, blocks=2)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            FeatureTerm(weight=ONE, level="embedding", layers=9),
            "recipe: term 'feature': expected no layers with level 'embedding', which has none, got 9; leave them out",
        )
    ],
)
def test_an_option_that_nothing_reads_is_an_error(term: Term, message: str) -> None:
    assert refusal(term) == message


def test_a_student_without_layers_has_nothing_to_tie() -> None:
    assert refusal(FeatureTerm(weight=ONE), student=0) == (
        "recipe: term 'feature' needs self-attention layers of the student, which has none; drop the term"
    )


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        *(
            (kind(weight=ONE, temperature=temperature), f"a temperature above 0, got {temperature}; correct it")
            for kind in (LogitTerm, DkdTerm, CrdTerm)
            for temperature in (0.0, -1.0, math.inf)
        ),
        (CrdTerm(weight=ONE, width=0, queue=-1), "width >= 1 and queue >= 0, got 0 and -1; correct them"),
        (
            DkdTerm(weight=ONE, alpha=0.0, beta=0.0),
            "alpha >= 0 and beta >= 0, one above 0, got 0.0 and 0.0; correct them",
        ),
        (DistTerm(weight=ONE, gamma=-1.0), "beta >= 0 and gamma >= 0, one above 0, got 1.0 and -1.0; correct them"),
        (
            RelationTerm(weight=ONE, heads=0),
            (
                "heads >= 1 and one or more of query, key and value, each once, got 0 and ['query', 'key', 'value']; "
                "correct them"
            ),
        ),
        (
            RelationTerm(weight=ONE, vectors=("key", "key")),
            "heads >= 1 and one or more of query, key and value, each once, got 8 and ['key', 'key']; correct them",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(term: Any, problem: str) -> None:
    kind = term.__struct_config__.tag
    assert refusal(term) == f"recipe: term {kind!r}: expected {problem}"


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            DkdTerm(weight=ONE, alpha=0.0),
            (
                "recipe: term 'dkd' has alpha 0, and with two classes there is one other class, about which beta has "
                "nothing to teach; set alpha above 0"
            ),
        ),
        (
            DistTerm(weight=ONE, gamma=0.0),
            (
                "recipe: term 'dist' has gamma 0, and with two classes the correlation over classes is 1 or -1 "
                "whatever the network says; set gamma above 0"
            ),
        ),
    ],
)
def test_what_cannot_teach_two_classes_is_refused_for_two_and_taken_for_three(term: Any, message: str) -> None:
    assert refusal(term, classes=2) == message
    check_terms(Recipe(terms=(term,)), classes=3)


def test_what_can_teach_two_classes_is_taken() -> None:
    terms = (LogitTerm(weight=ONE), DkdTerm(weight=ONE), DistTerm(weight=ONE))
    check_terms(Recipe(terms=terms), classes=2)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ('{"terms": [], "trust": "all"}', "Object contains unknown field `trust`"),
        (
            '{"terms": [{"type": "edam", "weight": {"start": 1, "end": 1}, "layers": "all"}]}',
            "Invalid enum value 'all' - at `$.terms[0].layers`",
        ),
    ],
)
def test_what_a_recipe_does_not_know_says_where(document: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(document, type=Recipe)
    assert str(caught.value) == problem
