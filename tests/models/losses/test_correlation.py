"""DIST: Huang et al., NeurIPS 2022: correlations of probabilities over classes and over windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.correlation import dist_loss

T = 2.0


def logits(batch: int, classes: int, seed: int) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed)) * 3


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(v / T) for v in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("classes", [3, 7])
def test_it_equals_numpys_correlations_one_by_one(classes: int) -> None:
    student, teacher = logits(5, classes, 0), logits(5, classes, 1)
    ours, theirs = (np.array([softmax(row) for row in part.tolist()]) for part in (student, teacher))
    rows = [1 - np.corrcoef(ours[b], theirs[b])[0, 1] for b in range(5)]
    columns = [1 - np.corrcoef(ours[:, k], theirs[:, k])[0, 1] for k in range(classes)]
    expected = T**2 * (0.5 * float(np.mean(rows)) + 2.0 * float(np.mean(columns)))
    loss = dist_loss(student, teacher, temperature=T, beta=0.5, gamma=2.0).item()
    # 1e-8 beside variances of order 0.01, and float32 against float64.
    assert loss == pytest.approx(expected, rel=1e-4)


def test_with_two_classes_only_columns_teach() -> None:
    student, teacher = logits(6, 2, 0).requires_grad_(), logits(6, 2, 1)
    assert dist_loss(student, teacher, temperature=T, beta=9.0, gamma=0.0).item() == 0.0
    both = dist_loss(student, teacher, temperature=T, beta=9.0, gamma=1.0)
    assert both.item() == dist_loss(student, teacher, temperature=T, beta=0.0, gamma=1.0).item()
    both.backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_one_window_has_no_columns(classes: int) -> None:
    student, teacher = logits(1, classes, 0).requires_grad_(), logits(1, classes, 1)
    loss = dist_loss(student, teacher, temperature=T, beta=1.0, gamma=1.0)
    loss.backward()
    assert loss.item() == dist_loss(student, teacher, temperature=T, beta=1.0, gamma=0.0).item()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]))
@settings(max_examples=25, deadline=None)
def test_it_lies_between_zero_at_equality_and_the_sum_of_both_weights_twice(seed: int, classes: int) -> None:
    student, teacher = logits(4, classes, seed), logits(4, classes, seed + 1)
    same = dist_loss(student, student, temperature=1.0, beta=1.0, gamma=1.0).item()
    assert same == pytest.approx(0.0, abs=5e-2)  # 1e-8 beside the variance of a class that is hardly ever named
    assert -1e-6 < dist_loss(student, teacher, temperature=1.0, beta=1.0, gamma=1.0).item() < 4 + 1e-5


def test_a_class_that_nobody_names_leaves_the_gradient_finite() -> None:
    student = torch.tensor([[3.0, 0.0, -1e4], [0.0, 2.0, -1e4]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1e4], [0.0, 1.0, -1e4]], requires_grad=True)
    dist_loss(student, teacher, temperature=1.0, beta=1.0, gamma=1.0).backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert teacher.grad is None
