"""Several teachers as one: means of probabilities, by plain loops and in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mmkd_models.distillation.learner import mix_logits
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


def test_several_labels_are_averaged_one_by_one_and_numbers_as_they_are() -> None:
    members, temperature = logits(2, 3), 2.0
    mean = torch.stack([torch.sigmoid(member / temperature) for member in members]).mean(0)
    mixed = mix_logits(Goal(kind="multi_label"), members, temperature=temperature)
    torch.testing.assert_close(torch.sigmoid(mixed / temperature), mean, atol=1e-6, rtol=1e-5)
    numbers = mix_logits(Goal(kind="regression"), members, temperature=1.0)
    assert torch.equal(numbers, torch.stack(members).mean(0))
