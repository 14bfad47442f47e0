"""Distillation of outputs: Hinton, Vinyals, Dean, 2015, section 2."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.logits import kl_loss


def plain_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 sum_k p_k log(p_k / q_k), mean over rows, number by number."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(v / temperature) for v in s]
        p = [math.exp(v / temperature) for v in t]
        for q_k, p_k in zip(q, p, strict=True):
            total += (p_k / sum(p)) * math.log((p_k / sum(p)) / (q_k / sum(q)))
    return temperature**2 * total / len(student)


def logits(batch: int, classes: int, seed: int) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_equals_a_plain_loop(classes: int, temperature: float) -> None:
    student, teacher = logits(5, classes, 0), logits(5, classes, 1)
    loss = kl_loss(student, teacher, temperature=temperature).item()
    # The loop is float64, the loss float32 on values of order 10: 1e-6 relative with room for cancellation.
    assert loss == pytest.approx(plain_kl(student, teacher, temperature), rel=1e-5)


def test_a_certain_teacher_and_an_undecided_student_are_log_k_apart() -> None:
    teacher = torch.tensor([[400.0, 0.0, 0.0, 0.0]])
    assert kl_loss(torch.zeros(1, 4), teacher, temperature=2.0).item() == pytest.approx(4 * math.log(4), rel=1e-6)


def test_at_high_temperature_the_gradient_is_the_difference_of_the_logits() -> None:
    # Section 2.1: for T large against zero-mean logits, T^2 times the gradient is (z_i - v_i) / K, here over B rows.
    student = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
    kl_loss(student, teacher, temperature=1000.0).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / (3 * 2), atol=1e-3, rtol=1e-2)


def test_two_classes_give_the_gradient_of_a_sigmoid() -> None:
    # Row correlations give no gradient at K = 2; this loss must. With d = s_1 - s_0 it is
    # T^2 KL of two Bernoullis, so dL/ds_1 = T (sigmoid(d_s / T) - sigmoid(d_t / T)).
    student = torch.tensor([[0.0, 0.4]], requires_grad=True)
    kl_loss(student, torch.tensor([[0.0, 3.0]]), temperature=2.0).backward()
    expected = 2.0 * (1 / (1 + math.exp(-0.2)) - 1 / (1 + math.exp(-1.5)))
    assert student.grad is not None
    assert student.grad[0, 1].item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 0.5


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_it_is_zero_when_both_agree_up_to_a_shift_and_never_below(seed: int, classes: int, shift: float) -> None:
    student, other = logits(3, classes, seed), logits(3, classes, seed + 1)
    # Rounding of logits of order 10 in float32 is 1e-6; the divergence is quadratic in it, its terms are not.
    assert kl_loss(student, student + shift, temperature=2.0).item() == pytest.approx(0.0, abs=1e-5)
    assert kl_loss(student, other, temperature=2.0).item() > -1e-5
