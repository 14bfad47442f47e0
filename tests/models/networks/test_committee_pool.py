"""The weights of a committee's members, by hand and by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmkd_models.networks.committee.pool import (
    mixture_weights,
    pool_of,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 240)
GROUPS = np.arange(240) // 40


def member(right: float, *, seed: int, sure: float = 3.0) -> np.ndarray:
    """Logits (240, 3) that favour the truth in that share of the windows, else any class."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.uniform(size=240) < right, LABELS, rng.integers(0, 3, 240))
    return sure * np.eye(3)[said]


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


def test_a_member_that_validation_never_saw_err_is_not_certain_of_the_next_window() -> None:
    pool = pool_of([member(1.0, seed=1), member(0.9, seed=2)], LABELS, GROUPS, kind="classification")
    # At the least loss the mean probability of the truth is 1 - 1 / (n + 2).
    assert math.exp(pool.likelihoods[0]) == pytest.approx(1 - 1 / 242)


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
    assert (found.weights, found.temperatures) == ((1.0, 0.0), (1.0, 1.0))
