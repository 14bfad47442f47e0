"""Recipes: their short form on a command line, the text that teaches it, and what can be told wrong in them."""

import itertools
import math
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_models.commands.distill import run_distill
from mmkd_models.distillation.recipe import Recipe, check_terms, chosen_recipe, term_from_text, terms_text
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm, RelationTerm
from mmkd_models.losses.logits import DistTerm, DkdTerm, LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import Weight, constant, layer_pairs

DEFAULT = Recipe(terms=(LogitTerm(weight=constant(1.0)),))


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("task", TaskTerm(weight=constant(1.0))),
        ("logit,temperature=4", LogitTerm(weight=constant(1.0), temperature=4.0)),
        ("edam", EdamTerm(weight=Weight(start=0.5, end=0.0, until=0.6))),
        (
            "edam,weight=1..0.25@0.5,layers=uniform",
            EdamTerm(weight=Weight(start=1, end=0.25, until=0.5), layers="uniform"),
        ),
        ("edam,weight=1..0", EdamTerm(weight=Weight(start=1.0, end=0.0))),
        (
            "relation,weight=2,layers=0:1+-1:-1,vectors=query+value,heads=4",
            RelationTerm(weight=constant(2.0), layers=((0, 1), (-1, -1)), vectors=("query", "value"), heads=4),
        ),
        ("feature,level=embedding", FeatureTerm(weight=constant(1.0), level="embedding")),
        ("edam,member=1", EdamTerm(weight=Weight(start=0.5, end=0.0, until=0.6), member=1)),
        ("feature,layers=3", FeatureTerm(weight=constant(1.0), layers=3)),
        ("crd,queue=64", CrdTerm(weight=constant(0.1), queue=64)),
    ],
)
def test_a_short_form_is_the_term_that_it_says(text, term):
    assert term_from_text(text) == term


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("edm", "expected one of task, logit, dkd, dist, edam, relation, feature, crd, got 'edm'"),
        ("edam,head=mean", "expected NAME=VALUE with a name of weight, member, layers, got 'head=mean'"),
        ("task,2", "expected NAME=VALUE with a name of weight, got '2'"),
        ("logit,temperature=hot", "Expected `float`, got `str` - at `$.temperature`"),
        ("feature,level=all", "Invalid enum value 'all' - at `$.level`"),
        ("logit,weight=big", "weight: could not convert string to float: 'big'"),
        ("edam,layers=all", "layers: invalid literal for int() with base 10: 'all'"),
    ],
)
def test_what_is_no_term_says_what_is_wrong_and_where_to_look(text, problem):
    with pytest.raises(UsageError) as caught:
        term_from_text(text)
    assert str(caught.value) == f"--term {text!r}: {problem}; --list-terms shows them all"


def test_the_text_names_every_kind_and_every_setting_and_its_settings_can_be_given_back(capsys):
    with pytest.raises(SystemExit):
        run_distill(["--list-terms"])
    text = capsys.readouterr().out
    assert text.rstrip() == terms_text().rstrip()
    lines = text.splitlines()
    for line, after in itertools.pairwise(lines):
        kind = re.match(r"^(task|logit|dkd|dist|edam|relation|feature|crd) ", line)
        if kind is None:
            continue
        settings = [re.sub(r"\|.*", "", setting) for setting in after.split()]
        shown = term_from_text(",".join([kind[1], *settings]))
        assert shown == term_from_text(kind[1])
        unset = {name for name in shown.__struct_fields__ if getattr(shown, name) is msgspec.UNSET}
        assert unset <= {"member"}  # nothing to show: it is for several teachers alone
        assert [setting.split("=")[0] for setting in settings] == [n for n in shown.__struct_fields__ if n not in unset]
    assert max(len(line) for line in lines) <= 120


def test_a_file_or_terms_or_the_default_are_the_recipe_and_both_or_none_are_refused(tmp_path):
    file = tmp_path / "recipe.json"
    kept = Recipe(terms=(TaskTerm(weight=constant(3.0)),))
    file.write_bytes(msgspec.json.encode(kept))
    nothing = {"file": None, "terms": ()}
    assert chosen_recipe(DEFAULT, **nothing) == DEFAULT
    assert chosen_recipe(DEFAULT, **{**nothing, "file": file}) == kept
    terms = chosen_recipe(DEFAULT, **{**nothing, "terms": ["task"]})
    assert terms == Recipe(terms=(TaskTerm(weight=constant(1.0)),))
    with pytest.raises(UsageError) as caught:
        chosen_recipe(DEFAULT, file=Path("r.json"), terms=["task"])
    assert str(caught.value) == (
        "--recipe r.json: expected a recipe or --term, got both; write the terms into the file"
    )
    path = tmp_path / "none.json"
    with pytest.raises(UsageError) as caught:
        chosen_recipe(DEFAULT, file=path, terms=())
    assert str(caught.value) == (
        f"{path}: expected a JSON file with a recipe, No such file or directory; check the path"
    )


ONE = constant(1.0)


def refusal(*terms):
    with pytest.raises(UsageError) as caught:
        check_terms(Recipe(terms=terms))
    return str(caught.value)


def test_every_term_survives_json():
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
def test_layers_are_paired(layers, student, teacher, pairs):
    assert tuple(layer_pairs(layers, student=student, teacher=teacher)) == pairs


@given(st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_uniform_pairs_rise_through_both_networks_to_their_last_layers(student, teacher):
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
def test_numbers_that_make_no_sense_are_refused(term, problem):
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
def test_what_a_recipe_does_not_know_says_where(document, problem):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(document, type=Recipe)
    assert str(caught.value) == problem
