"""Spreads over seeds, and the gain of distillation against plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.evaluation.gains import spread
from mmkd_models.experiments.comparison import FoldResult
from mmkd_models.experiments.summary import gain_over_folds
from mmkd_models.metrics.scores import measure_named
from mmkd_report.schema.figures import Spread

MakeFold = Callable[..., FoldResult]
WINDOWS = {10: 8, 11: 4, 12: 20}
NAMES = ("acc", "gyro")
counts = st.tuples(*(st.integers(0, size) for size in WINDOWS.values()))
results = st.lists(st.tuples(counts, counts, counts, counts), min_size=1, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def _intervals_of_few_groups() -> Iterator[None]:
    """Few groups can be counted by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 1)
        yield


def fold_of(make: MakeFold, seed: int, rights: Sequence[Sequence[int]]) -> FoldResult:
    """A fold with groups of its own: right answers of student and baseline for acc, then for gyro."""
    groups = [100 * seed + group for group in WINDOWS]
    windows = dict(zip(groups, WINDOWS.values(), strict=True))
    acc_student, acc_baseline, gyro_student, gyro_baseline = (dict(zip(groups, r, strict=True)) for r in rights)
    students = {"acc": (acc_student, acc_baseline), "gyro": (gyro_student, gyro_baseline)}
    return make(seed=seed, windows=windows, teacher=windows, students=students)


def folds_of(make: MakeFold, drawn: Sequence[Sequence[Sequence[int]]]) -> list[FoldResult]:
    return [fold_of(make, seed, rights) for seed, rights in enumerate(drawn)]


def gain_points(folds: Sequence[FoldResult], names: Sequence[str], *, seed: int = 0) -> tuple[float, float, float]:
    gain = gain_over_folds(folds, names, measure_named("accuracy"), seed=seed)
    assert gain.mean is not None
    assert gain.low is not None
    assert gain.high is not None
    return gain.mean, gain.low, gain.high


def accuracy_points(folds: Sequence[FoldResult], names: Sequence[str]) -> float:
    """Mean over folds and modalities of the difference of accuracies."""
    differences = [
        100
        * (
            fold.students[name].student.test.scores.metric("accuracy")
            - fold.students[name].baseline.test.scores.metric("accuracy")
        )
        for fold in folds
        for name in names
    ]
    return sum(differences) / len(differences)


def every_draw(folds: Sequence[FoldResult], names: Sequence[str]) -> list[float]:
    """The gain of every equally likely way to draw as many groups as there are, with replacement, by plain loops."""
    groups = sorted({count.group for fold in folds for count in fold.students[names[0]].student.test.confusions or ()})
    points = []
    for draw in itertools.product(groups, repeat=len(groups)):
        of_folds = []
        for fold in folds:
            more = size = 0
            for name in names:
                of_sensor = fold.students[name]
                pairs = zip(of_sensor.student.test.by_group, of_sensor.baseline.test.by_group, strict=True)
                for ours, theirs in pairs:
                    more += draw.count(ours.group) * (np.trace(ours.confusion) - np.trace(theirs.confusion))
                    size += draw.count(ours.group) * np.sum(ours.confusion)
            if size:
                of_folds.append(100 * more / size)
        points.append(sum(of_folds) / len(of_folds))
    return points


@settings(max_examples=8, deadline=None, derandomize=True)
@given(drawn=results)
def test_the_mean_gain_is_the_mean_difference_of_accuracies(
    fold_result: MakeFold, drawn: Sequence[Sequence[Sequence[int]]]
) -> None:
    folds = folds_of(fold_result, drawn)
    for names in (("acc",), ("gyro",), NAMES):
        mean, low, high = gain_points(folds, names)
        assert mean == pytest.approx(accuracy_points(folds, names), abs=1e-9)
    assert low - 1e-9 <= mean <= high + 1e-9  # of both together


def test_the_interval_is_that_of_all_ways_to_draw_the_groups(fold_result: MakeFold) -> None:
    folds = folds_of(
        fold_result, [((8, 4, 15), (2, 3, 9), (5, 4, 10), (5, 0, 2)), ((1, 1, 19), (2, 0, 8), *2 * ((0,) * 3,))]
    )
    low, high = np.quantile(every_draw(folds, NAMES), [0.025, 0.975])
    _, found_low, found_high = gain_points(folds, NAMES)
    # 4,000 draws: the share below a quantile has a standard error of sqrt(0.025 * 0.975 / 4000) = 0.25 %, which is
    # half a point of accuracy where the draws are thin.
    assert found_low == pytest.approx(low, abs=1.0)
    assert found_high == pytest.approx(high, abs=1.0)


def test_a_group_that_gains_everywhere_and_one_that_does_not_make_a_wide_interval(fold_result: MakeFold) -> None:
    fold = fold_result(
        seed=0, windows={1: 10, 2: 10}, teacher={1: 10, 2: 10}, students={"acc": ({1: 9, 2: 5}, {1: 4, 2: 5})}
    )
    assert gain_points([fold], ("acc",)) == pytest.approx((25.0, 0.0, 50.0))


def test_both_modalities_of_a_group_are_drawn_together(fold_result: MakeFold) -> None:
    # What acc gains gyro loses, in every group: drawn together nothing is left, drawn apart there would be an interval.
    acc, gyro = ({1: 9, 2: 4}, {1: 4, 2: 5}), ({1: 4, 2: 5}, {1: 9, 2: 4})
    fold = fold_result(seed=0, windows={1: 10, 2: 10}, teacher={1: 1, 2: 1}, students={"acc": acc, "gyro": gyro})
    assert gain_points([fold], NAMES) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert gain_points([fold], ("acc",)) == pytest.approx((20.0, -10.0, 50.0))


def test_a_spread_is_the_mean_and_the_sample_standard_deviation() -> None:
    found = spread([0.5, 0.75, 1.0])
    assert (found.mean, found.std, found.per_seed) == (0.75, 0.25, (0.5, 0.75, 1.0))  # ddof 0 would give 0.204
    assert spread([0.5]) == Spread(mean=0.5, std=None, per_seed=(0.5,))
