"""What one model is better by than another, by hand, by plain loops and by what must hold."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_models.evaluation.gains import FEWEST_GROUPS, gain_on_windows
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork
from mmkd_models.metrics.scores import Metric, scores_from_answers
from mmkd_report.schema.evaluation import WindowGain

METRICS: tuple[Metric, ...] = get_args(Metric)


def judged(
    answers: NDArray[np.int64], truth: NDArray[np.int64], groups: NDArray[np.int64], classes: int = 3
) -> TestedNetwork:
    """Answers to windows of these groups."""
    rows = {int(group): groups == group for group in np.unique(groups)}
    return TestedNetwork(
        class_scores=scores_from_answers(truth, answers, classes),
        confusions=tuple(
            GroupConfusion(group=group, confusion=scores_from_answers(truth[its], answers[its], classes).confusion)
            for group, its in rows.items()
        ),
    )


def test_the_gain_of_one_more_right_answer_of_four() -> None:
    truth, groups = np.array([0, 0, 1, 1]), np.arange(4)
    ours, theirs = (judged(np.array(said), truth, groups, 2) for said in ([0, 0, 1, 0], [0, 1, 1, 0]))
    assert gain_on_windows(ours, theirs, "accuracy", seed=0) == WindowGain(points=25.0, low=None, high=None)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_that_of_a_plain_loop_over_the_same_draws(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), 20)
    truth = rng.integers(3, size=120)
    ours, theirs = (np.where(rng.uniform(size=120) < share, truth, rng.integers(3, size=120)) for share in (0.8, 0.6))
    gain = gain_on_windows(judged(ours, truth, groups), judged(theirs, truth, groups), metric, seed=3)
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
    one = judged(answers, truth, np.repeat(np.arange(6), 10))
    gain = gain_on_windows(one, one, "macro_f1", seed=0)
    assert gain == WindowGain(points=0.0, low=0.0, high=0.0)


def test_the_gain_of_the_other_side_is_the_same_with_another_sign() -> None:
    rng = np.random.default_rng(0)
    truth, *answers = rng.integers(3, size=(3, 60))
    ours, theirs = (judged(said, truth, np.repeat(np.arange(6), 10)) for said in answers)
    there, back = (
        gain_on_windows(one, other, "balanced_accuracy", seed=0) for one, other in ((ours, theirs), (theirs, ours))
    )
    assert back.points == pytest.approx(-there.points)
    assert back.low == pytest.approx(-(there.high or 0.0))


def test_too_few_groups_give_no_interval() -> None:
    truth = np.arange(12) % 2
    for groups in (1, FEWEST_GROUPS - 1, FEWEST_GROUPS):
        owners = np.arange(12) % groups
        right, wrong = (judged(said, truth, owners, 2) for said in (truth, 1 - truth))
        gain = gain_on_windows(right, wrong, "accuracy", seed=0)
        assert gain.points == 100.0
        assert (gain.low is None) == (groups < FEWEST_GROUPS)
