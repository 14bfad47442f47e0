"""What terms share: cross-entropy against labels, means in which rows count differently, tokens of two lengths."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.losses.task import soft_cross_entropy
from mmkd_models.losses.term import common_time, mean_over_tokens, resampled, weighted_mean


def rows(batch, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, classes, generator=generator), torch.rand(batch, classes, generator=generator).softmax(1)


def test_it_equals_a_plain_loop():
    logits, targets = rows(4, 3, 0)
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        for value, share in zip(row, target, strict=True):
            total -= share * math.log(math.exp(value) / sum(math.exp(v) for v in row))
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(total / 4, rel=1e-5)  # float32 against float64


@pytest.mark.parametrize("classes", [2, 5])
def test_the_gradient_is_probability_minus_target(classes):
    logits, targets = rows(1, classes, 3)
    logits.requires_grad_()
    soft_cross_entropy(logits, targets).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - targets, atol=1e-6, rtol=1e-5)


def test_rows_without_labels_or_weight_do_not_count():
    logits, targets = rows(3, 4, 0)
    targets = targets * torch.tensor([[1.0], [0.0], [1.0]])
    labelled = torch.tensor([1.0, 0.0, 1.0])
    expected = soft_cross_entropy(logits[[0, 2]], targets[[0, 2]]).item()
    assert soft_cross_entropy(logits, targets, weight=labelled).item() == pytest.approx(expected, rel=1e-6)
    logits = rows(3, 4, 0)[0].requires_grad_()
    loss = soft_cross_entropy(logits, torch.zeros(3, 4), weight=torch.zeros(3))
    loss.backward()
    assert loss.item() == 0.0
    assert not bool(logits.grad.any())
    assert weighted_mean(torch.tensor([7.0, 1e30]), torch.tensor([1.0, 0.0])).item() == 7.0
    values = torch.tensor([3.0, 5.0], requires_grad=True)
    mean = weighted_mean(values, torch.zeros(2))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad.tolist() == [0.0, 0.0]


rows_and_weights = st.lists(st.tuples(st.floats(-10, 10), st.floats(0.01, 10)), min_size=1, max_size=6)


@given(rows_and_weights, st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_the_weights_does_not_matter(pairs, scale):
    rows, weight = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    expected = sum(row * w for row, w in pairs) / sum(w for _, w in pairs)
    # float64 sums of at most six numbers below 100: a dozen roundings of 1e-16.
    torch.testing.assert_close(weighted_mean(rows, weight * scale).item(), expected, rtol=1e-12, atol=1e-12)


def test_tokens_are_averaged_in_their_window_and_windows_without_tokens_left_out():
    tokens = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0], [100.0, 100.0, 100.0]])
    valid = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert mean_over_tokens(tokens, valid, None).item() == (2.0 + 5.0) / 2
    assert mean_over_tokens(tokens, valid, torch.tensor([3.0, 1.0, 9.0])).item() == (3 * 2.0 + 5.0) / 4
    assert mean_over_tokens(tokens, None, torch.tensor([0.0, 0.0, 2.0])).item() == 100.0


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_common_time_equals_exact_fractions(source, target):
    common = common_time(source, target)
    for i in range(source):
        for j in range(target):
            start = max(Fraction(i, source), Fraction(j, target))
            stop = min(Fraction(i + 1, source), Fraction(j + 1, target))
            assert common[i, j].item() == float(max(stop - start, Fraction(0)) * source * target)


def test_half_as_many_tokens_are_means_of_pairs_and_missing_time_is_missing():
    values = tokens(2, 6, 3)
    found, kept = resampled(values, torch.ones(2, 6), length=2)
    expected = torch.stack([(values[:, 0] + values[:, 1]) / 2, (values[:, 2] + values[:, 3]) / 2], dim=1)
    torch.testing.assert_close(found, torch.cat([expected, values[:, 4:]], dim=1))
    assert kept.tolist() == [[1.0] * 4] * 2
    valid = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 1.0]])
    found, kept = resampled(tokens(1, 6, 2), valid, length=2)
    assert kept.tolist() == [[1.0, 0.0, 1.0, 1.0]]
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("length", [1, 3, 8])
def test_missing_tokens_are_no_part_of_a_mean(length):
    values, valid = torch.full((1, 6, 2), 4.0), torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
    values[:, 1] = 1e6
    found, kept = resampled(values, valid, length=length)
    assert bool(((found[:, :-1] - 4.0).abs() * kept[:, :-1, None] < 1e-5).all())
    assert kept[0, -1] == 0.0
