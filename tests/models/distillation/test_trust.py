"""Trust in a teacher, window by window."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.distillation.trust import trust_in_teacher

LOGITS = torch.tensor([[math.log(7.0), math.log(2.0), 0.0]] * 3)  # probabilities 0.7, 0.2, 0.1


def test_a_labelled_window_counts_by_the_probability_of_its_class() -> None:
    trust = trust_in_teacher(LOGITS, torch.eye(3), torch.ones(3), by_confidence=False)
    torch.testing.assert_close(trust, torch.tensor([0.7, 0.2, 0.1]))


def test_an_unlabelled_window_counts_fully_or_by_confidence() -> None:
    targets, labelled = torch.eye(3) * torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([1.0, 0.0, 0.0])
    fully = trust_in_teacher(LOGITS, targets, labelled, by_confidence=False)
    confident = trust_in_teacher(LOGITS, targets, labelled, by_confidence=True)
    torch.testing.assert_close(fully, torch.tensor([0.7, 1.0, 1.0]))
    torch.testing.assert_close(confident, torch.tensor([0.7, 0.7, 0.7]))


def test_a_teacher_that_sees_the_mixture_is_trusted_and_one_that_sees_half_of_it_by_half() -> None:
    mixed, known = torch.tensor([[0.5, 0.5]]), torch.ones(1)
    assert trust_in_teacher(torch.zeros(1, 2), mixed, known, by_confidence=False).item() == pytest.approx(1.0)
    one = torch.tensor([[50.0, 0.0]])
    assert trust_in_teacher(one, mixed, known, by_confidence=False).item() == pytest.approx(0.5)


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_trust_lies_between_zero_and_one(seed: int, classes: int, by_confidence: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, targets = (torch.randn(4, classes, generator=generator) * 3 for _ in range(2))
    trust = trust_in_teacher(
        logits, targets.softmax(-1), torch.tensor([1.0, 1.0, 0.0, 0.0]), by_confidence=by_confidence
    )
    assert bool(((trust >= 0) & (trust <= 1 + 1e-6)).all())
