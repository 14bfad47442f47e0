from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_models.data import fold_indices, label_subset, open_dataset, shipped_dataset


@pytest.fixture(scope="module")
def watch():
    return open_dataset(shipped_dataset()).everything()


def test_folds_are_those_of_the_dataset_or_dealt_by_the_seed(watch):
    fold = fold_indices(watch, fold=4, seed=9)
    assert set(watch.folds[fold.test]) == {4}
    assert set(watch.folds[fold.valid]) == {0}
    assert set(watch.folds[fold.train]) == {1, 2, 3}
    windows = replace(watch, folds=None)
    first = fold_indices(windows, fold=0, seed=1).test
    np.testing.assert_array_equal(first, fold_indices(windows, fold=0, seed=1).test)
    tests = {tuple(np.unique(windows.groups[fold_indices(windows, fold=0, seed=seed).test])) for seed in range(6)}
    assert len(tests) > 2


@settings(max_examples=15, deadline=None)
@given(fold=st.integers(0, 4), seed=st.integers(0, 1000))
def test_dealt_folds_are_disjoint_whole_and_share_no_group(watch, fold, seed):
    windows = replace(watch, folds=None)
    found = fold_indices(windows, fold=fold, seed=seed)
    parts = [found.train, found.valid, found.test]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(windows)))
    groups = [set(windows.groups[part]) for part in parts]
    assert sum(len(group) for group in groups) == len(set.union(*groups))
    assert [len(group) for group in groups] == [6, 2, 2]  # ten people of nearly equal size
    assert all(set(windows.labels[part]) == set(range(7)) for part in parts)


def test_every_window_is_tested_once_over_all_folds(watch):
    windows = replace(watch, folds=None)
    tested = np.concatenate([fold_indices(windows, fold=fold, seed=3, folds=4).test for fold in range(4)])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(windows)))


def test_unlabelled_windows_are_trained_on_and_never_judged(rig):
    labels = rig.everything().labels.copy()
    labels[::5] = -1
    windows = rig.everything().with_labels(labels)
    fold = fold_indices(windows, fold=0, seed=0, folds=4)
    assert (labels[fold.valid] >= 0).all()
    assert (labels[fold.test] >= 0).all()
    assert (labels[fold.train] == -1).any()


def test_too_few_groups_or_folds_say_how_many_there_are(refusal, rig):
    windows = rig.everything()
    few = windows.subset(np.flatnonzero(windows.groups < 2))
    expected = (
        "dataset 'rig': expected 3 folds or more (train, valid, test), got 2; record more groups or choose more folds"
    )
    assert refusal(UsageError, fold_indices, few, fold=0, seed=0) == expected
    assert refusal(UsageError, fold_indices, windows, fold=0, seed=0, folds=2) == expected


def test_a_fold_without_a_labelled_window_to_judge_with_is_refused(refusal, rig):
    labels = np.where(rig.everything().groups < 2, -1, rig.everything().labels)
    windows = replace(rig.everything().with_labels(labels), folds=rig.everything().groups // 2)
    assert refusal(UsageError, fold_indices, windows, fold=0, seed=0) == (
        "dataset 'rig': fold 0: expected labelled windows to choose by and to judge with, got 12 and 0;"
        " label some in every group, or deal the folds otherwise"
    )
    assert "got 0 and 12;" in refusal(UsageError, fold_indices, windows, fold=3, seed=0)
    assert len(fold_indices(windows, fold=1, seed=0).test) == 12


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=80),
    fractions=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)),
    seed=st.integers(0, 1000),
)
def test_a_smaller_fraction_is_part_of_a_larger_one(labels, fractions, seed):
    array = np.array(labels)
    small, large = (label_subset(array, fraction=fraction, seed=seed) for fraction in sorted(fractions))
    assert not (small & ~large).any()
    np.testing.assert_array_equal(small, label_subset(array, fraction=min(fractions), seed=seed))
    assert set(array[small]) == set(array[array >= 0])


@pytest.mark.parametrize("fraction", [0, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(refusal, fraction):
    assert refusal(UsageError, label_subset, np.zeros(3, dtype=np.int64), fraction=fraction, seed=0) == (
        f"label fraction: expected above 0 and up to 1, got {fraction}; 0.1 keeps a tenth of the labels"
    )
