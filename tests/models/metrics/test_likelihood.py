"""The temperature of answers and the likelihood of the truth, by hand and against a grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmkd_models.metrics.likelihood import fitted_temperature, log_likelihood, probabilities_of


def test_the_temperature_of_three_right_answers_in_four_by_hand() -> None:
    """Each label counts 5/6 for the first answer or 1/6: (3 x 5/6 + 1/6) / 4 = 2/3, a difference of log 2."""
    logits, labels = np.tile([[10.0, 0.0]], (4, 1)), np.array([0, 0, 0, 1])
    assert 10 / fitted_temperature(logits, labels, kind="classification") == pytest.approx(math.log(2))
    on = np.array([[1], [1], [1], [0]], dtype=np.uint8)
    assert 5 / fitted_temperature(np.full((4, 1), 5.0), on, kind="multi_label") == pytest.approx(math.log(2))


def test_answers_that_are_always_right_are_not_certain() -> None:
    logits, labels = 40.0 * np.eye(3)[np.arange(18) % 3], np.arange(18) % 3
    settled = logits / fitted_temperature(logits, labels, kind="classification")
    assert probabilities_of(settled, kind="classification").max(1) == pytest.approx(1 - 1 / 20)


@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_the_temperature_is_the_best_of_a_grid(kind: Any) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 80)
    truth = np.eye(3)[classes]
    scores = 0.2 * truth + rng.normal(0, 0.2, (80, 3))

    def loss(temperature: float) -> float:
        found = probabilities_of(scores / temperature, kind=kind).clip(1e-12, 1 - 1e-12)
        wanted = np.where(truth > 0, 1 - 1 / 82, 1 / 82 / (2 if kind == "classification" else 1))
        rest = (1 - wanted) * np.log(1 - found) if kind == "multi_label" else 0.0
        return float(-(wanted * np.log(found) + rest).sum())

    found = fitted_temperature(scores, classes if kind == "classification" else truth, kind=kind)
    assert loss(found) <= min(loss(tried) for tried in np.geomspace(0.01, 100, 400)) + 1e-9


def test_numbers_and_no_windows_have_no_temperature() -> None:
    assert fitted_temperature(np.array([[3.0]]), np.array([1.0]), kind="regression") == 1.0
    assert fitted_temperature(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), kind="classification") == 1.0


def test_likelihoods_are_logarithms_of_what_is_said_of_the_truth() -> None:
    classes = log_likelihood(np.log([[0.25, 0.75]]), np.array([1]), kind="classification")
    assert classes.tolist() == pytest.approx([math.log(0.75)])
    labels = log_likelihood(np.log([[3.0, 1 / 3]]), np.array([[1, 1]]), kind="multi_label")
    assert labels.tolist() == pytest.approx([math.log(0.75), math.log(0.25)])
    numbers = log_likelihood(np.array([[1.0], [3.0]]), np.array([2.0, 2.0]), kind="regression")
    assert numbers.tolist() == pytest.approx([-0.5 - 0.5 * math.log(2 * math.pi)] * 2)  # errors of one spread
