"""CRD with a memory bank: Tian et al., ICLR 2020, in the form of the authors' code."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.contrast import ContrastBank, bank_loss

TAU = 0.5


def bank(*, windows: int = 9, negatives: int = 4, momentum: float = 0.5) -> ContrastBank:
    torch.manual_seed(0)
    return ContrastBank(5, 6, width=4, windows=windows, negatives=negatives, momentum=momentum)


def embeddings(seed: int, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 5, generator=generator), torch.randn(batch, 6, generator=generator)


def projected(module: ContrastBank, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(module.student(student), dim=-1), F.normalize(module.teacher(teacher), dim=-1)


def plain_loss(scores: list[list[float]], mean: float) -> float:
    """-log h(positive) - sum log(1 - h(negative)), h = e / (e + K), e = exp(score) / mean; mean over anchors."""
    total = 0.0
    for row in scores:
        count = len(row) - 1
        h = [math.exp(s) / mean / (math.exp(s) / mean + count) for s in row]
        total -= math.log(h[0]) + sum(math.log(1 - value) for value in h[1:])
    return total / len(scores)


def test_it_equals_a_plain_loop_over_both_banks() -> None:
    module, index = bank(), torch.tensor([2, 7, 5])
    student, teacher = embeddings(0)
    ours, theirs = projected(module, student, teacher)
    old = module.bank_student.clone(), module.bank_teacher.clone()
    torch.manual_seed(3)
    steps = torch.randint(1, 9, (3, 4))
    rows = [[i, *((i + step) % 9 for step in line)] for i, line in zip(index.tolist(), steps.tolist(), strict=True)]
    expected = 0.0
    for anchors, remembered in ((ours, old[1]), (theirs, old[0])):
        scores = [
            [sum(a * c for a, c in zip(anchor, remembered[row].tolist(), strict=True)) / TAU for row in line]
            for anchor, line in zip(anchors.tolist(), rows, strict=True)
        ]
        flat = [math.exp(s) for line in scores for s in line]
        expected += plain_loss(scores, sum(flat) / len(flat))
    torch.manual_seed(3)
    assert module(student, teacher, index, temperature=TAU).item() == pytest.approx(expected, rel=1e-5)


def test_scores_that_are_all_the_same_have_a_closed_form() -> None:
    # Nothing tells the positive from K = 3 negatives: h = 1 / (1 + K) for all.
    loss = bank_loss(torch.full((2, 4), 1.5), log_mean=torch.tensor(1.5))
    torch.testing.assert_close(loss, torch.full((2,), math.log(4) + 3 * math.log(4 / 3)))


@given(st.integers(0, 100), st.integers(1, 6), st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_a_shift_of_all_scores_is_taken_out_by_their_mean_and_order_does_not_matter(
    seed: int, negatives: int, shift: float
) -> None:
    scores = torch.randn(3, 1 + negatives, generator=torch.Generator().manual_seed(seed))
    mean = scores.flatten().logsumexp(0) - math.log(scores.numel())
    loss = bank_loss(scores, log_mean=mean)
    torch.testing.assert_close(bank_loss(scores + shift, log_mean=mean + shift), loss, atol=1e-5, rtol=1e-5)
    mixed = torch.cat([scores[:, :1], scores[:, 1:].flip(1)], dim=1)
    torch.testing.assert_close(bank_loss(mixed, log_mean=mean), loss)
    assert bool((loss > 0).all())


def test_a_window_is_never_its_own_negative() -> None:
    drawn = bank(windows=3, negatives=200)._others(torch.tensor([0, 1, 2]))
    assert [sorted(set(row)) for row in drawn.tolist()] == [[1, 2], [0, 2], [0, 1]]


def test_the_rows_of_the_batch_move_with_momentum_and_the_others_stay() -> None:
    module, index = bank(momentum=0.25), torch.tensor([2, 7, 5])
    student, teacher = embeddings(0)
    before = module.bank_student.clone(), module.bank_teacher.clone()
    fresh = projected(module, student, teacher)
    module(student, teacher, index, temperature=TAU)
    for now, was, new in zip((module.bank_student, module.bank_teacher), before, fresh, strict=True):
        torch.testing.assert_close(now[index], F.normalize(0.25 * was[index] + 0.75 * new, dim=-1))
        others = [row for row in range(9) if row not in index.tolist()]
        assert torch.equal(now[others], was[others])
        assert not now.requires_grad


def test_a_window_that_stands_twice_in_a_batch_is_remembered_as_its_mean() -> None:
    module = bank(momentum=0.0)
    student, teacher = embeddings(0)
    ours, _ = projected(module, student, teacher)
    module(student, teacher, torch.tensor([4, 4, 1]), temperature=TAU)
    torch.testing.assert_close(module.bank_student[4], F.normalize(ours[0] + ours[1], dim=-1))


def test_the_means_are_taken_in_the_first_step_only() -> None:
    module, index = bank(), torch.arange(3)
    module(*embeddings(0), index, temperature=TAU)
    first = module.log_means.clone()
    module(*embeddings(1), index, temperature=TAU)
    assert torch.equal(module.log_means, first)
    assert bool((first != 0).all())


def test_a_sharp_temperature_stays_finite() -> None:
    module = bank()
    student, teacher = (tensor.requires_grad_() for tensor in embeddings(0))
    loss = module(student, teacher, torch.arange(3), temperature=0.002)  # exp(1 / 0.002) is no float32
    loss.backward()
    assert bool(loss.isfinite())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert teacher.grad is None


@pytest.mark.parametrize("index", [[3], [0, 0]])
def test_one_window_is_enough(index: list[int]) -> None:
    module = bank()
    loss = module(*embeddings(0, batch=len(index)), torch.tensor(index), temperature=TAU)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_weights_choose_the_anchors() -> None:
    student, teacher, index = *embeddings(0), torch.arange(3)
    losses = []
    for weight in (*torch.eye(3), None, torch.zeros(3)):
        module = bank()
        torch.manual_seed(1)
        losses.append(module(student, teacher, index, temperature=TAU, weight=weight).item())
    assert sum(losses[:3]) / 3 == pytest.approx(losses[3], rel=1e-5)
    assert losses[4] == 0.0


def test_a_student_trained_with_the_bank_finds_its_teachers_vectors() -> None:
    module, index = bank(windows=8, negatives=16), torch.arange(8)
    student, teacher = embeddings(0, batch=8)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for step in range(60):
        torch.manual_seed(step)
        loss = module(student, teacher, index, temperature=TAU)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_reloaded_bank_goes_on_where_it_was() -> None:
    module, copy = bank(), bank()
    module(*embeddings(0), torch.arange(3), temperature=TAU)
    copy.load_state_dict({name: cast("Tensor", value).clone() for name, value in module.state_dict().items()})
    again = []
    for one in (module, copy):
        torch.manual_seed(2)
        again.append(one(*embeddings(1), torch.arange(3), temperature=TAU).item())
    assert again[0] == again[1]
    assert torch.equal(module.bank_student, copy.bank_student)


def test_it_works_in_float32_under_autocast() -> None:
    losses = []
    for enabled in (False, True):
        module = bank()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(module(*embeddings(0), torch.arange(3), temperature=0.07).item())
        assert module.bank_student.dtype == torch.float32
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("windows", "negatives"), [(1, 4), (5, 0)])
def test_a_bank_without_negatives_is_refused(windows: int, negatives: int) -> None:
    with pytest.raises(ValueError) as caught:
        bank(windows=windows, negatives=negatives)
    assert str(caught.value) == (
        f"memory bank: expected windows >= 2 and negatives >= 1, got {windows} and {negatives}; correct them"
    )
