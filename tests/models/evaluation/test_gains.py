"""What one model is better by than another, by hand, by plain loops and by what must hold."""

from typing import get_args

import numpy as np
import pytest

from mmkd_models.evaluation.gains import MIN_GROUPS, gain_on_windows, gain_over_seeds, spread
from mmkd_models.experiments.summary import gain_over_folds
from mmkd_models.metrics.scores import Metric, measure_named, metric_of_confusions, scores_from_answers
from mmkd_report.schema.figures import Interval, Spread
from tests.models.judging_rig import class_outcome

METRICS = get_args(Metric)


def test_gains_are_differences_of_seeds_and_groups_of_those_that_both_have(monkeypatch):
    truth, groups = np.array([0, 0, 1, 1]), np.arange(4)
    ours, theirs = (class_outcome(truth, said, groups) for said in ([0, 0, 1, 0], [0, 1, 1, 0]))
    assert gain_on_windows(ours, theirs, "accuracy", seed=0) == Interval(mean=25.0)
    right, half = (class_outcome([0, 1], answers, [7, 7]) for answers in ([0, 1], [0, 0]))
    gain = gain_over_seeds([right, right], [half, right], "accuracy")
    assert (gain.per_seed, gain.mean) == ((50.0, 0.0), 25.0)
    assert gain.std == pytest.approx(35.355, abs=1e-3)
    monkeypatch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 1)
    ours, theirs = ([class_outcome([0, 1], answers, [group] * 2) for group in (1, 2)] for answers in ([0, 1], [0, 0]))
    gain = gain_over_seeds(ours, theirs, "accuracy")
    assert (gain.mean, gain.low, gain.high) == (50.0, 50.0, 50.0)
    assert all(np.isnan(metric_of_confusions(np.zeros((1, 2, 2)), metric)[0]) for metric in METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_that_of_a_plain_loop_over_the_same_draws(metric):
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), 20)
    truth = rng.integers(3, size=120)
    ours, theirs = (np.where(rng.uniform(size=120) < share, truth, rng.integers(3, size=120)) for share in (0.8, 0.6))
    gain = gain_on_windows(
        class_outcome(truth, ours, groups, 3), class_outcome(truth, theirs, groups, 3), metric, seed=3
    )
    drawn = []
    for weights in np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=2000):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in np.repeat(np.arange(6), weights)])
        scores = [scores_from_answers(truth[rows], answers[rows], 3).metric(metric) for answers in (ours, theirs)]
        drawn.append(100 * (scores[0] - scores[1]))
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.mean < gain.high


def test_few_groups_give_no_interval_modalities_are_drawn_together_and_spreads_are_of_samples(fold_result, monkeypatch):
    truth = np.arange(12) % 2
    for groups in (1, MIN_GROUPS - 1, MIN_GROUPS):
        owners = np.arange(12) % groups
        right, wrong = (class_outcome(truth, said, owners) for said in (truth, 1 - truth))
        gain = gain_on_windows(right, wrong, "accuracy", seed=0)
        assert gain.mean == 100.0
        assert (gain.low is None) == (groups < MIN_GROUPS)
    monkeypatch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 1)
    # What acc gains gyro loses, in every group: drawn together nothing is left, drawn apart there would be an interval.
    acc, gyro = ({1: 9, 2: 4}, {1: 4, 2: 5}), ({1: 4, 2: 5}, {1: 9, 2: 4})
    fold = fold_result(seed=0, windows={1: 10, 2: 10}, teacher={1: 1, 2: 1}, students={"acc": acc, "gyro": gyro})
    for names, expected in ((("acc", "gyro"), (0.0, 0.0, 0.0)), (("acc",), (20.0, -10.0, 50.0))):
        gain = gain_over_folds([fold], names, measure_named("accuracy"))
        assert (gain.mean, gain.low, gain.high) == pytest.approx(expected, abs=1e-9)
    found = spread([0.5, 0.75, 1.0])
    assert (found.mean, found.std, found.per_seed) == (0.75, 0.25, (0.5, 0.75, 1.0))  # ddof 0 would give 0.204
    assert spread([0.5]) == Spread(mean=0.5, std=None, per_seed=(0.5,))
