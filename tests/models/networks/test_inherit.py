"""A student that starts with what its teacher's own encoder knows."""

from __future__ import annotations

import logging

import msgspec
import pytest
import torch
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.inherit import take_encoder
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher

ENCODER = EncoderConfig(width=8, heads=2, depth=2, most_tokens=8)
SPECS = [
    ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40),
    ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=15),
]


def student(**changed: int) -> Student:
    torch.manual_seed(0)
    encoder = msgspec.structs.replace(ENCODER, **changed)
    return Student(SPECS[0], 3, StudentConfig(preset="test", encoder=encoder))


def teacher() -> Teacher:
    torch.manual_seed(1)
    return Teacher(SPECS, 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1))


def test_a_student_of_the_same_size_gives_the_tokens_of_its_teachers_encoder() -> None:
    own, other = student().eval(), teacher().eval()
    assert take_encoder(own, other, "acc") == ("head.weight", "head.bias")
    values = torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(0))
    window = values, torch.ones(3, 40, 2)
    torch.testing.assert_close(own.encoder(*window).values, other.encoders["acc"](*window).values)
    assert own.encoder.position.data_ptr() != other.encoders["acc"].position.data_ptr()


@pytest.mark.parametrize("depth", [1, 3])
def test_another_depth_takes_the_blocks_that_there_are(depth: int, caplog: pytest.LogCaptureFixture) -> None:
    own, other = student(depth=depth), teacher()
    before = student(depth=depth).state_dict()
    with caplog.at_level(logging.INFO, logger="mmkd_models.networks.inherit"):
        fresh = take_encoder(own, other, "acc")
    theirs = other.encoders["acc"].state_dict()
    for name, value in own.state_dict().items():
        if name in fresh:
            assert torch.equal(value, before[name])
        elif name.startswith("encoder."):
            assert torch.equal(value, theirs[name.removeprefix("encoder.")])
    assert any(name.startswith("encoder.blocks.2.") for name in fresh) == (depth == 3)
    assert caplog.messages == [
        f"student: {len(own.state_dict()) - len(fresh)} tensors taken from the teacher, fresh: {', '.join(fresh)}"
    ]


def test_another_width_is_refused_and_leaves_the_student_as_it_was() -> None:
    own = student(width=12)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        take_encoder(own, teacher(), "acc")
    assert str(caught.value) == (
        "recipe: init 'teacher': encoder.position of the student is (7, 12), and that of the teacher's acc encoder "
        "(7, 8); give the student the sizes of that encoder (mmkd-distill --preset teacher), or set init to 'fresh'"
    )
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_network_of_ones_own_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        take_encoder(nn.Linear(2, 2), teacher(), "acc")
    assert str(caught.value) == (
        "recipe: init 'teacher' copies between the networks of mmkd-edge, and this student or teacher is another; "
        "load its weights yourself and set init to 'fresh'"
    )


@pytest.mark.parametrize("init", ["fresh", "teacher"])
def test_a_recipe_says_how_the_student_starts(init: str) -> None:
    own, other = student(), teacher()
    DistillLearner(own, other, Recipe(terms=(LogitTerm(weight=constant(1.0)),), init=init), modality="acc")
    same = torch.equal(own.encoder.position, other.encoders["acc"].position)
    assert same == (init == "teacher")
