"""The weights of a committee's members, by hand and by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmkd_models.metrics.likelihood import log_likelihood, probabilities_of, surely_likelier
from mmkd_models.training.committee import fit_pool, joining_sensor, mixture_weights

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
    pool = fit_pool([member(1.0, seed=1), member(0.9, seed=2)], LABELS, GROUPS, kind="classification")
    # At the least loss the mean probability of the truth is 1 - 1 / (n + 2).
    assert math.exp(pool.likelihoods[0]) == pytest.approx(1 - 1 / 242)


def test_a_member_at_chance_gets_nothing_and_equals_share_evenly() -> None:
    pool = fit_pool(
        [member(0.9, seed=1), member(0.0, seed=2), member(0.9, seed=1)], LABELS, GROUPS, kind="classification"
    )
    assert pool.weights[1] == 0.0
    assert pool.weights == pytest.approx((0.5, 0.0, 0.5))
    assert pool.likelihoods[1] == pytest.approx(math.log(1 / 3), abs=0.01)


def test_labels_and_numbers_are_weighed_too() -> None:
    several = np.stack([LABELS > 0, LABELS > 1], axis=1).astype(np.uint8)
    telling, noise = 4.0 * several - 2 + RNG.normal(0, 1, several.shape), RNG.normal(0, 1, several.shape)
    assert fit_pool([telling, noise], several, GROUPS, kind="multi_label").weights == (1.0, 0.0)
    numbers = LABELS * 100.0
    near, far = numbers[:, None] + RNG.normal(0, 10, (240, 1)), RNG.normal(100, 80, (240, 1))
    found = fit_pool([near, far], numbers, GROUPS, kind="regression")
    assert (found.weights, found.temperatures) == ((1.0, 0.0), (1.0, 1.0))


def test_what_members_say_together_is_the_likelihood_of_their_mean() -> None:
    pool = fit_pool(ones := [member(0.9, seed=1), member(0.4, seed=2)], LABELS, GROUPS, kind="classification")
    shares = [
        weight * probabilities_of(one / heat, kind="classification")
        for one, heat, weight in zip(ones, pool.temperatures, pool.weights, strict=True)
    ]
    assert pool.together == pytest.approx(np.log(sum(shares)[np.arange(240), LABELS]))

    numbers = LABELS * 100.0
    near, far = numbers[:, None] + RNG.normal(0, 10, (240, 1)), numbers[:, None] + RNG.normal(0, 20, (240, 1))
    found = fit_pool([near, far], numbers, GROUPS, kind="regression")
    mean = found.weights[0] * near + found.weights[1] * far
    assert found.together == pytest.approx(log_likelihood(mean, numbers, kind="regression"))


def test_of_one_group_nothing_is_sure_unless_windows_are_taken_as_independent() -> None:
    gain, group = np.array([1.0, 1.0, 1.1]), np.zeros(3)
    assert not surely_likelier(gain, np.zeros(3), group)
    assert surely_likelier(gain, np.zeros(3), group, of_one_group=True)


def test_the_sensor_with_the_likeliest_member_joins_where_the_committee_is_surely_likelier_with_it() -> None:
    weak, strong = [member(0.4, seed=1), member(0.5, seed=2)], [member(0.2, seed=3), member(0.95, seed=4)]
    alone = {"gyro": [member(0.6, seed=5)], "acc": strong}
    assert joining_sensor(weak, alone, LABELS, GROUPS, kind="classification") == "acc"
    assert joining_sensor(strong, {"gyro": weak}, LABELS, GROUPS, kind="classification") is None
    assert joining_sensor(weak, alone, LABELS, np.zeros(240), kind="classification") is None  # of one group


@pytest.mark.parametrize(
    ("by_group", "sure"),
    [
        ([1.0, 1.0, 1.0], True),
        # Of sums 0, 2, 4 over three groups of one window the mean is 2, and the standard error sqrt(4 / 3).
        ([0.0, 2.0, 4.0], True),
        ([-2.0, 1.0, 4.0], False),  # the mean is 1, the error sqrt(3)
        ([-1.0, -1.0, -1.0], False),
    ],
)
def test_answers_are_surely_likelier_by_more_than_a_standard_error_over_groups(
    by_group: list[float], sure: bool
) -> None:
    gain = np.array(by_group)
    assert surely_likelier(gain, np.zeros(3), np.arange(3)) is sure
    # Labels of a window count with their group, as its windows do.
    assert surely_likelier(np.repeat(gain, 4), np.zeros(12), np.repeat(np.arange(3), 2)) is sure
