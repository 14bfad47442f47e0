"""Layers of training: dropout, and the INT8 that it practises."""

import numpy as np
import pytest
import torch

from mmkd_models.networks.int8 import FakeInt8Student, fake_activations, fake_weights, learnt_student
from mmkd_models.networks.layers import Dropout

GROUPS = (("encoder.blocks.0.attention.project",), ("encoder.blocks.0.feedforward.up",))


@pytest.fixture
def network(student_checkpoint):
    values = torch.from_numpy(np.nan_to_num(student_checkpoint.carried.windows))
    return FakeInt8Student(student_checkpoint.network(), GROUPS, values, torch.ones_like(values))


def test_activations_and_weights_are_rounded_and_gradients_pass_straight_through():
    values = torch.tensor([-200.0, -128.4, -0.5, 0.5, 1.5, 126.4, 300.0])
    got = fake_activations(values, torch.tensor(127.0))
    assert got.tolist() == [-128.0, -128.0, 0.0, 0.0, 2.0, 126.0, 127.0]
    # Range 254, so s = 2. v = x / s: 0.3, -0.6, 200 (clipped to 127), -300 (clipped to -128).
    values = torch.tensor([0.6, -1.2, 400.0, -600.0], requires_grad=True)
    largest = torch.tensor(254.0, requires_grad=True)
    upstream = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (fake_activations(values, largest) * upstream).sum().backward()
    assert largest.grad is not None
    assert values.grad.tolist() == [1.0, 10.0, 0.0, 0.0]
    # d/ds: round(v) - v = -0.3 and -1 + 0.6 = -0.4, then the levels 127 and -128, each times what comes from above.
    by_scale = -0.3 - 0.4 * 10 + 127 * 100 - 128 * 1000
    # s = range / 127, and the learned step size is slowed by sqrt(127 N) with N = 4.
    assert float(largest.grad) == pytest.approx(by_scale / 127 / (127 * 4) ** 0.5, rel=1e-5)  # float32
    weight = torch.tensor([[127.0, 0.4, -1.6], [0.0, 0.0, 0.0]], requires_grad=True)
    got = fake_weights(weight)
    assert got.tolist() == [[127.0, 0.0, -2.0], [0.0, 0.0, 0.0]]
    (got * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).sum().backward()
    assert weight.grad.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_ranges_and_weights_learn_and_what_is_kept_no_longer_changes(network, student_checkpoint):
    values = torch.from_numpy(np.nan_to_num(student_checkpoint.carried.windows))
    network(values, torch.ones_like(values)).logits.square().sum().backward()
    assert network.moved.grad is not None
    assert bool((network.moved.grad != 0).all())
    assert all(parameter.grad is not None for parameter in network.student.parameters())
    state, inputs = learnt_student(network)
    for group in GROUPS:
        weight = state[f"{group[0]}.weight"]
        # A scale may come back one float32 step off.
        torch.testing.assert_close(fake_weights(weight), weight, rtol=1e-6, atol=0)
    assert [entry.layers for entry in inputs] == list(GROUPS)
    assert [entry.largest for entry in inputs] == network.ranges.tolist()
    assert set(state) == set(network.student.state_dict())


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
