"""Features: squares of projected against normalised vectors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mmkd_models.losses.features import feature_loss

SAME = nn.Identity()


def vectors(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normalised(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / len(row)
    return [(v - mean) / math.sqrt(variance + 1e-5) for v in row]


def test_it_equals_a_plain_loop() -> None:
    student, teacher = vectors(2, 3, 4, seed=0), vectors(2, 3, 4, seed=1) * 7 + 2
    valid = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    total = 0.0
    for b in range(2):
        window, rows = 0.0, 0
        for i in range(3):
            if valid[b, i]:
                rows += 1
                target = normalised(teacher[b, i].tolist())
                window += sum((s - t) ** 2 for s, t in zip(student[b, i].tolist(), target, strict=True)) / 4
        total += window / rows
    loss = feature_loss(SAME, student, teacher, valid=valid).item()
    assert loss == pytest.approx(total / 2, rel=1e-5)


def test_a_student_that_says_nothing_costs_one() -> None:
    # Normalised rows have mean square 1, up to the 1e-5 that layer normalisation adds to the variance.
    assert feature_loss(SAME, torch.zeros(3, 5, 16), vectors(3, 5, 16, seed=0) * 40).item() == pytest.approx(
        1.0, rel=1e-4
    )


def test_the_projector_learns_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = vectors(2, 3, 4, seed=0).requires_grad_(), vectors(2, 3, 6, seed=1).requires_grad_()
    projector = nn.Linear(4, 6)
    feature_loss(projector, student, teacher).backward()
    assert student.grad is not None
    assert all(parameter.grad is not None for parameter in projector.parameters())
    assert teacher.grad is None
