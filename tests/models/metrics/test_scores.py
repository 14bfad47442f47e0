"""Scores against scikit-learn's; the temperature of answers and the likelihood of the truth, by hand and on a grid."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from mmkd_models.metrics.likelihood import fitted_temperature, log_likelihood, probabilities_of
from mmkd_models.metrics.scores import scores_from_answers

pairs = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40),
    )
)


@given(pairs)
@settings(max_examples=25, deadline=None)
def test_every_figure_equals_scikit_learns(drawn):
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


def test_the_standard_error_is_that_of_a_share_or_of_a_mean_of_shares():
    scores = scores_from_answers(np.repeat([0, 1], [100, 25]), np.repeat([0, 1, 1, 0], [90, 10, 20, 5]), 2)

    # 110 of 125 right; recalls 90/100 and 20/25
    assert scores.standard_error("accuracy") == pytest.approx((0.88 * 0.12 / 125) ** 0.5)
    assert scores.standard_error("balanced_accuracy") == pytest.approx(0.5 * (0.9 * 0.1 / 100 + 0.8 * 0.2 / 25) ** 0.5)
    assert scores.standard_error("macro_f1") == scores.standard_error("balanced_accuracy")
    one = scores_from_answers(np.zeros(4, dtype=np.int64), np.array([0, 0, 0, 1]), 2)  # the second class never occurs
    assert one.standard_error("balanced_accuracy") == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_the_temperature_is_that_of_three_right_answers_in_four_and_of_none_without_classes():
    """Each label counts 5/6 for the first answer or 1/6: (3 x 5/6 + 1/6) / 4 = 2/3, a difference of log 2."""
    logits, labels = np.tile([[10.0, 0.0]], (4, 1)), np.array([0, 0, 0, 1])
    assert 10 / fitted_temperature(logits, labels, kind="classification") == pytest.approx(math.log(2))
    on = np.array([[1], [1], [1], [0]], dtype=np.uint8)
    assert 5 / fitted_temperature(np.full((4, 1), 5.0), on, kind="multi_label") == pytest.approx(math.log(2))
    logits, labels = 40.0 * np.eye(3)[np.arange(18) % 3], np.arange(18) % 3
    settled = logits / fitted_temperature(logits, labels, kind="classification")
    assert probabilities_of(settled, kind="classification").max(1) == pytest.approx(1 - 1 / 20)
    assert fitted_temperature(np.array([[3.0]]), np.array([1.0]), kind="regression") == 1.0
    assert fitted_temperature(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), kind="classification") == 1.0


def test_likelihoods_are_logarithms_of_what_is_said_of_the_truth():
    classes = log_likelihood(np.log([[0.25, 0.75]]), np.array([1]), kind="classification")
    assert classes.tolist() == pytest.approx([math.log(0.75)])
    labels = log_likelihood(np.log([[3.0, 1 / 3]]), np.array([[1, 1]]), kind="multi_label")
    assert labels.tolist() == pytest.approx([math.log(0.75), math.log(0.25)])
    numbers = log_likelihood(np.array([[1.0], [3.0]]), np.array([2.0, 2.0]), kind="regression")
    assert numbers.tolist() == pytest.approx([-0.5 - 0.5 * math.log(2 * math.pi)] * 2)  # errors of one spread
