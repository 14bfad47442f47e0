"""What is labelled: a share of the windows, or whole groups; the draw, what it needs, and the usual choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Windows, label_subset, write_dataset
from mmkd_models.data.labelled import (
    A_TENTH,
    ALL,
    Labelled,
    label_option,
    labelled_from_options,
    seen_labels,
    usual_labelled,
)

Make = Callable[..., Windows]


@pytest.fixture
def train(tmp_path: Path) -> Make:
    """Gives training windows from the classes that each group has, two windows of each."""

    def make(has: Mapping[int, Sequence[int]], *, groups: bool = True) -> Windows:
        rows = [(group, label) for group, labels in has.items() for label in labels for _ in range(2)]
        values = np.zeros((len(rows), 8, 1), dtype=np.float32)
        values += np.random.default_rng(0).normal(size=values.shape)
        part = {"acc": values, "labels": np.array([label for _, label in rows])}
        judges = {"acc": values[:4] + 9, "labels": np.array([0, 0, 1, 1])}
        if groups:
            part["groups"] = np.array([group for group, _ in rows])
        other = {"groups": np.array([900] * 4)} if groups else {}
        third = {"groups": np.array([901] * 4)} if groups else {}
        dataset = write_dataset(
            tmp_path / f"{len(list(tmp_path.iterdir()))}",
            name="rig",
            labels=["a", "b", "c"],
            modalities=[ModalitySpec(name="acc", channels=("x",), rate_hz=8.0, samples=8)],
            splits={"train": part, "valid": {**judges, **other}, "test": {**judges, "acc": judges["acc"] + 9, **third}},
        )
        return dataset.split("train")

    return make


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    return str(caught.value)


def test_whole_groups_show_all_their_labels_and_others_none(train: Make) -> None:
    windows = train(dict.fromkeys(range(6), (0, 1, 2)))
    seen = seen_labels(windows, Labelled(groups=2), seed=3)
    shown = np.unique(windows.groups[seen])
    assert len(shown) == 2
    np.testing.assert_array_equal(seen, np.isin(windows.groups, shown))
    np.testing.assert_array_equal(seen, seen_labels(windows, Labelled(groups=2), seed=3))
    draws = {tuple(np.unique(windows.groups[seen_labels(windows, Labelled(groups=2), seed=one)])) for one in range(40)}
    assert len(draws) > 8  # of the 15 pairs there are


def test_a_draw_has_every_class_where_some_draw_has(train: Make) -> None:
    few = train({**dict.fromkeys(range(30), (0,)), 30: (0, 1), 31: (2,), 32: (1, 2)})
    for seed in range(5):  # class 2 and class 1: 32 with anything, or 30 and 31
        shown = set(np.unique(few.groups[seen_labels(few, Labelled(groups=2), seed=seed)]).tolist())
        assert 32 in shown or shown == {30, 31}


def test_the_only_choice_among_very_many_is_searched_for(train: Make) -> None:
    has = dict.fromkeys(range(200), (0,)) | {200: (1,), 201: (2,)}  # 1 of 6,650 draws of three, times 200
    windows = train(has)
    shown = np.unique(windows.groups[seen_labels(windows, Labelled(groups=3), seed=0)])
    assert {200, 201} <= set(shown.tolist())
    assert len(shown) == 3


def test_what_cannot_be_chosen_is_told(train: Make) -> None:
    windows = train({group: (group % 3,) for group in range(6)})
    for groups in (0, 7):
        assert message_of(lambda groups=groups: seen_labels(windows, Labelled(groups=groups), seed=0)) == (
            "labelled groups: expected 1 to 6 of the labelled groups that dataset 'rig' trains on, got "
            f"{groups}; choose another number"
        )
    assert message_of(lambda: seen_labels(windows, Labelled(groups=2), seed=0)) == (
        "labelled groups: expected 2 groups that have every class between them, got no such choice among the 6 groups "
        "that dataset 'rig' trains on; label 3 or more"
    )
    bare = train({0: (0, 1, 2)}, groups=False)
    assert message_of(lambda: seen_labels(bare, Labelled(groups=1), seed=0)) == (
        "labelled groups: expected groups in dataset 'rig', got none; write groups.npy (the person, machine or session "
        "of each window), or label a fraction of the windows (--label-fraction)"
    )


def test_a_share_is_drawn_as_it_always_was(train: Make) -> None:
    windows = train(dict.fromkeys(range(6), (0, 1, 2)))
    expected = label_subset(windows.labels, fraction=0.25, seed=7)
    np.testing.assert_array_equal(seen_labels(windows, Labelled(fraction=0.25), seed=7), expected)


def test_a_share_and_groups_exclude_each_other() -> None:
    assert message_of(lambda: labelled_from_options(0.1, 2, otherwise=ALL)) == (
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


def test_a_third_of_six_groups_or_more_is_usual_where_it_has_every_class(train: Make) -> None:
    def usual(has: Mapping[int, Sequence[int]], *, groups: bool = True) -> Labelled:
        return usual_labelled([train(has, groups=groups)])

    assert usual(dict.fromkeys(range(6), (0, 1, 2))) == Labelled(groups=2)
    assert usual(dict.fromkeys(range(13), (0, 1, 2))) == Labelled(groups=4)
    assert usual(dict.fromkeys(range(5), (0, 1, 2))) == A_TENTH
    assert usual({group: (group % 3,) for group in range(6)}) == A_TENTH  # two groups have two of three classes
    assert usual({0: (0, 1, 2)}, groups=False) == A_TENTH
