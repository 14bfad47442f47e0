"""Dropout: how much it drops, what it keeps, and that a seed repeats it."""

from __future__ import annotations

import torch

from mmkd_models.networks.layers import Dropout


def test_a_tenth_is_dropped_and_the_rest_scaled_so_that_the_mean_stays() -> None:
    torch.manual_seed(0)
    found = Dropout(0.1)(torch.ones(300, 1000))
    kept = 230 / 256  # the nearest 256th to 0.9
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / kept).item()}
    # Of 300,000 draws the share kept has a standard deviation of sqrt(p q / n) = 0.00055.
    assert abs((found > 0).float().mean().item() - kept) < 0.003
    assert abs(found.mean().item() - 1) < 0.003


def test_nothing_is_dropped_outside_training() -> None:
    x = torch.ones(4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
