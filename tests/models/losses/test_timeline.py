"""Tokens of two lengths over one window: what they have in common, and means onto another length."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd_models.losses.term import common_time, resampled


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_common_time_equals_exact_fractions(source: int, target: int) -> None:
    common = common_time(source, target)
    for i in range(source):
        for j in range(target):
            start = max(Fraction(i, source), Fraction(j, target))
            stop = min(Fraction(i + 1, source), Fraction(j + 1, target))
            assert common[i, j].item() == float(max(stop - start, Fraction(0)) * source * target)


def test_half_as_many_tokens_are_means_of_pairs_and_summaries_stay() -> None:
    values = tokens(2, 6, 3)
    found, kept = resampled(values, torch.ones(2, 6), length=2)
    expected = torch.stack([(values[:, 0] + values[:, 1]) / 2, (values[:, 2] + values[:, 3]) / 2], dim=1)
    torch.testing.assert_close(found, torch.cat([expected, values[:, 4:]], dim=1))
    assert kept.tolist() == [[1.0] * 4] * 2


@pytest.mark.parametrize("length", [1, 3, 8])
def test_missing_tokens_are_no_part_of_a_mean(length: int) -> None:
    values, valid = torch.full((1, 6, 2), 4.0), torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
    values[:, 1] = 1e6
    found, kept = resampled(values, valid, length=length)
    assert bool(((found[:, :-1] - 4.0).abs() * kept[:, :-1, None] < 1e-5).all())
    assert kept[0, -1] == 0.0


def test_tokens_of_missing_time_alone_are_missing_and_finite() -> None:
    valid = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 1.0]])
    found, kept = resampled(tokens(1, 6, 2), valid, length=2)
    assert kept.tolist() == [[1.0, 0.0, 1.0, 1.0]]
    assert bool(found.isfinite().all())
