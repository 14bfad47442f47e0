"""Cross-entropy against a label distribution."""

from __future__ import annotations

import math

import pytest
import torch
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
