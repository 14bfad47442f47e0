"""Folds over whole groups, domains that are left out, windows that share samples, and the labels that training sees."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import check_dataset, fold_indices, label_subset, open_dataset, shipped_dataset, write_dataset
from mmkd_models.data.checking.related import find_overlaps, refuse_shared_samples
from mmkd_models.data.folds import (
    A_TENTH,
    ALL,
    Labelled,
    LeftOutDomains,
    check_seeds,
    choose_labels,
    find_domains,
    fold_count,
    fold_without,
    label_option,
    labelled_from_options,
    part_of_windows,
    shared_groups,
    usual_labelled,
)
from mmkd_models.data.labels import block_length
from tests.edge.said import said


@pytest.fixture
def bare(splits, write):
    """24, 12 and 12 windows of noise, without groups."""
    return write(
        {split: {name: a for name, a in arrays.items() if name != "groups"} for split, arrays in splits.items()}
    )


def cut(count, *, hop, seed):
    """Windows of 20 samples cut from one recording of noise, one every `hop` samples, without groups."""
    recording = np.random.default_rng(seed).normal(size=(20 + hop * (count - 1), 3)).astype(np.float32)
    vib = np.stack([recording[start : start + 20] for start in range(0, hop * count, hop)])
    return {"vib": vib, "temp": np.zeros((count, 5, 1), np.float32), "labels": np.arange(count) % 3}


def test_without_groups_the_own_split_is_the_only_fold(bare):
    windows = bare.everything()
    fold = fold_indices(windows, fold=0, seed=7)
    np.testing.assert_array_equal(fold.train, np.arange(24))
    np.testing.assert_array_equal(fold.valid, np.arange(24, 36))
    np.testing.assert_array_equal(fold.test, np.arange(36, 48))
    assert fold_count(windows) == 1
    ask = (
        "to have more, write groups.npy (the person, machine or session of each window), or set split.group in its"
        " recipe"
    )
    why = f"dataset 'rig' has no groups, so that its own split is its only fold; {ask}"
    assert said(UsageError, fold_indices, windows, fold=1, seed=0) == f"fold 1: expected 0, since {why}"
    assert said(UsageError, check_seeds, windows, 2) == (
        f"--seeds 2: expected 1 at most, since each judges on another fold and {why}"
    )


def test_a_fold_that_there_is_not_is_refused_and_never_counts_round(rig):
    windows = rig.everything()
    assert said(UsageError, fold_indices, windows, fold=9, seed=0) == (
        "fold 9: expected 0 to 4, since dataset 'rig' has 5 folds; choose among them"
    )
    assert said(UsageError, fold_indices, windows, fold=-1, seed=0).startswith("fold -1: expected 0 to 4")
    assert said(UsageError, check_seeds, windows, 6) == (
        "--seeds 6: expected 5 at most, since each judges on another fold and dataset 'rig' has 5 folds; "
        "choose among them"
    )
    few = windows.subset(windows.groups < 4)
    assert fold_count(few) == 4
    assert said(UsageError, fold_indices, few, fold=4, seed=0).startswith("fold 4: expected 0 to 3, ")


@pytest.mark.parametrize(("count", "length"), [(1, 1), (2, 2), (8, 6), (64, 11), (1000, 28)])
def test_blocks_are_as_long_as_carlstein_says(count, length):
    assert block_length(count) == length  # 2.703 times 1, 1.26, 2, 4 and 10, rounded up; never more than there are


def test_overlap_across_splits_is_a_leak(write, tmp_path):
    whole = cut(27, hop=10, seed=0)
    order = np.random.default_rng(0).permutation(27)
    dealt = {
        split: {name: array[rows] for name, array in whole.items()}
        for split, rows in zip(("train", "valid", "test"), np.split(order, [15, 21]), strict=True)
    }
    found = said(DatasetError, write, dealt)
    place = {
        int(row): f"{split} window {n}"
        for split, rows in zip(dealt, np.split(order, [15, 21]), strict=True)
        for n, row in enumerate(rows)
    }
    pairs = [(row, row + 1) for row in order.tolist() if row < 26]
    leaks = [(a, b) for a, b in pairs if place[a].split()[0] != place[b].split()[0]]
    assert found == (
        f"dataset {tmp_path / 'rig'}: the last 10 samples of {place[leaks[0][0]]} are the first of "
        f"{place[leaks[0][1]]} in 'vib' ({len(leaks)} such in all); splits must not share samples; write "
        "groups.npy (the person, machine or session of each window), or set split.group in its recipe,"
        " so that whole groups are in one of the splits"
    )


def test_groups_that_share_samples_are_told_of_and_never_dealt_apart(splits, write, caplog):
    splits["train"]["vib"][6, :10] = splits["train"]["vib"][5, 10:]  # groups 1 and 0
    with caplog.at_level(logging.WARNING):
        rig = write(splits)
    told = (
        "groups 0 and 1 share samples: the last 10 samples of train window 5 are the first of train window 6 in 'vib' "
        "(1 such in all); give such windows one group"
    )
    assert [record.message for record in caplog.records] == [f"warning: dataset 'rig': {told}"]
    assert [finding.text for finding in check_dataset(rig.path).findings] == [told]
    assert said(DatasetError, refuse_shared_samples, rig.everything()) == f"dataset 'rig': {told}"


def test_related_windows_without_groups_are_asked_for_them(write, caplog):
    parts = {split: cut(9, hop=10, seed=seed) for seed, split in enumerate(("train", "valid", "test"))}
    with caplog.at_level(logging.WARNING):
        rig = write(parts)
    told = (
        "no groups, but 100% of the windows share samples with others, so that scores may be of groups "
        "that trained; write groups.npy (the person, machine or session of each window)"
        ", or set split.group in its recipe"
    )
    assert [record.message for record in caplog.records] == [f"warning: dataset 'rig': {told}"]
    assert told in [finding.text for finding in check_dataset(rig.path).findings]
    refuse_shared_samples(rig.everything())  # no split and no fold tears them apart
    train = rig.split("train")  # blocks of 6 and 3 windows, the sixth and the seventh share samples
    assert said(UsageError, part_of_windows, train, parts=2, seed=0) == (
        "dataset 'rig': expected training windows that parts do not tear apart, got windows of two parts that share "
        "samples (1 such in all); write groups.npy (the person, machine or session of each window)"
        ", or set split.group in its recipe"
    )


def test_equal_slopes_and_silence_are_no_overlap(write):
    parts = {}
    for number, split in enumerate(("train", "valid", "test")):
        ramps = (np.arange(9)[:, None, None] + np.arange(20)[None, :, None] + np.zeros(3)).astype(np.float32)
        ramps[:3] = 0.5
        parts[split] = {
            "vib": ramps + 0.25 * number * (ramps != 0.5),
            "temp": np.zeros((9, 5, 1)),
            "labels": np.arange(9) % 3,
        }
    parts["train"]["vib"][:, :, 0] += np.arange(9)[:, None]  # no window is a copy of another
    assert len(find_overlaps(write(parts).everything()).first) == 0


def test_names_and_numbers_do_not_mix_and_none_is_empty(splits, write, tmp_path):
    names = [f"m{group}" for group in splits["test"]["groups"]]
    mixed = {**splits, "test": {**splits["test"], "groups": names}}
    assert said(DatasetError, write, mixed) == (
        f"dataset {tmp_path / 'rig'}: groups: expected one kind in all splits, text or numbers, got several; convert it"
    )
    names = ["", "高橋", "Ana", "press 3", "Łucja", "d", "e", "f"]
    empty = {part: {**of, "groups": [names[group] for group in of["groups"]]} for part, of in splits.items()}
    assert said(DatasetError, write, empty) == (
        f"dataset {tmp_path / 'rig'}: groups: expected a name for every window, got an empty one; name the person, "
        "machine or session"
    )


@pytest.fixture
def train(tmp_path):
    """Gives training windows from the classes that each group has, two windows of each."""

    def make(has, *, groups=True):
        rows = [(group, label) for group, labels in has.items() for label in labels for _ in range(2)]
        values = np.random.default_rng(0).normal(size=(len(rows), 8, 1)).astype(np.float32)
        parts = {"train": {"acc": values, "labels": [label for _, label in rows], "groups": [of for of, _ in rows]}}
        for number, split in enumerate(("valid", "test")):
            parts[split] = {"acc": values[:4] + 9 + 9 * number, "labels": [0, 0, 1, 1], "groups": [900 + number] * 4}
        if not groups:
            parts = {split: {"acc": part["acc"], "labels": part["labels"]} for split, part in parts.items()}
        acc = ModalitySpec(name="acc", channels=("x",), rate_hz=8.0, samples=8)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return write_dataset(path, name="rig", labels=["a", "b", "c"], modalities=[acc], splits=parts).split("train")

    return make


def test_whole_groups_show_all_their_labels_and_others_none(train):
    windows = train(dict.fromkeys(range(6), (0, 1, 2)))
    seen = choose_labels(windows, Labelled(groups=2), seed=3)
    shown = np.unique(windows.groups[seen])
    assert len(shown) == 2
    np.testing.assert_array_equal(seen, np.isin(windows.groups, shown))
    np.testing.assert_array_equal(seen, choose_labels(windows, Labelled(groups=2), seed=3))
    draws = {tuple(np.unique(windows.groups[choose_labels(windows, Labelled(groups=2), seed=k)])) for k in range(40)}
    assert len(draws) > 8  # of the 15 pairs there are


def test_a_draw_has_every_class_where_some_draw_has(train):
    few = train({**dict.fromkeys(range(30), (0,)), 30: (0, 1), 31: (2,), 32: (1, 2)})
    for seed in range(5):  # class 2 and class 1: 32 with anything, or 30 and 31
        shown = set(np.unique(few.groups[choose_labels(few, Labelled(groups=2), seed=seed)]).tolist())
        assert 32 in shown or shown == {30, 31}


def test_the_only_choice_among_very_many_is_searched_for(train):
    has = dict.fromkeys(range(200), (0,)) | {200: (1,), 201: (2,)}  # 1 of 6,650 draws of three, times 200
    windows = train(has)
    shown = np.unique(windows.groups[choose_labels(windows, Labelled(groups=3), seed=0)])
    assert {200, 201} <= set(shown.tolist())
    assert len(shown) == 3


def test_what_cannot_be_chosen_is_told(train):
    windows = train({group: (group % 3,) for group in range(6)})
    for groups in (0, 7):
        assert said(UsageError, choose_labels, windows, Labelled(groups=groups), seed=0) == (
            "labelled groups: expected 1 to 6 of the labelled groups that dataset 'rig' trains on, got "
            f"{groups}; choose another number"
        )
    assert said(UsageError, choose_labels, windows, Labelled(groups=2), seed=0) == (
        "labelled groups: expected 2 groups that have every class between them, got no such choice among the 6 groups "
        "that dataset 'rig' trains on; label 3 or more"
    )
    bare = train({0: (0, 1, 2)}, groups=False)
    assert said(UsageError, choose_labels, bare, Labelled(groups=1), seed=0) == (
        "labelled groups: expected groups in dataset 'rig', got none; write groups.npy (the person, machine or session "
        "of each window), or set split.group in its recipe, or label a fraction of the windows (--label-fraction)"
    )


def test_a_share_and_groups_exclude_each_other():
    assert said(UsageError, labelled_from_options, 0.1, 2, otherwise=ALL) == (
        "--labelled-groups 2: cannot be combined with --label-fraction 0.1; leave one of them out"
    )
    assert labelled_from_options(None, 2, otherwise=ALL) == Labelled(groups=2)
    assert labelled_from_options(0.5, None, otherwise=ALL) == Labelled(fraction=0.5)
    assert labelled_from_options(None, None, otherwise=A_TENTH) == A_TENTH
    assert [label_option(one) for one in (ALL, A_TENTH, Labelled(groups=2))] == [
        "",
        "--label-fraction 0.1",
        "--labelled-groups 2",
    ]


def test_a_third_of_six_groups_or_more_is_usual_where_it_has_every_class(train):
    def usual(has, *, groups=True):
        return usual_labelled([train(has, groups=groups)])

    assert usual(dict.fromkeys(range(6), (0, 1, 2))) == Labelled(groups=2)
    assert usual(dict.fromkeys(range(13), (0, 1, 2))) == Labelled(groups=4)
    assert usual(dict.fromkeys(range(5), (0, 1, 2))) == A_TENTH
    assert usual({group: (group % 3,) for group in range(6)}) == A_TENTH  # two groups have two of three classes
    assert usual({0: (0, 1, 2)}, groups=False) == A_TENTH


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
    tested = np.concatenate([fold_indices(windows, fold=fold, seed=3, folds=4).test for fold in range(4)])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(windows)))  # each once


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


def test_unlabelled_windows_are_trained_on_and_never_judged(rig):
    labels = rig.everything().labels.copy()
    labels[::5] = -1
    fold = fold_indices(rig.everything().with_labels(labels), fold=0, seed=0, folds=4)
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


SITE = LeftOutDomains(by="site")


@pytest.fixture
def windows(sites):
    return sites.everything()


def twice(windows):
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

    def gather(self, modality, rows, *, shift_s):
        channels = len(modality.channels)
        flat = np.random.default_rng(3).normal(size=(200 * modality.samples, channels)).astype(np.float32)
        machine, number = np.divmod(np.asarray(rows), 10)
        starts = machine * 10 * modality.samples + number * modality.samples // 2
        return np.stack([flat[start : start + modality.samples] for start in starts])


def test_domains_that_cannot_be_left_out_are_refused(windows):
    assert said(UsageError, find_domains, windows, "single") == (
        "--by single: expected two domains or more, of which one is left out at a time, got 1 in dataset 'sites'; name "
        "other metadata"
    )
    assert said(UsageError, find_domains, windows, "group") == (
        "--by group: expected 20 labelled windows or more of every domain, got 10 of group 5; record more, or write "
        "metadata that pools domains"
    )
    assert said(UsageError, find_domains, replace(windows, has_groups=False), "group") == (
        "--suite shift: dataset 'sites' has no groups; write groups.npy (the person, machine or session of each "
        "window), or set split.group in its recipe, or name metadata with --by"
    )


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
