"""Several labels at once: by plain loops, in closed form, and with the properties of K questions of their own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.losses.logits import multilabel_kl_loss
from mmkd_models.losses.task import label_loss


def drawn(rows: int, labels: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, labels, generator=torch.Generator().manual_seed(seed)) * 2


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_divergence_is_that_of_k_coins() -> None:
    student, teacher, temperature = drawn(3, 4, 0), drawn(3, 4, 1), 2.5
    total = 0.0
    for row in range(3):
        of_row = 0.0
        for label in range(4):
            p, q = (sigmoid(float(side[row, label]) / temperature) for side in (teacher, student))
            of_row += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        total += of_row / 4
    found = multilabel_kl_loss(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(total / 3 * temperature**2, rel=1e-5)  # float32


def test_labels_cost_the_surprise_of_each() -> None:
    logits, targets = drawn(3, 2, 2), torch.tensor([[1.0, 0.0], [0.25, 1.0], [0.0, 0.0]])
    total = 0.0
    for row in range(2):
        for label in range(2):
            p, y = sigmoid(float(logits[row, label])), float(targets[row, label])
            total -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / 4
    found = label_loss(logits, targets, weight=torch.tensor([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(total, rel=1e-5)  # float32


def test_a_student_that_knows_nothing_pays_what_the_teacher_knows() -> None:
    teacher = torch.full((1, 1), math.log(3.0))  # three to one
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert float(multilabel_kl_loss(torch.zeros(1, 1), teacher, temperature=1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(label_loss(torch.zeros(5, 3), torch.ones(5, 3))) == pytest.approx(math.log(2), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.floats(0.5, 6.0), st.integers(0, 100))
def test_it_is_zero_at_equality_positive_elsewhere_and_labels_do_not_compete(
    labels: int, temperature: float, seed: int
) -> None:
    student, teacher = drawn(4, labels, seed), drawn(4, labels, seed + 1)
    assert float(multilabel_kl_loss(teacher, teacher, temperature=temperature)) == pytest.approx(0, abs=1e-6)
    assert float(multilabel_kl_loss(student, teacher, temperature=temperature)) > 0
    # A label more leaves the gradient of the others as it was, but for the mean over labels.
    student.requires_grad_()
    multilabel_kl_loss(student, teacher, temperature=temperature).backward()
    assert student.grad is not None
    alone = student.detach()[:, :1].clone().requires_grad_()
    multilabel_kl_loss(alone, teacher[:, :1], temperature=temperature).backward()
    assert alone.grad is not None
    torch.testing.assert_close(student.grad[:, :1] * labels, alone.grad, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_cross_entropy_against_the_teachers_probabilities() -> None:
    one, other = (drawn(3, 4, 3).requires_grad_() for _ in range(2))
    teacher = drawn(3, 4, 4).requires_grad_()
    multilabel_kl_loss(one, teacher, temperature=1.0).backward()
    label_loss(other, teacher.detach().sigmoid()).backward()
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=1e-4)
    assert teacher.grad is None
