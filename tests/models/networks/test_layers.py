"""Dropout in training."""

import torch

from mmkd_models.networks.layers import Dropout


def test_a_tenth_is_dropped_in_training_alone_and_the_mean_stays():
    torch.manual_seed(0)
    found = Dropout(0.1)(torch.ones(300, 1000))
    kept = 230 / 256  # the nearest 256th to 0.9
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / kept).item()}
    # Of 300,000 draws the share kept has a standard deviation of sqrt(p q / n) = 0.00055.
    assert abs((found > 0).float().mean().item() - kept) < 0.003
    assert abs(found.mean().item() - 1) < 0.003
    x = torch.ones(4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
