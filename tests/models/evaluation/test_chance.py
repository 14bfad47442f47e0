"""The score of chance, by hand; and when a model is better than that."""

import numpy as np
import pytest

from mmkd_edge.spec import TaskSpec
from mmkd_models.evaluation.gains import compare_with_chance, gap_recovered, guessed_figure
from mmkd_models.evaluation.outcome import GroupAnswers, TestedNetwork
from tests.models.judging_rig import class_outcome


def numbers(windows):
    """Truth and answer of every window by group."""
    return TestedNetwork(
        task=TaskSpec(kind="regression", labels=("level",), unit="mm"),
        answers=tuple(
            GroupAnswers(group=group, truth=tuple((t,) for t, _ in pairs), answers=tuple((a,) for _, a in pairs))
            for group, pairs in windows.items()
        ),
    )


LABELS = TestedNetwork(
    task=TaskSpec(kind="multi_label", labels=("a", "b")),
    answers=(GroupAnswers(group=0, truth=((1, 0), (1, 0), (1, 1), (0, 0)), answers=((9, -9),) * 4),),
)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 0.5),  # the commonest class
        ("balanced_accuracy", 1 / 3),
        # Each class equally often: precision is its share, 1/2, 1/4 and 1/4, and it finds a third of itself.
        ("macro_f1", (2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3) + 2 * (2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))) / 3),
    ],
)
def test_guessing_of_classes_is_the_better_of_the_commonest_one_and_of_all_alike(metric, expected):
    judged = class_outcome([0, 0, 0, 0, 1, 1, 2, 2], [0] * 8, [0] * 8, classes=3)
    assert guessed_figure(judged, metric) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("macro_f1", (2 * 0.75 / 1.75 + 2 * 0.25 / 1.25) / 2),  # always on: precision is the label's share
        ("mean_average_precision", (0.75 + 0.25) / 2),
        ("subset_accuracy", 0.5),  # the commonest set is a alone
    ],
)
def test_guessing_of_labels_is_the_better_of_all_on_and_of_the_commonest_set(metric, expected):
    assert guessed_figure(LABELS, metric) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mae", 10 / 3),  # the median 0 is off by 0, 0 and 10; the mean by 40/9
        ("rmse", np.std([0.0, 0.0, 10.0])),  # the mean
        ("r2", 0.0),
        ("pearson", 0.0),
    ],
)
def test_guessing_of_numbers_is_the_better_of_median_and_mean(metric, expected):
    judged = numbers({0: [(0.0, 1.0), (0.0, 2.0)], 1: [(10.0, 9.0)]})
    assert guessed_figure(judged, metric) == pytest.approx(expected)


ALTERNATE = [0, 1] * 10


@pytest.mark.parametrize(
    ("groups", "wrong", "low", "high", "is_better"),
    [
        # Ten groups, each with one window in ten wrong or none: every draw lies between 80 and 100 %.
        ([n // 2 for n in range(20)], [3, 8], 0.75, 1.0, True),
        ([n // 2 for n in range(20)], [0, 2, 4, 6, 8, 10, 11, 12, 14], 0.3, 0.8, False),
        # One person: groups alone would give an interval of no width above 50 %.
        ([0] * 20, [0, 2, 4, 6, 8, 10, 11, 12, 14], 0.3, 0.8, False),
        ([0] * 20, [3], 0.8, 1.0, True),
    ],
)
def test_a_model_is_better_than_guessing_where_its_whole_interval_is(groups, wrong, low, high, is_better):
    answers = [1 - label if number in wrong else label for number, label in enumerate(ALTERNATE)]
    found = compare_with_chance([class_outcome(ALTERNATE, answers, groups)], "accuracy")
    assert found.figure == 0.5
    assert low <= found.low <= found.high <= high
    assert found.is_better == is_better


def test_errors_seeds_and_gaps_count_the_way_that_is_better():
    near = numbers({group: [(0.0, 1.0), (10.0, 9.0)] for group in range(6)})
    found = compare_with_chance([near], "mae")
    assert (found.figure, found.low, found.high, found.is_better) == (5.0, 1.0, 1.0, True)
    far = numbers({group: [(0.0, 5.0 + group), (10.0, 5.0)] for group in range(6)})
    assert not compare_with_chance([far], "mae").is_better
    right, half = class_outcome([0, 1], [0, 1], [0, 1]), class_outcome([0, 1, 0, 1], [0, 1, 1, 0], [2, 2, 3, 3])
    found = compare_with_chance([right, half], "accuracy")
    assert found.figure == 0.5
    assert found.low <= 0.75 <= found.high

    def off(errors):
        return numbers({group: [(0.0, error)] for group, error in enumerate(errors)})

    assert gap_recovered([off([6] * 5)], [off([10] * 5)], [off([2] * 5)], "mae") == pytest.approx(0.5)
    # In one of eleven draws of five four or more are the groups of 12.
    assert gap_recovered([off([6] * 5)], [off([10] * 5)], [off([12, 12, 2, 2, 2])], "mae") is None


def test_few_windows_of_random_numbers_are_not_better_than_guessing():
    """Of 200 models that toss a coin for 20 windows, about one in forty may look better."""
    rng = np.random.default_rng(0)
    better = sum(
        compare_with_chance(
            [class_outcome(ALTERNATE, rng.integers(0, 2, 20).tolist(), range(20))], "accuracy"
        ).is_better
        for _ in range(200)
    )
    assert better <= 10


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_a_model_that_always_gives_one_answer_is_never_better_than_guessing(metric):
    judged = class_outcome([0, 1, 2] * 7, [1] * 21, [n // 3 for n in range(21)], classes=3)
    assert not compare_with_chance([judged] * 3, metric).is_better


def by_right(rights, windows=10):
    """A group of ten windows for each count of right answers."""
    truth = [0] * (windows * len(rights))
    answers = [int(number >= right) for right in rights for number in range(windows)]
    return class_outcome(truth, answers, [group for group in range(len(rights)) for _ in range(windows)])


@pytest.mark.parametrize(
    ("baseline", "teacher", "student", "expected"),
    [
        ([5] * 5, [9, 7, 8, 8, 8], [6] * 5, 1 / 3),
        ([5] * 5, [9, 5, 5, 5, 5], [6] * 5, None),  # a third of the draws have no gap at all
        ([5] * 5, [9, 4, 4, 4, 4], [6] * 5, None),
        ([5] * 5, [4] * 5, [6] * 5, None),
        ([5] * 4, [9] * 4, [6] * 4, None),  # of four groups there is no interval
    ],
)
def test_the_gap_is_told_where_it_is_larger_than_its_uncertainty(baseline, teacher, student, expected):
    found = gap_recovered([by_right(student)], [by_right(baseline)], [by_right(teacher)], "accuracy")
    assert found == (None if expected is None else pytest.approx(expected))
