"""What can be told wrong in a recipe before any network is there, and which layers learn from which."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_models.distillation.recipe import Recipe, Term, check_recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.correlation import DistTerm
from mmkd_models.losses.decoupled import DkdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.layers import Layers, layer_pairs
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant

ONE = constant(1.0)


def refusal(*terms: Term, classes: int | None = None, **counts: int) -> str:
    with pytest.raises(UsageError) as caught:
        check_recipe(Recipe(terms=terms), **{"student_layers": 2, "teacher_layers": 2, **counts}, classes=classes)
    return str(caught.value)


def test_every_term_survives_json() -> None:
    terms = (
        TaskTerm(weight=ONE),
        LogitTerm(weight=ONE, standardise=True),
        DkdTerm(weight=ONE, beta=8.0),
        DistTerm(weight=ONE, gamma=2.0),
        EdamTerm(weight=ONE, layers="uniform", heads="group"),
        RelationTerm(weight=ONE, layers=2, vectors=("value",), teacher="cross"),
        FeatureTerm(weight=ONE, layers=((0, 1), (1, -1)), keep=0.5, project=False),
        CrdTerm(weight=ONE, memory="bank", negatives=7, momentum=0.9),
    )
    recipe = Recipe(terms=terms, trust="confidence", init="teacher")
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe
    check_recipe(recipe, student_layers=2, teacher_layers=2, teacher_blocks=4, classes=3)


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
    assert layer_pairs(layers, student=student, teacher=teacher) == pairs


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
    assert refusal(RelationTerm(weight=ONE, layers=last), teacher_blocks=4) == (
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
    check_recipe(
        Recipe(terms=(RelationTerm(weight=ONE, layers=pair),)), student_layers=2, teacher_layers=2, teacher_blocks=4
    )
    assert refusal(RelationTerm(weight=ONE, layers=pair, teacher="cross"), teacher_blocks=4) == (
        "recipe: term 'relation' names cross-attention layer 3 of the teacher, which has 2; choose -2 to 1"
    )
    assert refusal(FeatureTerm(weight=ONE, layers=((0, 4),)), teacher_blocks=4) == (
        "recipe: term 'feature' names self-attention layer 4 of the teacher, which has 4; choose -4 to 3"
    )


def test_an_embedding_needs_no_cross_attention() -> None:
    term = FeatureTerm(weight=ONE, level="embedding")
    check_recipe(Recipe(terms=(term,)), student_layers=2, teacher_layers=0, teacher_blocks=2)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            FeatureTerm(weight=ONE, level="embedding", layers=9),
            "recipe: term 'feature': expected no layers with level 'embedding', which has none, got 9; leave them out",
        ),
        (
            CrdTerm(weight=ONE, memory="batch", queue=64),
            (
                "recipe: term 'crd': expected no queue with memory 'batch', which reads none, got 64; leave it out, "
                "or set memory to 'queue'"
            ),
        ),
        (
            CrdTerm(weight=ONE, negatives=64),
            (
                "recipe: term 'crd': expected no negatives with memory 'queue', which reads none, got 64; leave it "
                "out, or set memory to 'bank'"
            ),
        ),
        (
            CrdTerm(weight=ONE, memory="batch", momentum=0.9),
            (
                "recipe: term 'crd': expected no momentum with memory 'batch', which reads none, got 0.9; leave it "
                "out, or set memory to 'bank'"
            ),
        ),
    ],
)
def test_an_option_that_nothing_reads_is_an_error(term: Term, message: str) -> None:
    assert refusal(term) == message


def test_a_student_without_layers_has_nothing_to_tie() -> None:
    assert refusal(FeatureTerm(weight=ONE), student_layers=0) == (
        "recipe: term 'feature' needs self-attention layers of the student, which has none; drop the term"
    )


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        (DkdTerm(weight=ONE, temperature=0.0), "a temperature above 0, got 0.0; correct it"),
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
        (FeatureTerm(weight=ONE, keep=0.0), "a share of frequencies to keep above 0 and up to 1, got 0.0; correct it"),
        (FeatureTerm(weight=ONE, keep=1.5), "a share of frequencies to keep above 0 and up to 1, got 1.5; correct it"),
        (
            CrdTerm(weight=ONE, negatives=0),
            "negatives >= 1 and a momentum from 0 to below 1, got 0 and 0.5; correct them",
        ),
        (
            CrdTerm(weight=ONE, momentum=1.0),
            "negatives >= 1 and a momentum from 0 to below 1, got 1024 and 1.0; correct them",
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
            LogitTerm(weight=ONE, standardise=True),
            (
                "recipe: term 'logit' cannot standardise the outputs of two classes: their z-scores are 0.707 and "
                "-0.707 whatever the network says; set standardise to false"
            ),
        ),
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
    check_recipe(Recipe(terms=(term,)), student_layers=2, teacher_layers=2, classes=3)


def test_what_can_teach_two_classes_is_taken() -> None:
    terms = (LogitTerm(weight=ONE), DkdTerm(weight=ONE), DistTerm(weight=ONE))
    check_recipe(Recipe(terms=terms), student_layers=2, teacher_layers=2, classes=2)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ('{"terms": [], "trust": "all"}', "Invalid enum value 'all' - at `$.trust`"),
        ('{"terms": [], "init": "x"}', "Invalid enum value 'x' - at `$.init`"),
        (
            '{"terms": [{"type": "edam", "weight": {"start": 1, "end": 1}, "layers": "all"}]}',
            "Invalid enum value 'all' - at `$.terms[0].layers`",
        ),
    ],
)
def test_words_that_a_recipe_does_not_know_say_where(document: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(document, type=Recipe)
    assert str(caught.value) == problem
