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
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import Layers, Weight, constant, layer_pairs

ONE = constant(1.0)


def refusal(*terms: Term) -> str:
    with pytest.raises(UsageError) as caught:
        check_terms(Recipe(terms=terms))
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
    check_terms(recipe)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "pairs"),
    [
        ("uniform", 2, 4, ((0, 1), (1, 3))),
        ("uniform", 4, 2, ((0, 0), (1, 0), (2, 1), (3, 1))),
        ("uniform", 2, 3, ((0, 1), (1, 2))),
        ("uniform", 5, 1, ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0))),
        (1, 3, 5, ((2, 4),)),
        (2, 3, 2, ((1, 0), (2, 1))),
        (((0, -1), (-1, 0)), 3, 2, ((0, -1), (-1, 0))),
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


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        *((kind(weight=ONE, temperature=0.0), "> 0.0 - at `$.temperature`") for kind in (LogitTerm, DkdTerm, CrdTerm)),
        (LogitTerm(weight=ONE, temperature=math.inf), "<= 1000000.0 - at `$.temperature`"),
        (CrdTerm(weight=ONE, width=0), ">= 1 - at `$.width`"),
        (CrdTerm(weight=ONE, queue=-1), ">= 0 - at `$.queue`"),
        (DkdTerm(weight=ONE, alpha=-1.0), ">= 0.0 - at `$.alpha`"),
        (DistTerm(weight=ONE, gamma=-1.0), ">= 0.0 - at `$.gamma`"),
        (RelationTerm(weight=ONE, heads=0), ">= 1 - at `$.heads`"),
        (RelationTerm(weight=ONE, vectors=()), "of length >= 1 - at `$.vectors`"),
        (LogitTerm(weight=constant(-1.0)), ">= 0.0 - at `$.weight.start`"),
        (LogitTerm(weight=Weight(start=1.0, end=math.nan)), ">= 0.0 - at `$.weight.end`"),
        (LogitTerm(weight=constant(math.inf)), "<= 1000000.0 - at `$.weight.start`"),
        (LogitTerm(weight=Weight(start=1.0, end=0.0, until=0.0)), "> 0.0 - at `$.weight.until`"),
        (LogitTerm(weight=Weight(start=1.0, end=0.0, until=1.5)), "<= 1.0 - at `$.weight.until`"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(term: Any, problem: str) -> None:
    message = refusal(term)
    assert message.startswith(f"recipe: term {term.name!r}: Expected ")
    assert message.endswith(f"{problem}; correct it")


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
