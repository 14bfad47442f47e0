"""Losses of several labels at once and of numbers: by plain loops, in closed form, and with their properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.losses.logits import multilabel_kl_loss, pearson_loss, regression_loss
from mmkd_models.losses.task import huber_loss, label_loss


def drawn(rows, labels, seed):
    return torch.randn(rows, labels, generator=torch.Generator().manual_seed(seed)) * 2


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_the_divergence_and_labels_are_those_of_k_coins():
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
    logits, targets = drawn(3, 2, 2), torch.tensor([[1.0, 0.0], [0.25, 1.0], [0.0, 0.0]])
    total = 0.0
    for row in range(2):
        for label in range(2):
            p, y = sigmoid(float(logits[row, label])), float(targets[row, label])
            total -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / 4
    found = label_loss(logits, targets, weight=torch.tensor([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(total, rel=1e-5)  # float32
    teacher = torch.full((1, 1), math.log(3.0))  # three to one
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert float(multilabel_kl_loss(torch.zeros(1, 1), teacher, temperature=1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(label_loss(torch.zeros(5, 3), torch.ones(5, 3))) == pytest.approx(math.log(2), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.floats(0.5, 6.0), st.integers(0, 100))
def test_it_is_zero_at_equality_positive_elsewhere_and_labels_do_not_compete(labels, temperature, seed):
    student, teacher = drawn(4, labels, seed), drawn(4, labels, seed + 1)
    assert float(multilabel_kl_loss(teacher, teacher, temperature=temperature)) == pytest.approx(0, abs=1e-6)
    assert float(multilabel_kl_loss(student, teacher, temperature=temperature)) > 0
    # A label more leaves the gradient of the others as it was, but for the mean over labels.
    student.requires_grad_()
    multilabel_kl_loss(student, teacher, temperature=temperature).backward()
    alone = student.detach()[:, :1].clone().requires_grad_()
    multilabel_kl_loss(alone, teacher[:, :1], temperature=temperature).backward()
    assert alone.grad is not None
    torch.testing.assert_close(student.grad[:, :1] * labels, alone.grad, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_cross_entropy_against_the_teachers_probabilities():
    one, other = (drawn(3, 4, 3).requires_grad_() for _ in range(2))
    teacher = drawn(3, 4, 4).requires_grad_()
    multilabel_kl_loss(one, teacher, temperature=1.0).backward()
    label_loss(other, teacher.detach().sigmoid()).backward()
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=1e-4)
    assert teacher.grad is None


def drawn_regression(rows, seed):
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed))


def test_huber_is_square_near_straight_far_and_weighted():
    found = [
        float(huber_loss(torch.tensor([d]), torch.tensor([0.0]), delta=2.0)) for d in (0.0, 1.0, -1.0, 2.0, 5.0, -5.0)
    ]
    assert found == [0.0, 0.5, 0.5, 2.0, 8.0, 8.0]
    values, targets, weights = drawn_regression(6, 0) * 3, drawn_regression(6, 1), [1.0, 0.5, 0.0, 1.0, 1.0, 0.25]
    total = 0.0
    for value, target, weight in zip(values.tolist(), targets.tolist(), weights, strict=True):
        distance = abs(value - target)
        total += weight * (distance**2 / 2 if distance <= 1 else distance - 0.5)
    found = huber_loss(values, targets, delta=1.0, weight=torch.tensor(weights))
    assert float(found) == pytest.approx(total / sum(weights), rel=1e-5)  # float32
    values = torch.tensor([0.0, 0.0], requires_grad=True)
    huber_loss(values, torch.tensor([0.5, 1e6]), delta=1.0).backward()
    assert values.grad.tolist() == [-0.25, -0.5]


def test_pearson_is_numpys_correlation_and_one_window_has_none():
    values, teacher = drawn_regression(9, 2), drawn_regression(9, 3)
    expected = 1 - np.corrcoef(values.double().numpy(), teacher.double().numpy())[0, 1]
    assert float(pearson_loss(values, teacher)) == pytest.approx(expected, abs=1e-5)  # float32
    value = torch.ones(1, requires_grad=True)
    loss = pearson_loss(value, torch.zeros(1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert value.grad.tolist() == [0.0]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_count_may_be_nan(rows):
    values = torch.ones(rows, requires_grad=True)
    targets = torch.full((rows,), math.nan)
    targets[0] = 3.0
    weight = torch.zeros(rows)
    weight[0] = 1.0
    loss = huber_loss(values, targets, delta=1.0, weight=weight)
    loss.backward()
    assert float(loss.detach()) == 1.5
    assert values.grad.tolist() == [-1.0] + [0.0] * (rows - 1)


def test_a_student_learns_both_from_a_teacher_and_nothing_flows_back():
    values, teacher = drawn_regression(6, 5).requires_grad_(), drawn_regression(6, 6).requires_grad_()
    loss = regression_loss(values, teacher)
    expected = huber_loss(values, teacher, delta=1.0) + pearson_loss(values, teacher)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert teacher.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = regression_loss(values.bfloat16(), teacher)
    assert half.dtype == torch.float32
