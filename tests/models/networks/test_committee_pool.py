"""The weights of a committee's members, by hand and by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmkd_models.networks.committee.pool import (
    likeliest_temperature,
    log_likelihood,
    mixture_weights,
    pool_of,
    pooled_logits,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 240)
GROUPS = np.arange(240) // 40


def member(right: float, *, seed: int, sure: float = 3.0) -> np.ndarray:
    """Logits (240, 3) that favour the truth in that share of the windows, else any class."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.uniform(size=240) < right, LABELS, rng.integers(0, 3, 240))
    return sure * np.eye(3)[said]


def test_the_pool_of_two_is_the_weighted_mean_of_their_probabilities() -> None:
    one, other = np.log([[0.8, 0.2]]), np.log([[0.4, 0.6]])
    pooled = np.exp(pooled_logits([one, other], np.array([0.25, 0.75]), kind="classification"))
    assert pooled[0].tolist() == pytest.approx([0.5, 0.5])  # 0.25 x 0.8 + 0.75 x 0.4
    odds = pooled_logits([np.log([[4.0]]), np.log([[0.25]])], np.array([0.5, 0.5]), kind="multi_label")
    assert odds[0, 0] == pytest.approx(0.0)  # 0.8 and 0.2 are a half
    numbers = pooled_logits([np.array([[10.0]]), np.array([[20.0]])], np.array([0.1, 0.9]), kind="regression")
    assert numbers[0, 0] == pytest.approx(19.0)


def test_the_weights_of_two_members_by_hand() -> None:
    """Two answers: the first member says 1 and 1/2, the other 1/2 and 1; both have a group more than the four.

    Then the weights are even for symmetry. With (1, 1/2) against (1/4, 1/2) the second answer tells nothing.
    """
    even = mixture_weights(np.log([[1.0, 0.5], [0.5, 1.0]]), groups=4)
    assert even.tolist() == pytest.approx([0.5, 0.5])
    found = mixture_weights(np.log([[1.0, 0.25], [0.5, 0.5]]), groups=4)
    # At rest w = (4 m + 1) / 6 with m = (w / (w + (1 - w) / 4) + w) / 2, so 4 w = 1 + 2 w / (w + (1 - w) / 4).
    w = found[0]
    assert 4 * w == pytest.approx(1 + 2 * w / (w + (1 - w) / 4), abs=1e-9)


def test_the_temperature_makes_the_labels_likeliest() -> None:
    logits = member(0.8, seed=1, sure=6.0)
    found = likeliest_temperature(logits, LABELS, kind="classification")
    grid = np.exp(np.linspace(math.log(0.02), math.log(50), 20001))
    shares = [1 / (1 + 2 * np.exp(-6 / heat)) for heat in grid]
    right = float((logits.argmax(1) == LABELS).mean())
    costs = [-(right * math.log(share) + (1 - right) * math.log(max((1 - share) / 2, 1e-300))) for share in shares]
    assert found == pytest.approx(grid[int(np.argmin(costs))], rel=1e-3)


def test_a_member_at_chance_gets_nothing_and_equals_share_evenly() -> None:
    pool = pool_of(
        [member(0.9, seed=1), member(0.0, seed=2), member(0.9, seed=1)], LABELS, GROUPS, kind="classification"
    )
    assert pool.weights[1] == 0.0
    assert pool.weights == pytest.approx((0.5, 0.0, 0.5))
    assert pool.likelihoods[1] == pytest.approx(math.log(1 / 3), abs=0.01)


def test_a_member_that_is_sure_and_wrong_costs_the_pool_nothing() -> None:
    wrong = 5.0 * np.eye(3)[(LABELS + 1) % 3]
    pool = pool_of([member(0.7, seed=1), wrong], LABELS, GROUPS, kind="classification")
    assert pool.weights == pytest.approx((1.0, 0.0))


def test_where_nobody_tells_anything_all_count_alike() -> None:
    pool = pool_of([member(0.0, seed=1), member(0.0, seed=2)], LABELS, GROUPS, kind="classification")
    assert pool.weights == (0.5, 0.5)


def test_a_weaker_member_gets_less_than_a_stronger_one() -> None:
    pool = pool_of([member(0.9, seed=1), member(0.4, seed=2)], LABELS, GROUPS, kind="classification")
    assert pool.weights[0] > 0.7


def test_labels_and_numbers_are_weighed_too() -> None:
    several = np.stack([LABELS > 0, LABELS > 1], axis=1).astype(np.uint8)
    telling, noise = 4.0 * several - 2 + RNG.normal(0, 1, several.shape), RNG.normal(0, 1, several.shape)
    assert pool_of([telling, noise], several, GROUPS, kind="multi_label").weights == (1.0, 0.0)
    numbers = LABELS * 100.0
    near, far = numbers[:, None] + RNG.normal(0, 10, (240, 1)), RNG.normal(100, 80, (240, 1))
    found = pool_of([near, far], numbers, GROUPS, kind="regression")
    assert (found.weights, found.temperatures, found.temperature) == ((1.0, 0.0), (1.0, 1.0), 1.0)


def test_likelihoods_are_logarithms_of_what_is_said_of_the_truth() -> None:
    classes = log_likelihood(np.log([[0.25, 0.75]]), np.array([1]), kind="classification")
    assert classes.tolist() == pytest.approx([math.log(0.75)])
    labels = log_likelihood(np.log([[3.0, 1 / 3]]), np.array([[1, 1]]), kind="multi_label")
    assert labels.tolist() == pytest.approx([math.log(0.75), math.log(0.25)])
    numbers = log_likelihood(np.array([[1.0], [3.0]]), np.array([2.0, 2.0]), kind="regression")
    assert numbers.tolist() == pytest.approx([-0.5 - 0.5 * math.log(2 * math.pi)] * 2)  # errors of one spread
