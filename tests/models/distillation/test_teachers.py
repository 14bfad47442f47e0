"""Several teachers of one student: answers mixed, insides named, windows answered by who has not seen them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe, Term
from mmkd_models.distillation.trust import trust_in_teacher
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.correlation import DistTerm, dist_loss
from mmkd_models.losses.decoupled import DkdTerm, dkd_loss
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.logits import LogitTerm, kl_loss
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.encoder import Projections
from mmkd_models.networks.out_of_fold import OutOfFoldTeachers
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher, TeacherOutput

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40)
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20)
ONE = constant(1.0)
PART = torch.tensor([0, 1, 2, 0, 1, 2])


def student() -> Student:
    torch.manual_seed(0)
    return Student(ACC, 3, StudentConfig(preset="test", encoder=ENCODER))


def teacher(seed: int, *specs: ModalitySpec) -> Teacher:
    torch.manual_seed(seed)
    return Teacher(specs or (ACC, GYRO), 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1))


def out_of_fold(*specs: ModalitySpec) -> OutOfFoldTeachers:
    return OutOfFoldTeachers([teacher(seed, *specs) for seed in (11, 12, 13)], PART)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    inputs = {}
    for spec in (ACC, GYRO):
        present = (torch.rand(6, *spec.shape, generator=generator) > 0.1).float()
        inputs[spec.name] = torch.randn(6, *spec.shape, generator=generator) * present, present
    targets = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    return Batch(inputs=inputs, targets=targets, labelled=torch.ones(6), index=torch.tensor([4, 0, 2, 5, 3, 1]))


def learner(teachers: nn.Module | Sequence[nn.Module], *terms: Term, **recipe: Any) -> DistillLearner:
    return DistillLearner(student(), teachers, Recipe(terms=terms, **recipe), modality="acc", windows=6)


def terms_of(teachers: nn.Module | Sequence[nn.Module], *terms: Term, **recipe: Any) -> dict[str, Tensor]:
    made = learner(teachers, *terms, **recipe).eval()
    torch.manual_seed(0)
    found = made(batch(), 0.0)
    assert isinstance(found, dict)
    return found


def refusal(teachers: nn.Module | Sequence[nn.Module], *terms: Term, **recipe: Any) -> str:
    with pytest.raises(UsageError) as caught:
        learner(teachers, *terms, **recipe)
    return str(caught.value)


def logits_of(one: nn.Module) -> Tensor:
    with torch.no_grad():
        output: TeacherOutput = one.eval()(batch().inputs)
    return output.logits


def test_output_terms_learn_from_the_mean_of_probabilities_at_their_own_temperature() -> None:
    pair = [teacher(1), teacher(2, GYRO)]
    data, own = batch(), student().eval()(*batch().inputs["acc"]).logits
    found = terms_of(pair, LogitTerm(weight=ONE, temperature=3.0), DkdTerm(weight=ONE), DistTerm(weight=ONE))

    def mean(temperature: float) -> Tensor:
        return sum(torch.softmax(logits_of(one) / temperature, -1) for one in pair) / 2  # type: ignore[return-value]

    expected = {
        "logit": kl_loss(own, 3.0 * mean(3.0).log(), temperature=3.0),
        "dkd": dkd_loss(own, 2.0 * mean(2.0).log(), data.targets.argmax(-1), temperature=2.0, alpha=1.0, beta=2.0),
        "dist": dist_loss(own, mean(1.0).log(), temperature=1.0, beta=1.0, gamma=1.0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)  # float32 logarithms there and back


def test_logits_are_averaged_where_the_recipe_says_so() -> None:
    pair = [teacher(1), teacher(2)]
    own = student().eval()(*batch().inputs["acc"]).logits
    found = terms_of(pair, LogitTerm(weight=ONE, standardise=True), mix="logits")
    mean = (logits_of(pair[0]) + logits_of(pair[1])) / 2
    torch.testing.assert_close(found["logit"], kl_loss(own, mean, temperature=2.0, standardise=True))


def test_trust_is_in_what_all_of_them_say() -> None:
    pair = [teacher(1), teacher(2)]
    data = batch()
    mean = sum(torch.softmax(logits_of(one), -1) for one in pair) / 2
    assert isinstance(mean, Tensor)
    wanted = trust_in_teacher(mean.log(), data.targets, data.labelled, by_confidence=False).mean()
    torch.testing.assert_close(terms_of(pair, LogitTerm(weight=ONE), trust="label")["trust"], wanted)


INSIDE = (
    (EdamTerm, {}),
    (RelationTerm, {"heads": 2}),
    (FeatureTerm, {}),
    (CrdTerm, {"memory": "batch", "width": 4}),
)


@pytest.mark.parametrize(("kind", "options"), INSIDE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_term_that_looks_inside_looks_into_the_teacher_that_it_names(kind: Any, options: Any) -> None:
    first, second = teacher(1), teacher(2)
    alone = terms_of(second, kind(weight=ONE, **options))["loss"]
    together = terms_of([first, second], kind(weight=ONE, member=1, **options))["loss"]
    other = terms_of([first, second], kind(weight=ONE, member=0, **options))["loss"]
    assert torch.equal(alone, together)
    assert not torch.equal(alone, other)


def test_a_student_starts_as_the_first_teachers_encoder() -> None:
    first, second = teacher(1), teacher(2)
    made = learner([first, second], LogitTerm(weight=ONE), init="teacher")
    own = made.network.state_dict()["encoder.position"]
    assert torch.equal(own, first.state_dict()["encoders.acc.position"])


def test_one_teacher_in_a_list_is_that_teacher() -> None:
    term = LogitTerm(weight=ONE)
    assert torch.equal(terms_of(teacher(1), term)["loss"], terms_of([teacher(1)], term)["loss"])


def test_what_several_teachers_cannot_have_is_refused() -> None:
    pair, logit, edam = [teacher(1), teacher(2)], LogitTerm(weight=ONE), EdamTerm(weight=ONE)
    assert refusal([], logit) == "distillation: expected one or more teachers, got none; name some"
    assert refusal(pair, edam) == (
        "recipe: term 'edam' looks into one teacher, and there are 2; name it with member, from 0 to 1 in the order of "
        "the teachers"
    )
    assert refusal(pair, EdamTerm(weight=ONE, member=2)) == (
        "recipe: term 'edam': expected a member from 0 to 1 of 2 teachers, got 2; correct it"
    )
    assert refusal(teacher(1), EdamTerm(weight=ONE, member=1)) == (
        "recipe: term 'edam': expected a member from 0 to 0 of 1 teacher, got 1; correct it"
    )
    assert refusal(teacher(1), logit, mix="logits") == (
        "recipe: mix 'logits' needs several teachers, got one; name more teachers, or leave it out"
    )
    assert refusal(pair, LogitTerm(weight=ONE, standardise=True)) == (
        "recipe: term 'logit' standardises logits, and mix 'probabilities' has none; set mix to 'logits'"
    )


def test_a_member_that_does_not_see_the_sensor_teaches_its_outputs_alone() -> None:
    pair = [teacher(1), teacher(2, GYRO)]
    assert torch.isfinite(terms_of(pair, LogitTerm(weight=ONE), EdamTerm(weight=ONE, member=0))["loss"])
    assert refusal(pair, LogitTerm(weight=ONE), RelationTerm(weight=ONE, heads=2, member=1)) == (
        "recipe: term 'relation' needs a teacher that sees 'acc', and this one sees gyro; "
        "train a teacher with it, or learn from outputs and embedding alone"
    )
    assert refusal(pair[::-1], LogitTerm(weight=ONE), init="teacher").startswith("recipe: init 'teacher' needs a")


def same(found: Any, wanted: Any) -> bool:
    """Whether two outputs agree, row by row; batches of other sizes round otherwise."""
    if isinstance(found, Tensor):
        return torch.allclose(found, wanted, atol=1e-5)
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in found)
    if isinstance(found, tuple):
        return len(found) == len(wanted) and all(same(a, b) for a, b in zip(found, wanted, strict=True))
    return all(same(getattr(found, field.name), getattr(wanted, field.name)) for field in fields(found))


def rows(value: Any, row: int) -> Any:
    if isinstance(value, Tensor):
        return value[row : row + 1]
    if isinstance(value, dict):
        return {key: rows(part, row) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(rows(part, row) for part in value)
    return type(value)(**{field.name: rows(getattr(value, field.name), row) for field in fields(value)})


def test_each_window_is_answered_by_the_teacher_that_has_not_seen_it_with_all_it_has_inside() -> None:
    several, data = out_of_fold().eval(), batch()
    with torch.no_grad():
        found = several(data.inputs, index=data.index, taps=True)
        assert isinstance(found.projections["acc"][0], Projections)
        for row, window in enumerate(data.index.tolist()):
            own = several.teachers[int(PART[window])]
            alone = own({name: (v[row : row + 1], p[row : row + 1]) for name, (v, p) in data.inputs.items()}, taps=True)
            assert same(rows(found, row), alone)


def test_out_of_fold_teachers_teach_outputs_attention_and_relations() -> None:
    several, data = out_of_fold(), batch()
    edam, relation = EdamTerm(weight=ONE), RelationTerm(weight=ONE, heads=2)
    found = terms_of(several, LogitTerm(weight=ONE), edam, relation)
    own = student().eval()(*data.inputs["acc"]).logits
    with torch.no_grad():
        theirs = several.eval()(data.inputs, index=data.index).logits
    torch.testing.assert_close(found["logit"], kl_loss(own, theirs, temperature=2.0))
    assert found["edam"] > 0
    assert found["relation"] > 0
    mixed = terms_of([several, teacher(2)], LogitTerm(weight=ONE), EdamTerm(weight=ONE, member=0))
    torch.testing.assert_close(mixed["edam"], found["edam"])


@pytest.mark.parametrize("term", [CrdTerm(weight=ONE), FeatureTerm(weight=ONE)], ids=["crd", "feature"])
def test_vectors_of_teachers_that_started_apart_are_not_compared(term: Term) -> None:
    wanted = (
        "needs a teacher with one space of vectors, and out-of-fold teachers have one each; "
        "take a teacher that was trained once, or learn from outputs, attention and relations"
    )
    name = "crd" if isinstance(term, CrdTerm) else "feature"
    assert refusal(out_of_fold(), term) == f"recipe: term {name!r} {wanted}"
    assert refusal(out_of_fold(), LogitTerm(weight=ONE), init="teacher") == f"recipe: init 'teacher' {wanted}"
    assert refusal(out_of_fold(GYRO), EdamTerm(weight=ONE)).startswith("recipe: term 'edam' needs a teacher that sees")


def test_a_part_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^out-of-fold teachers: expected parts 0 to 1, got 0 to 2$"):
        OutOfFoldTeachers([teacher(1), teacher(2)], PART)


def test_no_teacher_is_trained_or_kept_in_the_state() -> None:
    several, one = out_of_fold(), teacher(2)
    made = learner([several, one], LogitTerm(weight=ONE)).train()
    made(batch(), 0.0)["loss"].backward()
    for frozen in (several, one):
        assert not frozen.training
        assert all(parameter.grad is None for parameter in frozen.parameters())
    assert {name.split(".")[0] for name in made.state_dict()} == {"network"}
