"""Features: squares of projected against normalised vectors, whole or their low frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.features import Projector, feature_loss, low_pass_matrix


def vectors(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normalised(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / len(row)
    return [(v - mean) / math.sqrt(variance + 1e-5) for v in row]


def test_it_equals_a_plain_loop() -> None:
    student, teacher = vectors(2, 3, 4, seed=0), vectors(2, 3, 4, seed=1) * 7 + 2
    valid, weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), torch.tensor([0.25, 1.0])
    total = 0.0
    for b in range(2):
        window, rows = 0.0, 0
        for i in range(3):
            if valid[b, i]:
                rows += 1
                target = normalised(teacher[b, i].tolist())
                window += sum((s - t) ** 2 for s, t in zip(student[b, i].tolist(), target, strict=True)) / 4
        total += float(weight[b]) * window / rows
    loss = feature_loss(student, teacher, valid=valid, weight=weight).item()
    assert loss == pytest.approx(total / 1.25, rel=1e-5)


def test_low_frequencies_equal_numpys_transform() -> None:
    student, teacher, length = vectors(1, 9, 4, seed=0), vectors(1, 9, 4, seed=1), 9
    target = np.array([normalised(row) for row in teacher[0].tolist()])
    spectrum = np.fft.rfft(student[0].double().numpy() - target, axis=0)
    spectrum[2:] = 0  # ceil(0.3 * 5) = 2 frequencies are kept
    expected = float((np.fft.irfft(spectrum, n=length, axis=0) ** 2).mean())
    loss = feature_loss(student, teacher, low_pass=low_pass_matrix(length, 0.3)).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_student_that_says_nothing_costs_one() -> None:
    # Normalised rows have mean square 1, up to the 1e-5 that layer normalisation adds to the variance.
    assert feature_loss(torch.zeros(3, 5, 16), vectors(3, 5, 16, seed=0) * 40).item() == pytest.approx(1.0, rel=1e-4)


def test_a_difference_that_only_oscillates_is_no_low_frequency() -> None:
    teacher = vectors(1, 8, 4, seed=0)
    target = torch.nn.functional.layer_norm(teacher, (4,))
    swing = torch.tensor([1.0, -1.0] * 4)[None, :, None]
    low = low_pass_matrix(8, 0.5)
    assert feature_loss(target + swing, teacher, low_pass=low).item() == pytest.approx(0.0, abs=1e-10)
    assert feature_loss(target + 1, teacher, low_pass=low).item() == pytest.approx(1.0, rel=1e-5)


@given(st.integers(1, 12), st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_low_pass_is_a_projection_that_keeps_the_mean(length: int, keep: float) -> None:
    matrix = low_pass_matrix(length, keep)
    torch.testing.assert_close(matrix @ matrix, matrix, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix, matrix.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix.sum(1), torch.ones(length), atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_all_frequencies_are_the_whole(length: int) -> None:
    torch.testing.assert_close(low_pass_matrix(length, 1.0), torch.eye(length), atol=1e-6, rtol=0)


@given(st.integers(0, 100), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_more_frequencies_never_cost_less(seed: int, one: float, other: float) -> None:
    student, teacher = vectors(2, 10, 4, seed=seed), vectors(2, 10, 4, seed=seed + 1)
    less, more = (
        feature_loss(student, teacher, low_pass=low_pass_matrix(10, keep)).item() for keep in sorted((one, other))
    )
    assert 0 <= less <= more + 1e-6


def test_tokens_without_samples_never_matter() -> None:
    student, teacher = vectors(2, 4, 8, seed=0), vectors(2, 4, 8, seed=1)
    valid = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    garbage = student + (1 - valid)[..., None] * 100
    expected = feature_loss(student[:1, [0, 1, 3]], teacher[:1, [0, 1, 3]]).item()
    for own in (student, garbage):
        assert feature_loss(own, teacher, valid=valid).item() == pytest.approx(expected, rel=1e-5)
    low = low_pass_matrix(4, 0.5)
    with_low, with_garbage = (
        feature_loss(own, teacher, valid=valid, low_pass=low).item() for own in (student, garbage)
    )
    assert with_low == with_garbage


def test_nothing_valid_gives_zero_and_no_nan() -> None:
    student = vectors(1, 3, 4, seed=0).requires_grad_()
    loss = feature_loss(student, vectors(1, 3, 4, seed=1), valid=torch.zeros(1, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert not bool(student.grad.any())


def test_the_projector_learns_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = vectors(2, 3, 4, seed=0).requires_grad_(), vectors(2, 3, 6, seed=1).requires_grad_()
    projector = Projector(4, 6)
    feature_loss(projector(student), teacher).backward()
    assert student.grad is not None
    assert all(parameter.grad is not None for parameter in projector.parameters())
    assert teacher.grad is None


def test_it_is_computed_in_float32_under_autocast() -> None:
    student, teacher, low = (
        vectors(2, 4, 4, seed=0).bfloat16(),
        vectors(2, 4, 6, seed=1).bfloat16(),
        low_pass_matrix(4, 0.5),
    )
    torch.manual_seed(0)
    projector = Projector(4, 6)
    expected = feature_loss(projector(student.float()), teacher.float(), low_pass=low)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = feature_loss(projector(student), teacher, low_pass=low)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
