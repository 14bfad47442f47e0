"""Several teachers as one: means of probabilities, by plain loops and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.distillation.learner import mix_logits
from mmkd_models.losses.logits import kl_loss
from mmkd_models.losses.term import CLASSES, Goal


def logits(count: int, classes: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, classes, generator=generator) * 3 for _ in range(count)]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_probabilities_are_the_mean_of_the_members(classes: int, temperature: float) -> None:
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


def test_two_sure_teachers_who_disagree_give_a_half_each() -> None:
    one, other = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[0.0, 20.0, 0.0]])
    mixed = torch.softmax(mix_logits(CLASSES, [one, other], temperature=1.0), -1)
    # the third class has e^-20, 2e-9, in both
    torch.testing.assert_close(mixed, torch.tensor([[0.5, 0.5, 0.0]]), atol=1e-7, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.floats(0.5, 8.0))
def test_teachers_who_agree_change_nothing_and_their_order_neither(count: int, temperature: float) -> None:
    one = logits(1, 3)[0]
    same = mix_logits(CLASSES, [one] * count, temperature=temperature)
    assert float(kl_loss(one, same, temperature=temperature)) == pytest.approx(0, abs=1e-5)
    members = logits(count, 3, seed=1)
    there = torch.softmax(mix_logits(CLASSES, members, temperature=temperature), -1)
    back = torch.softmax(mix_logits(CLASSES, members[::-1], temperature=temperature), -1)
    torch.testing.assert_close(there, back, atol=1e-6, rtol=1e-5)


def test_logits_of_any_size_stay_finite_and_teach_nothing_back() -> None:
    far = torch.tensor([[1e4, -1e4]], requires_grad=True)
    mixed = mix_logits(CLASSES, [far, -far], temperature=0.5)
    assert torch.isfinite(mixed).all()
    assert not mixed.requires_grad
    torch.testing.assert_close(torch.softmax(mixed / 0.5, -1), torch.tensor([[0.5, 0.5]]))


def test_a_single_teacher_is_taken_as_it_is() -> None:
    one = logits(1, 3)[0]
    assert mix_logits(CLASSES, [one], temperature=4.0) is one


def test_several_labels_are_averaged_one_by_one_and_numbers_as_they_are() -> None:
    members, temperature = logits(2, 3), 2.0
    mean = torch.stack([torch.sigmoid(member / temperature) for member in members]).mean(0)
    mixed = mix_logits(Goal(kind="multi_label"), members, temperature=temperature)
    torch.testing.assert_close(torch.sigmoid(mixed / temperature), mean, atol=1e-6, rtol=1e-5)
    numbers = mix_logits(Goal(kind="regression"), members, temperature=1.0)
    assert torch.equal(numbers, torch.stack(members).mean(0))
