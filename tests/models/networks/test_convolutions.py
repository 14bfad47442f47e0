"""MiniRocket features against numbers worked out by hand and plain loops."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import ConvolutionGroup, ConvolutionsConfig
from mmkd_models.networks.convolutions import (
    ConvolutionFeatures,
    apply_convolutions,
    fit_convolutions,
    list_dilations,
    position_stride,
    prune_convolutions,
)
from tests.edge.said import said

STEP = torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1, 1, 1])[None, :, None]
HEAVY = list(combinations(range(9), 3))


def modality(samples, channels=1):
    names = tuple(f"c{number}" for number in range(channels))
    return ModalitySpec(name="acc", channels=names, unit="g", rate_hz=50.0, samples=samples)


def windows(count, samples, channels, *, seed=0):
    return np.random.default_rng(seed).normal(size=(count, samples, channels)).astype(np.float32)


def fitted(values, *, features=168, seed=0, positions=1024):
    scale = (values.mean((0, 1)), values.std((0, 1)))
    spec = modality(values.shape[1], values.shape[2])
    present = np.ones_like(values)
    return fit_convolutions(spec, values, present, scale=scale, seed=seed, features=features, positions=positions)


def one_kernel(*, padded, samples, bias, width):
    """The kernel whose weights of 2 are the first three, with dilation 1."""
    config = ConvolutionsConfig(groups=(ConvolutionGroup(dilation=1, padded=padded, features=1),))
    network = ConvolutionFeatures(modality(samples), config)
    weights = torch.tensor([2.0, 2, 2, -1, -1, -1, -1, -1, -1])
    drawn = {
        "weight": weights[None, None] / width,
        "bias": torch.tensor([0.5 - bias / width]),
        "reads": torch.ones(1, 1),
    }
    network.load_state_dict(network.state_dict() | {f"groups.0.{name}": value for name, value in drawn.items()})
    return network


def test_the_share_of_positive_values_is_that_worked_out_by_hand():
    """A step at sample 5 of 10: at the two centres whose kernel is whole, sums are -5 + ... as below.

    Centre 4 reads 0..8: 2 (0+0+0) - (0+0+1+1+1+1) = -4. Centre 5 reads 1..9: 2 * 0 - (0+1+1+1+1+1) = -5.
    """
    network = one_kernel(padded=False, samples=10, bias=-4.5, width=0.1)
    shares, seen = network.proportions(STEP, torch.ones_like(STEP))
    assert shares.tolist() == [[0.5]]
    assert seen.tolist() == [[1.0]]
    """Of a constant 1, centre t has three weights of 2 on samples t-4 to t-2 and six of -1 on t-1 to t+4.

    In nine samples, sums at t = 0..8: -5, -6, -4, -2, 0, 1, 2, 3, 4. Above 0.5: four of nine.
    """
    network = one_kernel(padded=True, samples=9, bias=0.5, width=0.1)
    values = torch.ones(1, 9, 1)
    shares, _ = network.proportions(values, torch.ones_like(values))
    assert shares.item() == pytest.approx(4 / 9, abs=1e-6)
    network = one_kernel(padded=False, samples=9, bias=-3.0, width=4.0)
    values = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1])[None, :, None]  # the sum is -3
    assert network.proportions(values, torch.ones_like(values))[0].item() == 0.5
    values[0, 8, 0] = 0.0  # the sum is -2: a quarter of the ramp above its middle
    assert network.proportions(values, torch.ones_like(values))[0].item() == 0.75


@pytest.mark.parametrize(("positions", "stride"), [(40, 1), (20, 3)])
def test_the_features_are_those_of_plain_loops(positions, stride):
    """Every feature anew, from the drawn weights, with the exact step of the paper: the ramp moves little."""
    values = windows(6, 40, 2)
    network = fitted(values, positions=positions)
    assert network.config.stride == stride
    scaled = ((values - values.mean((0, 1))) / values.std((0, 1))).clip(-8, 8)
    wanted = []
    for group, drawn in zip(network.config.groups, network.groups, strict=True):
        reach = 4 * group.dilation
        padded = np.pad(scaled, ((0, 0), (reach, reach), (0, 0))) if group.padded else scaled
        for weight, bias in zip(drawn.weight.numpy(), drawn.bias.numpy(), strict=True):
            width = 2.0 / weight.max()  # the largest weight is 2 before it is divided
            steps = [j * group.dilation for j in range(9)]
            answers = [
                sum(padded[:, t + step] @ (weight[:, j] * width) for j, step in enumerate(steps))
                for t in range(padded.shape[1] - 2 * reach)
                if (t if group.padded else t + reach) % stride == 0
            ]
            wanted.append((np.stack(answers) > (0.5 - bias) * width).mean(0))
    shares, _ = network.proportions(torch.from_numpy(values), torch.ones(6, 40, 2))
    off = np.abs(shares.numpy() - np.stack(wanted, axis=1))
    # Within the ramp, a tenth of the spread, lie some 4 % of the positions, each off by a quarter on average.
    assert off.mean() < 0.01
    assert off.max() < 0.1 * stride


def test_kernels_dilations_and_biases_are_those_of_minirocket():
    network = fitted(windows(4, 30, 1))
    places = set()
    for group in network.groups:
        for weight in group.weight.numpy()[:, 0]:
            places.add(tuple(np.flatnonzero(weight > 0)))
            assert weight / weight.max() * 2 == pytest.approx(np.where(weight > 0, 2.0, -1.0))
    assert places == set(HEAVY)
    assert list_dilations(200, 2, most=8) == [(1, 1), (24, 1)]
    assert list_dilations(9, 24, most=8) == [(1, 24)]
    assert sum(count for _, count in list_dilations(10_000, 24, most=32)) == 24
    network = fitted(windows(50, 100, 1), features=2016)
    means = network.feature_mean.numpy()
    assert means.min() < 0.05
    assert means.max() > 0.95
    assert means.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("lacking", [slice(None), slice(1)], ids=["every channel", "the channel that a feature reads"])
def test_windows_that_lack_what_a_feature_reads_do_not_count_where_it_is_standardised(lacking):
    values, present = windows(40, 60, 2), np.ones((40, 60, 2), np.float32)
    values[::4, :, lacking], present[::4, :, lacking] = 0.0, 0.0
    scale = (np.zeros(2, np.float32), np.ones(2, np.float32))
    network = fit_convolutions(modality(60, 2), values, present, scale=scale, seed=0, features=168)
    reads = torch.cat([group.get_buffer("reads") for group in network.groups])
    alone = (reads[:, 0] == 1).numpy()
    assert alone.any()
    found = apply_convolutions(network, values, present)
    found = found if lacking == slice(None) else found[:, alone]
    there = present[:, 0, 0] > 0
    assert found[there].mean(0) == pytest.approx(0.0, abs=1e-4)
    assert found[there].std(0) == pytest.approx(1.0, abs=1e-3)
    assert not found[~there].any()


def test_positions_and_windows_without_samples_do_not_count():
    network = one_kernel(padded=False, samples=10, bias=-4.5, width=0.1)
    present = torch.ones_like(STEP)
    present[0, 0, 0] = 0.0  # no kernel's centre: the sums stay -4 and -5
    assert network.proportions(STEP, present)[0].tolist() == [[0.5]]
    present[0, 4, 0] = 0.0  # the first centre: the second position is what is left, and it is below the bias
    assert network.proportions(STEP, present)[0].tolist() == [[0.0]]
    network = fitted(windows(10, 30, 2))
    nothing = torch.zeros(1, 30, 2)
    assert network(nothing, nothing).tolist() == [[0.0] * 168]


def test_pruning_keeps_the_named_features_and_a_loaded_state_counts_anew():
    values = windows(8, 50, 3)
    network = fitted(values, features=504)
    first = network.config.groups[0].features
    keep = [first - 1, 1, first + 4, 503]
    smaller = prune_convolutions(network, modality(50, 3), keep)
    whole, found = (apply_convolutions(one, values, np.ones_like(values)) for one in (network, smaller))
    assert found == pytest.approx(whole[:, sorted(keep)], abs=1e-5)  # other sums of the same numbers
    assert [group.features for group in smaller.config.groups] == [2, 1, 1]
    assert smaller.config.features == 4
    values = windows(4, 50, 2)
    first, second = (fitted(values, seed=seed) for seed in (0, 1))
    wanted = apply_convolutions(second, values, np.ones_like(values))
    first.load_state_dict(second.state_dict())
    assert np.array_equal(apply_convolutions(first, values, np.ones_like(values)), wanted)


@pytest.mark.parametrize(
    ("samples", "positions", "stride"), [(100, 100, 1), (101, 100, 3), (300, 100, 3), (301, 100, 5)]
)
def test_a_kernel_steps_on_an_odd_number_of_positions(samples, positions, stride):
    """Where it stepped on two, kernels of an even dilation would never read a sample of an odd number."""
    assert position_stride(samples, positions) == stride


def test_windows_shorter_than_a_kernel_are_refused():
    assert said(UsageError, fitted, windows(3, 8, 1)) == (
        "modality 'acc': convolutions: expected windows of at least 9 samples, one window or more and at least 84 "
        "features, got 8 samples, 3 windows and 168 features; take longer windows, or the member transformer"
    )
