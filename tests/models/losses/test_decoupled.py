"""DKD: Zhao et al., CVPR 2022: KL = TCKD + (1 - p_target) NCKD, DKD = alpha TCKD + beta NCKD."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.decoupled import dkd_loss
from mmkd_models.losses.logits import kl_loss

T = 2.0


def logits(batch: int, classes: int, seed: int) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed)) * 3


def plain_parts(student: Tensor, teacher: Tensor, target: Tensor) -> list[tuple[float, float, float]]:
    """TCKD, NCKD and the teacher's p_target of each row, number by number."""
    parts = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        q, p = ([math.exp(v / T) for v in row] for row in (s, t))
        q, p = [v / sum(q) for v in q], [v / sum(p) for v in p]
        tckd = p[label] * math.log(p[label] / q[label])
        tckd += (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
        nckd = 0.0
        for k in range(len(p)):
            if k != label:
                p_k, q_k = p[k] / (1 - p[label]), q[k] / (1 - q[label])
                nckd += p_k * math.log(p_k / q_k)
        parts.append((tckd, nckd, p[label]))
    return parts


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_equals_a_plain_loop(classes: int) -> None:
    student, teacher, target = logits(5, classes, 0), logits(5, classes, 1), torch.arange(5) % classes
    loss = dkd_loss(student, teacher, target, temperature=T, alpha=0.7, beta=3.0).item()
    rows = [0.7 * tckd + 3.0 * nckd for tckd, nckd, _ in plain_parts(student, teacher, target)]
    # The loop is float64, the loss float32 on values of order 10.
    assert loss == pytest.approx(T**2 * sum(rows) / 5, rel=1e-5)


def test_both_parts_with_the_teachers_doubt_make_the_whole_divergence() -> None:
    # The decomposition of the paper, one row: KL = TCKD + (1 - p_target) NCKD.
    student, teacher, target = logits(1, 6, 0), logits(1, 6, 1), torch.tensor([2])
    doubt = 1 - torch.softmax(teacher / T, dim=-1)[0, 2].item()
    split = dkd_loss(student, teacher, target, temperature=T, alpha=1.0, beta=doubt).item()
    assert split == pytest.approx(kl_loss(student, teacher, temperature=T).item(), rel=1e-5)


def test_an_even_student_and_a_teacher_sure_among_the_others_have_a_closed_form() -> None:
    # Both put 1/4 on the target; of the others the teacher names one, the student all three: NCKD = log 3.
    teacher = torch.tensor([[0.0, T * math.log(3), -400.0, -400.0]])
    loss = dkd_loss(torch.zeros(1, 4), teacher, torch.tensor([0]), temperature=T, alpha=5.0, beta=2.0)
    assert loss.item() == pytest.approx(T**2 * 2.0 * math.log(3), rel=1e-5)


def test_with_two_classes_the_target_is_all_there_is() -> None:
    student, teacher, target = logits(4, 2, 0).requires_grad_(), logits(4, 2, 1), torch.tensor([0, 1, 0, 1])
    loss = dkd_loss(student, teacher, target, temperature=T, alpha=1.0, beta=100.0)
    loss.backward()
    assert loss.item() == pytest.approx(kl_loss(student, teacher, temperature=T).item(), rel=1e-5)
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-2


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_it_is_zero_when_both_agree_up_to_a_shift_and_never_below(seed: int, classes: int, shift: float) -> None:
    student, other, target = logits(3, classes, seed), logits(3, classes, seed + 1), torch.zeros(3, dtype=torch.int64)
    options = {"temperature": T, "alpha": 1.0, "beta": 8.0}
    # Rounding of logits of order 10 in float32 is 1e-6, times beta and T^2.
    assert dkd_loss(student, student + shift, target, **options).item() == pytest.approx(0.0, abs=1e-4)
    assert dkd_loss(student, other, target, **options).item() > -1e-4


def test_far_apart_logits_stay_finite_and_the_teacher_gets_no_gradient() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=1.0, beta=1.0).backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert teacher.grad is None
