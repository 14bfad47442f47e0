"""Scores against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from mmkd_models.metrics.scores import scores_from_answers

pairs = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40),
    )
)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_every_figure_equals_scikit_learns(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, rows = drawn
    truth, answers = np.array(rows, dtype=np.int64).T
    scores = scores_from_answers(truth, answers, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn warns of answers that never occur in the truth
        expected = balanced_accuracy_score(truth, answers)
        confusion = confusion_matrix(truth, answers, labels=np.arange(classes))
    # The same few float64 divisions in another order.
    assert scores.accuracy == pytest.approx(accuracy_score(truth, answers), abs=1e-12)
    assert scores.balanced_accuracy == pytest.approx(expected, abs=1e-12)
    assert scores.macro_f1 == pytest.approx(f1_score(truth, answers, average="macro"), abs=1e-12)
    assert np.array_equal(np.array(scores.confusion), confusion)


def test_the_standard_error_is_that_of_a_share_or_of_a_mean_of_shares() -> None:
    scores = scores_from_answers(np.repeat([0, 1], [100, 25]), np.repeat([0, 1, 1, 0], [90, 10, 20, 5]), 2)

    # 110 of 125 right; recalls 90/100 and 20/25
    assert scores.standard_error("accuracy") == pytest.approx((0.88 * 0.12 / 125) ** 0.5)
    assert scores.standard_error("balanced_accuracy") == pytest.approx(0.5 * (0.9 * 0.1 / 100 + 0.8 * 0.2 / 25) ** 0.5)
    assert scores.standard_error("macro_f1") == scores.standard_error("balanced_accuracy")
    one = scores_from_answers(np.zeros(4, dtype=np.int64), np.array([0, 0, 0, 1]), 2)  # the second class never occurs
    assert one.standard_error("balanced_accuracy") == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
