"""Numbers: Huber and Pearson by plain loops, in closed form, and with their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmkd_models.losses.logits import pearson_loss, regression_loss
from mmkd_models.losses.task import huber_loss


def drawn(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed))


def test_huber_is_square_near_and_straight_far() -> None:
    found = [
        float(huber_loss(torch.tensor([d]), torch.tensor([0.0]), delta=2.0)) for d in (0.0, 1.0, -1.0, 2.0, 5.0, -5.0)
    ]
    assert found == [0.0, 0.5, 0.5, 2.0, 8.0, 8.0]


def test_huber_is_the_weighted_mean_of_its_rows() -> None:
    values, targets, weights = drawn(6, 0) * 3, drawn(6, 1), [1.0, 0.5, 0.0, 1.0, 1.0, 0.25]
    total = 0.0
    for value, target, weight in zip(values.tolist(), targets.tolist(), weights, strict=True):
        distance = abs(value - target)
        total += weight * (distance**2 / 2 if distance <= 1 else distance - 0.5)
    found = huber_loss(values, targets, delta=1.0, weight=torch.tensor(weights))
    assert float(found) == pytest.approx(total / sum(weights), rel=1e-5)  # float32


def test_pearson_is_numpys_correlation() -> None:
    values, teacher = drawn(9, 2), drawn(9, 3)
    expected = 1 - np.corrcoef(values.double().numpy(), teacher.double().numpy())[0, 1]
    assert float(pearson_loss(values, teacher)) == pytest.approx(expected, abs=1e-5)  # float32


def test_an_outlier_pulls_with_a_bounded_force() -> None:
    values = torch.tensor([0.0, 0.0], requires_grad=True)
    huber_loss(values, torch.tensor([0.5, 1e6]), delta=1.0).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [-0.25, -0.5]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_count_may_be_nan(rows: int) -> None:
    values = torch.ones(rows, requires_grad=True)
    targets = torch.full((rows,), math.nan)
    targets[0] = 3.0
    weight = torch.zeros(rows)
    weight[0] = 1.0
    loss = huber_loss(values, targets, delta=1.0, weight=weight)
    loss.backward()
    assert float(loss.detach()) == 1.5
    assert values.grad is not None
    assert values.grad.tolist() == [-1.0] + [0.0] * (rows - 1)


def test_a_student_learns_both_from_a_teacher_and_nothing_flows_back() -> None:
    values, teacher = drawn(6, 5).requires_grad_(), drawn(6, 6).requires_grad_()
    loss = regression_loss(values, teacher)
    expected = huber_loss(values, teacher, delta=1.0) + pearson_loss(values, teacher)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert teacher.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = regression_loss(values.bfloat16(), teacher)
    assert half.dtype == torch.float32


def test_one_window_has_no_correlation() -> None:
    value = torch.ones(1, requires_grad=True)
    loss = pearson_loss(value, torch.zeros(1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert value.grad is not None
    assert value.grad.tolist() == [0.0]
