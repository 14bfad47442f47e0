"""Cross-entropy against a label distribution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.task import soft_cross_entropy


def rows(batch: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, classes, generator=generator), torch.rand(batch, classes, generator=generator).softmax(1)


def test_it_equals_a_plain_loop() -> None:
    logits, targets = rows(4, 3, 0)
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        for value, share in zip(row, target, strict=True):
            total -= share * math.log(math.exp(value) / sum(math.exp(v) for v in row))
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(total / 4, rel=1e-5)  # float32 against float64


def test_undecided_logits_cost_log_k() -> None:
    assert soft_cross_entropy(torch.zeros(2, 8), torch.eye(8)[:2]).item() == pytest.approx(math.log(8), rel=1e-6)


def test_one_hot_targets_cost_the_negative_log_probability() -> None:
    loss = soft_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)


@given(st.integers(0, 100), st.floats(-20, 20))
@settings(max_examples=20, deadline=None)
def test_a_shift_of_all_logits_changes_nothing(seed: int, shift: float) -> None:
    logits, targets = rows(3, 4, seed)
    # A shift by 20 costs five bits of float32.
    expected = soft_cross_entropy(logits, targets).item()
    assert soft_cross_entropy(logits + shift, targets).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_gradient_is_probability_minus_target(classes: int) -> None:
    logits, targets = rows(1, classes, 3)
    logits.requires_grad_()
    soft_cross_entropy(logits, targets).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - targets, atol=1e-6, rtol=1e-5)


def test_unlabelled_rows_do_not_count() -> None:
    logits, targets = rows(3, 4, 0)
    targets = targets * torch.tensor([[1.0], [0.0], [1.0]])
    labelled = torch.tensor([1.0, 0.0, 1.0])
    expected = soft_cross_entropy(logits[[0, 2]], targets[[0, 2]]).item()
    assert soft_cross_entropy(logits, targets, weight=labelled).item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_without_labels_costs_nothing_and_teaches_nothing() -> None:
    logits = rows(3, 4, 0)[0].requires_grad_()
    loss = soft_cross_entropy(logits, torch.zeros(3, 4), weight=torch.zeros(3))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not bool(logits.grad.any())


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits, targets = rows(3, 4, 0)
    expected = soft_cross_entropy(logits.bfloat16().float(), targets).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert soft_cross_entropy(logits.bfloat16(), targets).item() == expected
