"""Several teachers as one: means of probabilities or logits, by plain loops and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.distillation.mixing import mixed_logits
from mmkd_models.losses.logits import kl_loss


def logits(count: int, classes: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, classes, generator=generator) * 3 for _ in range(count)]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_probabilities_are_the_mean_of_the_members(classes: int, temperature: float) -> None:
    members = logits(3, classes)
    mixed = mixed_logits(members, temperature=temperature, mix="probabilities") / temperature
    for row in range(4):
        for column in range(classes):
            total = 0.0
            for member in members:
                exponentials = [math.exp(float(value) / temperature) for value in member[row]]
                total += exponentials[column] / sum(exponentials)
            # float32 through a logarithm and back
            assert float(torch.softmax(mixed[row], 0)[column]) == pytest.approx(total / 3, abs=1e-6)


def test_the_mean_of_logits_is_the_geometric_mean_of_probabilities() -> None:
    members = logits(2, 4)
    product = torch.softmax(members[0], -1) * torch.softmax(members[1], -1)
    expected = product.sqrt() / product.sqrt().sum(-1, keepdim=True)
    found = torch.softmax(mixed_logits(members, temperature=1.0, mix="logits"), -1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(mixed_logits(members, temperature=3.0, mix="logits"), torch.stack(members).mean(0))


def test_two_sure_teachers_who_disagree_give_a_half_each_and_their_logits_an_even_answer() -> None:
    one, other = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[0.0, 20.0, 0.0]])
    mixed = torch.softmax(mixed_logits([one, other], temperature=1.0, mix="probabilities"), -1)
    # the third class has e^-20, 2e-9, in both
    torch.testing.assert_close(mixed, torch.tensor([[0.5, 0.5, 0.0]]), atol=1e-7, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.sampled_from(["probabilities", "logits"]), st.floats(0.5, 8.0))
def test_teachers_who_agree_change_nothing_and_their_order_neither(count: int, mix: str, temperature: float) -> None:
    one = logits(1, 3)[0]
    how = "logits" if mix == "logits" else "probabilities"
    same = mixed_logits([one] * count, temperature=temperature, mix=how)
    assert float(kl_loss(one, same, temperature=temperature)) == pytest.approx(0, abs=1e-5)
    members = logits(count, 3, seed=1)
    there = torch.softmax(mixed_logits(members, temperature=temperature, mix=how), -1)
    back = torch.softmax(mixed_logits(members[::-1], temperature=temperature, mix=how), -1)
    torch.testing.assert_close(there, back, atol=1e-6, rtol=1e-5)


def test_logits_of_any_size_stay_finite_and_teach_nothing_back() -> None:
    far = torch.tensor([[1e4, -1e4]], requires_grad=True)
    mixed = mixed_logits([far, -far], temperature=0.5, mix="probabilities")
    assert torch.isfinite(mixed).all()
    assert not mixed.requires_grad
    torch.testing.assert_close(torch.softmax(mixed / 0.5, -1), torch.tensor([[0.5, 0.5]]))


def test_a_single_teacher_is_taken_as_it_is() -> None:
    one = logits(1, 3)[0]
    assert mixed_logits([one], temperature=4.0, mix="probabilities") is one
