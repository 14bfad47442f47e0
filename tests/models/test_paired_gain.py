"""What one model is better by than another, by hand, by plain loops and by what must hold."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.evaluate.metrics import Metric, scores_from_answers
from mmkd_models.evaluate.paired import FEWEST_GROUPS, PairedGain, group_confusions, metric_of, paired_gain

METRICS: tuple[Metric, ...] = get_args(Metric)


def test_the_gain_of_one_more_right_answer_of_four() -> None:
    truth = np.array([0, 0, 1, 1])
    gain = paired_gain(
        np.array([0, 0, 1, 0]), np.array([0, 1, 1, 0]), truth, np.arange(4), classes=2, metric="accuracy", seed=0
    )
    assert gain == PairedGain(points=25.0, low=None, high=None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(METRICS), st.integers(2, 5))
def test_metrics_of_counts_are_those_of_the_answers(seed: int, metric: Metric, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, answers = rng.integers(classes, size=(2, 12))
    counts = group_confusions(answers, truth, rng.integers(3, size=12), classes=classes)
    expected = scores_from_answers(truth, answers, classes).metric(metric)
    assert metric_of(counts.sum(0)[None], metric)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_that_of_a_plain_loop_over_the_same_draws(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), 20)
    truth = rng.integers(3, size=120)
    ours, theirs = (np.where(rng.uniform(size=120) < share, truth, rng.integers(3, size=120)) for share in (0.8, 0.6))
    gain = paired_gain(ours, theirs, truth, groups, classes=3, metric=metric, seed=3)
    drawn = []
    for weights in np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=2000):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in np.repeat(np.arange(6), weights)])
        scores = [scores_from_answers(truth[rows], answers[rows], 3).metric(metric) for answers in (ours, theirs)]
        drawn.append(100 * (scores[0] - scores[1]))
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.points < gain.high


def test_a_model_gains_nothing_over_itself() -> None:
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(3, size=(2, 60))
    gain = paired_gain(answers, answers, truth, np.repeat(np.arange(6), 10), classes=3, metric="macro_f1", seed=0)
    assert gain == PairedGain(points=0.0, low=0.0, high=0.0)


def test_the_gain_of_the_other_side_is_the_same_with_another_sign() -> None:
    rng = np.random.default_rng(0)
    truth, ours, theirs = rng.integers(3, size=(3, 60))
    groups = np.repeat(np.arange(6), 10)
    there, back = (
        paired_gain(one, other, truth, groups, classes=3, metric="balanced_accuracy", seed=0)
        for one, other in ((ours, theirs), (theirs, ours))
    )
    assert back.points == pytest.approx(-there.points)
    assert back.low == pytest.approx(-(there.high or 0.0))


def test_too_few_groups_give_no_interval() -> None:
    truth = np.arange(12) % 2
    for groups in (1, FEWEST_GROUPS - 1, FEWEST_GROUPS):
        gain = paired_gain(truth, 1 - truth, truth, np.arange(12) % groups, classes=2, metric="accuracy", seed=0)
        assert gain.points == 100.0
        assert (gain.low is None) == (groups < FEWEST_GROUPS)
