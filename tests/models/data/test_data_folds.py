"""Folds of a dataset, and domains that are left out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_models.data import fold_indices, label_subset, open_dataset, shipped_dataset
from mmkd_models.data.folds import LeftOutDomains, find_domains, fold_without, shared_groups


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


SITE = LeftOutDomains(by="site")


@pytest.fixture
def windows(sites):
    return sites.everything()


def twice(windows):
    """Each of the 150 windows twice."""
    return windows.subset(np.concatenate([np.arange(150), np.arange(150)]))


def test_a_domain_judges_and_unseen_groups_of_the_others_choose(windows):
    site = windows.metadata["site"]
    for number, name in enumerate(("east", "north", "south")):
        fold = fold_without(windows, SITE, fold=number)
        assert set(site[fold.test]) == {name}
        assert len(fold.test) == 50
        assert name not in set(site[np.concatenate([fold.train, fold.valid])])
        assert len(fold.train) + len(fold.valid) == 100
        assert len(fold.valid) == 20  # a fifth of ten machines
        assert set(windows.groups[fold.train]).isdisjoint(windows.groups[fold.valid])
        assert shared_groups(windows, fold) == 0


def test_more_than_ten_domains_are_pooled_into_ten_numbers_by_their_order(windows):
    double = twice(windows)  # 15 machines of 20 windows
    found = find_domains(double, "group")
    assert len(found.names) == 10
    for machine in range(15):
        assert len(set(found.numbers[double.groups == machine])) == 1
    assert np.bincount(found.numbers).min() == 20
    assert sum("," in name for name in found.names) == 5  # two machines each
    load = np.repeat(np.arange(30) / 4, 10)  # 30 loads of 10 windows
    found = find_domains(replace(double, metadata={"load": load}), "load")
    assert found.names[:2] == ("0 to 0.5", "0.75 to 1.25")
    assert np.bincount(found.numbers).tolist() == [30] * 10
    assert (np.diff(found.numbers) >= 0).all()


def test_unlabelled_windows_and_those_of_no_known_domain_have_no_part(windows):
    thrice = windows.subset(np.tile(np.arange(150), 3))
    lost = np.arange(450) % 10 == 4
    site = np.where(lost, "", thrice.metadata["site"])
    load = np.where(lost, np.nan, np.where(thrice.groups % 2, 0.5, 1.0))
    metadata = {"site": site, "load": load}
    for by, names in (("site", ("east", "north", "south")), ("load", ("0.5", "1.0"))):
        lacking = replace(thrice, metadata=metadata)
        found = find_domains(lacking, by)
        assert found.names == names
        assert ((found.numbers == -1) == lost).all()
        fold = fold_without(lacking, LeftOutDomains(by=by), fold=1)
        assert not lost[np.concatenate([fold.train, fold.valid, fold.test])].any()
    double = replace(twice(windows), has_groups=False)  # so that the dataset's own validation windows choose
    labels = double.labels.copy()
    labels[fold_without(double, SITE, fold=0).train[10:]] = -1
    with pytest.raises(UsageError, match="got 10 to train on; record longer"):
        fold_without(double.with_labels(labels), SITE, fold=0)


def test_a_group_in_two_domains_is_counted_and_what_shares_samples_does_not_train(windows):
    site = windows.metadata["site"].copy()
    mine = np.flatnonzero(windows.groups == 0)  # of one site
    other = "south" if site[mine[0]] != "south" else "north"
    site[mine[:5]] = other
    split = replace(windows, metadata={"site": site})
    number = sorted(set(site)).index(other)
    fold = fold_without(split, SITE, fold=number)
    assert shared_groups(split, fold) == 1
    assert set(mine[5:]) <= set(fold.train) | set(fold.valid)
    overlapping = replace(split, source=Sliding(), spec=split.spec)
    dropped = fold_without(overlapping, SITE, fold=number)
    assert set(mine[5:]) - set(dropped.train) - set(dropped.valid) == {mine[5]}


class Sliding:
    """A recording of each machine, of which windows that follow one another share half."""

    max_shift_s = 0.0

    def gather(
        self,
        modality,
        rows,
        *,
        shift_s,  # type: ignore[type-arg]
    ):  # type: ignore[type-arg]
        channels = len(modality.channels)
        flat = np.random.default_rng(3).normal(size=(200 * modality.samples, channels)).astype(np.float32)
        machine, number = np.divmod(np.asarray(rows), 10)
        starts = machine * 10 * modality.samples + number * modality.samples // 2
        return np.stack([flat[start : start + modality.samples] for start in starts])


@pytest.mark.parametrize(
    ("change", "by", "message"),
    [
        ({}, "plant", "--by plant: dataset 'sites' has no such metadata; choose one of group, site, single"),
        (
            {},
            "single",
            (
                "--by single: expected two domains or more, of which one is left out at a time, got 1 in dataset "
                "'sites'; name other metadata"
            ),
        ),
        (
            {},
            "group",
            (
                "--by group: expected 20 labelled windows or more of every domain, got 10 of group 5; record more, or "
                "write metadata that pools domains"
            ),
        ),
        (
            {"has_groups": False},
            "group",
            (
                "--suite shift: dataset 'sites' has no groups; write groups.npy (the person, machine or session of "
                "each window), or name metadata with --by"
            ),
        ),
    ],
)
def test_domains_that_cannot_be_left_out_are_refused(refusal, windows, change, by, message):
    assert refusal(UsageError, find_domains, replace(windows, **change), by) == message


def test_what_leaves_too_little_is_refused(refusal, windows):
    labels = np.where((windows.labels == 2) & (windows.metadata["site"] != "east"), 0, windows.labels)
    assert refusal(UsageError, fold_without, windows.with_labels(labels), SITE, fold=0) == (
        "--by site: without east: expected labelled windows of every class to train on, got none of worn; record it "
        "elsewhere too, or name other metadata"
    )
    one = np.where(windows.metadata["site"] == "east", 0, 1)
    assert refusal(UsageError, fold_without, replace(windows, groups=one), SITE, fold=0) == (
        "--by site: expected windows of two groups or more without east, one to train on and one to choose by, got 1; "
        "record more groups"
    )
    alone = replace(windows, has_groups=False, splits=np.zeros(150, dtype=np.int64))  # nothing chooses
    assert refusal(UsageError, fold_without, alone, SITE, fold=0) == (
        "--by site: without east: expected 20 labelled windows or more to train on, to choose by and to judge with, "
        "got 0 to choose by; record longer"
    )
