"""The mean in which every row may count differently."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.losses.term import mean_over_tokens, weighted_mean

rows_and_weights = st.lists(st.tuples(st.floats(-10, 10), st.floats(0.01, 10)), min_size=1, max_size=6)


def test_rows_of_weight_zero_do_not_count() -> None:
    assert weighted_mean(torch.tensor([7.0, 1e30]), torch.tensor([1.0, 0.0])).item() == 7.0


def test_no_weight_at_all_gives_zero_and_a_gradient_of_zero() -> None:
    rows = torch.tensor([3.0, 5.0], requires_grad=True)
    mean = weighted_mean(rows, torch.zeros(2))
    mean.backward()
    assert mean.item() == 0.0
    assert rows.grad is not None
    assert rows.grad.tolist() == [0.0, 0.0]


@given(rows_and_weights, st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_the_weights_does_not_matter(pairs: list[tuple[float, float]], scale: float) -> None:
    rows, weight = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    expected = sum(row * w for row, w in pairs) / sum(w for _, w in pairs)
    # float64 sums of at most six numbers below 100: a dozen roundings of 1e-16.
    torch.testing.assert_close(weighted_mean(rows, weight * scale).item(), expected, rtol=1e-12, atol=1e-12)


def test_tokens_are_averaged_in_their_window_and_windows_without_tokens_left_out() -> None:
    tokens = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0], [100.0, 100.0, 100.0]])
    valid = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert mean_over_tokens(tokens, valid, None).item() == (2.0 + 5.0) / 2
    assert mean_over_tokens(tokens, valid, torch.tensor([3.0, 1.0, 9.0])).item() == (3 * 2.0 + 5.0) / 4
    assert mean_over_tokens(tokens, None, torch.tensor([0.0, 0.0, 2.0])).item() == 100.0
