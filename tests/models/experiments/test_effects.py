"""Gains paired by seed, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.evaluation.gains import gain_over_seeds
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork, metric_of_confusions
from mmkd_models.metrics.scores import Metric, scores_from_answers

METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")


def result(answers: dict[int, tuple[list[int], list[int]]], classes: int = 2) -> TestedNetwork:
    """From (truth, answers) by group."""
    truth = np.array([label for labels, _ in answers.values() for label in labels])
    given_answers = np.array([label for _, labels in answers.values() for label in labels])
    return TestedNetwork(
        class_scores=scores_from_answers(truth, given_answers, classes),
        confusions=tuple(
            GroupConfusion(
                group=group, confusion=scores_from_answers(np.array(labels), np.array(said), classes).confusion
            )
            for group, (labels, said) in answers.items()
        ),
    )


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    metric=st.sampled_from(METRICS),
)
def test_a_metric_of_confusions_is_that_of_the_answers(pairs: list[tuple[int, int]], metric: Metric) -> None:
    truth, answers = (np.array(column) for column in zip(*pairs, strict=True))
    scores = scores_from_answers(truth, answers, 4)
    found = metric_of_confusions(np.array([scores.confusion], dtype=float), metric)
    assert found[0] == pytest.approx(scores.metric(metric), abs=1e-12)


def test_an_empty_confusion_has_no_metric() -> None:
    assert all(np.isnan(metric_of_confusions(np.zeros((1, 2, 2)), metric)[0]) for metric in METRICS)


def test_a_gain_is_the_mean_of_the_differences_of_the_seeds() -> None:
    right, half = result({7: ([0, 1], [0, 1])}), result({7: ([0, 1], [0, 0])})
    found = gain_over_seeds([right, right], [half, right], "accuracy")
    assert found.per_seed == (50.0, 0.0)
    assert found.mean == 25.0
    assert found.std == pytest.approx(35.355, abs=1e-3)


def test_below_five_groups_there_is_no_interval() -> None:
    def both(groups: int) -> tuple[TestedNetwork, TestedNetwork]:
        truth = range(groups)
        return result({one: ([0, 1], [0, 1]) for one in truth}), result({one: ([0, 1], [0, 0]) for one in truth})

    for groups, interval in ((4, (None, None)), (5, (50.0, 50.0))):
        right, half = both(groups)
        found = gain_over_seeds([right], [half], "balanced_accuracy")
        assert (found.mean, found.std, found.low, found.high) == (50.0, None, *interval)


@pytest.fixture
def any_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of as few groups as can be reckoned by hand."""
    monkeypatch.setattr("mmkd_models.evaluation.gains.FEWEST_GROUPS", 1)


@pytest.mark.usefixtures("any_groups")
def test_the_interval_resamples_whole_groups() -> None:
    ours = result({1: ([0, 1], [0, 1]), 2: ([0, 1], [0, 1])})
    theirs = result({1: ([0, 1], [0, 1]), 2: ([0, 1], [1, 0])})
    found = gain_over_seeds([ours], [theirs], "accuracy")
    # Draws of two groups out of two: 1+1 gains 0, 1+2 gains 50, 2+2 gains 100 points.
    assert (found.mean, found.low, found.high) == (50.0, 0.0, 100.0)


@pytest.mark.usefixtures("any_groups")
def test_equal_networks_gain_nothing() -> None:
    one = result({1: ([0, 1, 1], [0, 1, 0]), 2: ([0, 1], [1, 1])})
    for metric in METRICS:
        found = gain_over_seeds([one, one], [one, one], metric)
        assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.usefixtures("any_groups")
def test_seeds_with_other_groups_count_where_they_are_drawn() -> None:
    ours = [result({1: ([0, 1], [0, 1])}), result({2: ([0, 1], [0, 1])})]
    theirs = [result({1: ([0, 1], [0, 0])}), result({2: ([0, 1], [0, 0])})]
    found = gain_over_seeds(ours, theirs, "accuracy")
    assert (found.mean, found.low, found.high) == (50.0, 50.0, 50.0)
