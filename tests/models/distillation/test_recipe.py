"""Recipes and their texts: terms, layers, numbers, files, and what is refused."""

import itertools
import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mmkd_app.commands.distill import run_distill
from mmkd_edge.errors import UsageError
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.learner import DistillLearner, SupervisedLearner
from mmkd_models.distillation.recipe import Recipe, check_terms, chosen_recipe, term_from_text, terms_text
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm, RelationTerm
from mmkd_models.losses.logits import DistTerm, DkdTerm, LogitTerm, kl_loss
from mmkd_models.losses.task import TaskTerm, soft_cross_entropy
from mmkd_models.losses.term import Weight, constant, layer_pairs
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.teacher import Teacher
from tests.edge.said import said
from tests.models.distillation.pairs import ENCODER, SPECS, batch, student, teacher

TASK = TaskTerm(weight=constant(1.0))
LOGIT = LogitTerm(weight=constant(2.0), temperature=2.0)
EDAM = EdamTerm(weight=constant(0.5))
CRD = CrdTerm(weight=constant(0.1), queue=16, width=4)


def learner(*terms, count=3, classes=3):
    return DistillLearner(student(classes=classes), teacher(count, classes), Recipe(terms=terms), modality="acc").eval()


def refusal(*terms, count=3, classes=3):
    return said(UsageError, learner, *terms, count=count, classes=classes)


def test_a_recipe_has_terms_of_different_kinds_whose_weights_follow_half_a_cosine():
    weight = Weight(start=1.0, end=0.2, until=0.5)
    assert weight.at(0.0) == 1.0
    assert weight.at(0.25) == pytest.approx(0.6)
    assert weight.at(0.125) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert weight.at(0.5) == weight.at(1.0) == 0.2
    assert refusal() == "recipe: expected one or more terms of different kinds, got none; name each kind once"
    expected = "recipe: expected one or more terms of different kinds, got logit, task, logit; name each kind once"
    assert refusal(LOGIT, TASK, LOGIT) == expected


@pytest.mark.parametrize("layers", [((2, -1),), ((-1, -4),), 3, 0, -1, ()])
def test_layers_that_are_not_there_are_refused(layers):
    assert refusal(EdamTerm(weight=constant(1.0), layers=layers)) == (
        f"recipe: term 'edam': layers={layers} does not fit: it can compare 2 layers of the student and 2 of the "
        "teacher; choose other layers, or leave the term out"
    )


def test_a_teacher_without_cross_attention_has_no_map_to_give():
    assert "it can compare 2 layers of the student and 0 of the teacher" in refusal(EDAM, count=1)


@pytest.mark.parametrize("weight", [constant(0.0), Weight(start=1.0, end=0.0, until=0.6), Weight(start=0.0, end=1.0)])
def test_a_recipe_that_teaches_nothing_at_some_time_is_refused(weight):
    assert refusal(EdamTerm(weight=weight)) == (
        "recipe: expected a term whose weight stays above 0 during the whole training, got none; "
        "keep one term on, or let its weight end above 0"
    )


def deaf_teacher():
    """A teacher that does not see the student's modality."""
    torch.manual_seed(1)
    return Teacher(SPECS[1:], 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=2))


def test_a_teacher_of_other_modalities_teaches_outputs_and_embeddings():
    terms = (LOGIT, FeatureTerm(weight=constant(1.0), level="embedding"), CRD)
    module = DistillLearner(student(), deaf_teacher(), Recipe(terms=terms), modality="acc").eval()
    data = batch()
    found = module(data, 0.0)
    theirs = deaf_teacher().eval()({name: data.inputs[name] for name in ("gyro", "audio")})
    ours = module.network(*data.inputs["acc"])
    torch.testing.assert_close(found["logit"], kl_loss(ours.logits, theirs.logits, temperature=2.0))
    assert all(bool(value.isfinite()) for value in found.values())


@pytest.mark.parametrize("term", [EDAM, FeatureTerm(weight=constant(1.0))])
def test_tokens_of_a_modality_that_the_teacher_does_not_see_are_refused(term):
    problem = said(UsageError, DistillLearner, student(), deaf_teacher(), Recipe(terms=(LOGIT, term)), modality="acc")
    assert "it can compare 2 layers of the student and 0 of the teacher" in problem


def test_the_loss_is_the_sum_of_its_terms_by_weights_that_move():
    terms = learner(TASK, LOGIT, EDAM, CRD)(batch(), 0.3)
    assert set(terms) == {"task", "logit", "edam", "crd", "loss"}
    expected = 1.0 * terms["task"] + 2.0 * terms["logit"] + 0.5 * terms["edam"] + 0.1 * terms["crd"]
    torch.testing.assert_close(terms["loss"], expected)
    module = learner(TASK, EdamTerm(weight=Weight(start=0.5, end=0.0, until=0.6)))
    early, late = module(batch(), 0.0), module(batch(), 0.7)
    torch.testing.assert_close(early["loss"], early["task"] + 0.5 * early["edam"])
    assert set(late) == {"task", "loss"}  # a term of weight 0 is not even computed
    torch.testing.assert_close(late["loss"], late["task"])
    data = msgspec.structs.replace(batch(), targets=torch.zeros(4, 3), labelled=torch.zeros(4))
    terms = learner(TASK, LOGIT)(data, 0.0)
    assert terms["task"].item() == 0.0
    torch.testing.assert_close(terms["loss"], 2.0 * terms["logit"])


def without(data, name, rows):
    inputs = {key: (v.clone(), p.clone()) for key, (v, p) in data.inputs.items()}
    for tensor in inputs[name]:
        tensor[rows] = 0
    return msgspec.structs.replace(data, inputs=inputs)


def part_of(data, rows):
    inputs = {name: (v[rows], p[rows]) for name, (v, p) in data.inputs.items()}
    return Batch(inputs=inputs, targets=data.targets[rows], labelled=data.labelled[rows], index=data.index[rows])


def test_the_map_target_leaves_out_what_cannot_be_seen():
    data = without(without(batch(), "gyro", slice(2, 4)), "audio", slice(2, 4))
    module = learner(TASK, EDAM)
    expected = module(part_of(data, slice(0, 2)), 0.0)
    torch.testing.assert_close(module(data, 0.0)["edam"], expected["edam"])
    data = batch(missing=0.0)
    for tensor in data.inputs["acc"]:
        tensor[:, :16] = 0  # the first two of five tokens of the student's own modality
    terms = learner(TASK, EDAM)(data, 0.0)
    # Attention of the teacher on a token that the student cannot see would cost -log(1e-6) = 13.8 for its share.
    assert terms["edam"].item() < 1.0


def test_the_teacher_stays_frozen_and_is_in_no_state_of_the_learner():
    network = teacher().train()
    module = DistillLearner(student(), network, Recipe(terms=(TASK, LOGIT, EDAM, CRD)), modality="acc")
    module.train()
    assert module.network.training
    assert not any(part.training for part in network.modules())
    module(batch(), 0.0)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    network, module = student(), learner(TASK, LOGIT, EDAM, CRD)
    expected = {f"network.{name}" for name in network.state_dict()}
    contrast = {f"heads.crd.{part}.{kind}" for part in ("student", "teacher") for kind in ("weight", "bias")}
    queue = {f"heads.crd.queue_{part}" for part in ("student", "teacher", "index")}
    assert set(module.state_dict()) == expected | contrast | queue
    assert {name for name, _ in module.named_parameters()} == {
        f"network.{name}" for name, _ in network.named_parameters()
    } | contrast


def test_a_supervised_student_learns_from_labels_and_loses_modalities_in_training_only():
    network, data = student().eval(), batch()
    terms = SupervisedLearner(network, modality="acc").eval()(data, 0.0)
    logits = network(*data.inputs["acc"]).logits
    assert set(terms) == {"loss"}
    torch.testing.assert_close(terms["loss"], soft_cross_entropy(logits, data.targets))
    module = SupervisedLearner(teacher(), modality=None, modality_dropout=1.0)
    data = batch(size=6)
    assert hidden_share(module.train(), data) == pytest.approx(1 / 3)  # one of three in every window
    assert hidden_share(module.eval(), data) == 0.0


def hidden_share(module, data):
    """Share of the teacher's encoder inputs that arrive empty."""
    seen = []
    handles = [
        encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
        for encoder in module.network.encoders.values()  # type: ignore[operator]
    ]
    torch.manual_seed(0)
    module(data, 0.0)
    for handle in handles:
        handle.remove()
    return float(np.mean([not bool(present[row].any()) for present in seen for row in range(len(present))]))


DEFAULT = Recipe(terms=(LogitTerm(weight=constant(1.0)),))
UNIFORM = EdamTerm(weight=Weight(start=1, end=0.25, until=0.5), layers="uniform")
RELATION = RelationTerm(weight=constant(2.0), layers=((0, 1), (-1, -1)), vectors=("query", "value"), heads=4)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("task", TaskTerm(weight=constant(1.0))),
        ("logit,temperature=4", LogitTerm(weight=constant(1.0), temperature=4.0)),
        ("edam,member=1", EdamTerm(weight=Weight(start=0.5, end=0.0, until=0.6), member=1)),
        ("edam,weight=1..0.25@0.5,layers=uniform", UNIFORM),
        ("edam,weight=1..0", EdamTerm(weight=Weight(start=1.0, end=0.0))),
        ("relation,weight=2,layers=0:1+-1:-1,vectors=query+value,heads=4", RELATION),
        ("feature,level=embedding", FeatureTerm(weight=constant(1.0), level="embedding")),
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
    assert said(UsageError, term_from_text, text) == f"--term {text!r}: {problem}; --list-terms shows them all"


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
    assert chosen_recipe(DEFAULT, file=None, terms=()) == DEFAULT
    assert chosen_recipe(DEFAULT, file=file, terms=()) == kept
    assert chosen_recipe(DEFAULT, file=None, terms=["task"]) == Recipe(terms=(TASK,))
    assert said(UsageError, chosen_recipe, DEFAULT, file=Path("r.json"), terms=["task"]) == (
        "--recipe r.json: expected a recipe or --term, got both; write the terms into the file"
    )
    path = tmp_path / "none.json"
    assert said(UsageError, chosen_recipe, DEFAULT, file=path, terms=()) == (
        f"{path}: expected a JSON file with a recipe, No such file or directory; check the path"
    )


ONE = constant(1.0)


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
    message = said(UsageError, check_terms, Recipe(terms=(term,)))
    assert message.startswith(f"recipe: term {term.name!r}: Expected ")
    assert message.endswith(f"{problem}; correct it")
