"""Several teachers of one student: answers mixed, insides named."""

import math

import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.distillation.learner import DistillLearner, mix_logits
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm, RelationTerm
from mmkd_models.losses.logits import DistTerm, DkdTerm, LogitTerm, dist_loss, dkd_loss, kl_loss
from mmkd_models.losses.term import CLASSES, Goal, constant
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.teacher import Teacher
from tests.edge.said import said
from tests.models.distillation.pairs import ENCODER, SPECS, batch, student

ONE = constant(1.0)
GYRO = SPECS[1]


def teacher(seed, *specs):
    torch.manual_seed(seed)
    return Teacher(specs or SPECS[:2], 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1))


def learner(teachers, *terms):
    return DistillLearner(student(), teachers, Recipe(terms=terms), modality="acc")


def terms_of(teachers, *terms):
    made = learner(teachers, *terms).eval()
    torch.manual_seed(0)
    found = made(batch(), 0.0)
    assert isinstance(found, dict)
    return found


def refusal(teachers, *terms):
    return said(UsageError, learner, teachers, *terms)


def logits_of(one):
    with torch.no_grad():
        output = one.eval()(batch().inputs)
    return output.logits


def test_output_terms_learn_from_the_mean_of_probabilities_at_their_own_temperature():
    pair = [teacher(1), teacher(2, GYRO)]
    data, own = batch(), student().eval()(*batch().inputs["acc"]).logits
    found = terms_of(pair, LogitTerm(weight=ONE, temperature=3.0), DkdTerm(weight=ONE), DistTerm(weight=ONE))

    def mean(temperature):
        return sum(torch.softmax(logits_of(one) / temperature, -1) for one in pair) / 2  # type: ignore[return-value]

    expected = {
        "logit": kl_loss(own, 3.0 * mean(3.0).log(), temperature=3.0),
        "dkd": dkd_loss(own, 2.0 * mean(2.0).log(), data.targets.argmax(-1), temperature=2.0, alpha=1.0, beta=2.0),
        "dist": dist_loss(own, mean(1.0).log(), temperature=1.0, beta=1.0, gamma=1.0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)  # float32 logarithms there and back


INSIDE = ((EdamTerm, {}), (RelationTerm, {"heads": 2}), (FeatureTerm, {}), (CrdTerm, {"queue": 0, "width": 4}))


@pytest.mark.parametrize(("kind", "options"), INSIDE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_term_that_looks_inside_looks_into_the_teacher_that_it_names(kind, options):
    first, second = teacher(1), teacher(2)
    alone = terms_of(second, kind(weight=ONE, **options))["loss"]
    together = terms_of([first, second], kind(weight=ONE, member=1, **options))["loss"]
    other = terms_of([first, second], kind(weight=ONE, member=0, **options))["loss"]
    assert torch.equal(alone, together)
    assert not torch.equal(alone, other)


def test_what_several_teachers_cannot_have_is_refused():
    pair, logit, edam = [teacher(1), teacher(2)], LogitTerm(weight=ONE), EdamTerm(weight=ONE)
    assert refusal([], logit) == "distillation: expected one or more teachers, got none; name some"
    several = "recipe: term 'edam' looks into one of 2 teachers: expected member=0 to 1, in their order, got "
    assert refusal(pair, edam) == f"{several}none"
    assert refusal(pair, EdamTerm(weight=ONE, member=2)) == f"{several}2"
    assert refusal(teacher(1), EdamTerm(weight=ONE, member=1)).endswith("expected member=0 to 0, in their order, got 1")


def test_a_member_that_does_not_see_the_sensor_teaches_its_outputs_alone():
    pair = [teacher(1), teacher(2, GYRO)]
    assert torch.isfinite(terms_of(pair, LogitTerm(weight=ONE), EdamTerm(weight=ONE, member=0))["loss"])
    inside = RelationTerm(weight=ONE, heads=2, member=1)
    assert "it can compare 2 layers of the student and 0 of the teacher" in refusal(pair, LogitTerm(weight=ONE), inside)


def logits(count, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, classes, generator=generator) * 3 for _ in range(count)]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_probabilities_are_the_mean_of_the_members(classes, temperature):
    members = logits(3, classes)
    mixed = mix_logits(CLASSES, members, temperature=temperature) / temperature
    for row in range(4):
        for column in range(classes):
            total = 0.0
            for member in members:
                exponentials = [math.exp(float(value) / temperature) for value in member[row]]
                total += exponentials[column] / sum(exponentials)
            # float32 through a logarithm and back
            assert float(torch.softmax(mixed[row], 0)[column]) == pytest.approx(total / 3, abs=1e-6)


def test_answers_are_averaged_by_the_kind_of_task():
    one, other = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[0.0, 20.0, 0.0]])
    mixed = torch.softmax(mix_logits(CLASSES, [one, other], temperature=1.0), -1)
    # the third class has e^-20, 2e-9, in both
    torch.testing.assert_close(mixed, torch.tensor([[0.5, 0.5, 0.0]]), atol=1e-7, rtol=0)
    members, temperature = logits(2, 3), 2.0
    mean = torch.stack([torch.sigmoid(member / temperature) for member in members]).mean(0)
    mixed = mix_logits(Goal(kind="multi_label"), members, temperature=temperature)
    torch.testing.assert_close(torch.sigmoid(mixed / temperature), mean, atol=1e-6, rtol=1e-5)
    assert torch.equal(mix_logits(Goal(kind="regression"), members, temperature=1.0), torch.stack(members).mean(0))
