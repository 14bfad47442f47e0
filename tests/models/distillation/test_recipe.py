"""Recipes, and the step in which a student learns from a teacher."""

import math

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.learner import DistillLearner, SupervisedLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.logits import LogitTerm, kl_loss
from mmkd_models.losses.task import TaskTerm, soft_cross_entropy
from mmkd_models.losses.term import Weight, constant
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.teacher import Teacher
from tests.models.distillation.pairs import ENCODER, SPECS, batch, student, teacher

TASK = TaskTerm(weight=constant(1.0))
LOGIT = LogitTerm(weight=constant(2.0), temperature=2.0)
EDAM = EdamTerm(weight=constant(0.5))
CRD = CrdTerm(weight=constant(0.1), queue=16, width=4)


def learner(*terms, count=3, classes=3):
    network = student(classes=classes)
    return DistillLearner(network, teacher(count, classes), Recipe(terms=terms), modality="acc").eval()


def refusal(*terms, count=3, classes=3):
    with pytest.raises(UsageError) as caught:
        learner(*terms, count=count, classes=classes)
    return str(caught.value)


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
    with pytest.raises(UsageError, match="it can compare 2 layers of the student and 0 of the teacher"):
        DistillLearner(student(), deaf_teacher(), Recipe(terms=(LOGIT, term)), modality="acc")


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


def test_map_distillation_brings_the_maps_together():
    module = learner(EDAM)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    data = batch()
    divergences = []
    for _ in range(30):
        terms = module(data, 0.0)
        divergences.append(terms["edam"].item())
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert 0 <= divergences[-1] < 0.5 * divergences[0]


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
