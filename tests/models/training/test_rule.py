"""The rule by which validation chooses, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmkd_edge.spec import TaskSpec
from mmkd_models.training.choosing import ValidationScore, preferred, validation_score


def standing(score: float, likelihood: float) -> ValidationScore:
    return ValidationScore(score=score, standard_error=0.05, likelihoods=np.array([likelihood - 0.1, likelihood + 0.1]))


def test_of_those_within_a_standard_error_the_likeliest_is_preferred() -> None:
    far, best = standing(0.70, -0.1), standing(0.80, -0.6)
    assert preferred([far, standing(0.76, -0.4), best]) == 1
    assert preferred([far, standing(0.74, -0.4), best]) == 2


SEVERAL = TaskSpec(kind="multi_label", labels=("hot", "loud"))
NUMBER = TaskSpec(kind="regression", labels=("rpm",), unit="rpm")


@pytest.mark.parametrize(
    ("task", "metric", "labels", "logits", "score", "error"),
    [
        # Three of four windows have both labels right, of which each is one trial.
        (
            SEVERAL,
            "subset_accuracy",
            np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.uint8),
            np.array([[2.0, -2], [-2, 2], [2, 2], [2, -2]]),
            0.75,
            math.sqrt(0.75 * 0.25 / 4),
        ),
        # Errors of 1 around numbers with the variance 5: R^2 = 4/5, of which 2 R (1 - R^2) / sqrt(n).
        (
            NUMBER,
            "r2",
            np.array([1.0, 3, 5, 7], dtype=np.float32),
            np.array([[2.0], [2], [6], [6]]),
            0.8,
            2 * math.sqrt(0.8) * 0.2 / 2,
        ),
    ],
)
def test_scores_of_labels_and_numbers_have_their_standard_error_too(
    task: TaskSpec, metric: str, labels: Any, logits: Any, score: float, error: float
) -> None:
    found = validation_score(logits, labels, task, metric=metric)
    assert (found.score, found.standard_error) == (pytest.approx(score), pytest.approx(error))
