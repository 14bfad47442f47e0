"""What the proof of commissioning adapts to, and how it counts what that was worth."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_models.adapt.domains import FEWEST
from mmkd_models.data import Dataset, open_dataset
from mmkd_models.training.inputs import TrainingData
from proofs.commissioning import FoldFound, NewGroup, _kept_name, _new_groups, _tables, halves_of, parts_of
from proofs.taught import _grown_teacher, without_first


def group(name: str, *, amount: float, passed: str | None, teacher: list[int]) -> NewGroup:
    before = [0, 0, 0, 0]
    answers = {
        "before": before,
        "statistics": before,
        "own answers": before,
        "teacher": teacher,
        "oracle": [0, 0, 1, 1],
    }
    return NewGroup(
        group=name, amount=amount, windows=int(40 * amount), truth=[0, 0, 1, 1], answers=answers, passed=passed
    )


FOLD = FoldFound(
    dataset="d",
    sensor="acc",
    kind="rocket",
    seed=0,
    groups=[
        group("1", amount=1.0, passed="teacher", teacher=[0, 0, 1, 1]),
        group("1", amount=0.5, passed=None, teacher=[0, 0, 0, 1]),
        group("2", amount=1.0, passed=None, teacher=[1, 1, 0, 0]),
    ],
)


def test_gains_are_those_of_groups_and_amounts_of_groups_that_have_all() -> None:
    scores, gains, amounts = _tables({"d acc": [FOLD]})
    assert scores[1] == "| d acc | 1 | 2 | 50.0 | 50.0 | 50.0 | 50.0 | 75.0 | 1 | 0 | 100.0 |"
    over = "+0.0 [-50.0, +50.0] | +0.0 [-50.0, +50.0] | -50.0 [-100.0, +0.0]"
    assert gains[1] == f"| d acc | {over} | 1, 1 | +25.0 [+0.0, +50.0] |"
    assert [line.split(" | ")[1:4] for line in amounts[1:]] == [["0.5", "20", "1"], ["1", "40", "1"]]
    assert amounts[1].split(" | ")[6:8] == ["0", "0"]


def test_less_recording_is_the_beginning_of_what_may_adapt() -> None:
    everybody = open_dataset("watch_exercises").everything()
    windows = everybody.subset(np.flatnonzero(everybody.groups == 1))
    whole, part = parts_of(windows), parts_of(windows, share=0.5)
    assert whole is not None
    assert part is not None
    np.testing.assert_array_equal(part[2].rows, whole[2].rows)
    sizes = [len(one[0]) + len(one[1]) for one in (whole, part)]
    assert sizes[1] == round(sizes[0] / 2)
    assert np.isin(part[0].rows, whole[0].rows).all()
    few = windows.subset(np.arange(2 * FEWEST))
    assert parts_of(few) is None


def test_groups_are_new_one_by_one_or_together(machines: Dataset) -> None:
    windows = machines.split("test")
    names = np.unique(windows.groups)
    assert [name for name, _ in _new_groups(windows, False)] == [str(one) for one in names]
    ((name, rows),) = _new_groups(windows, True)
    assert (name, len(rows)) == ("all", len(windows))


def test_halves_do_not_touch_and_any_beginning_has_its_share_of_each_class() -> None:
    everybody = open_dataset("watch_exercises").everything()
    windows = everybody.subset(np.arange(48))
    windows = replace(windows, labels=np.repeat([0, 1], [40, 8]))
    first, second = halves_of(windows)
    assert sorted(first.tolist()) == [*range(20), *range(40, 44)]
    assert second.tolist() == [*range(21, 40), *range(45, 48)]
    assert [int((first[:count] >= 40).sum()) for count in (6, 12, 18, 24)] == [1, 2, 3, 4]


def test_results_are_kept_under_all_that_decides_them() -> None:
    options = Namespace(kind="rocket", together=False, grown=False, amounts="")
    name = lambda **changes: _kept_name(Path("a/d"), "acc", Namespace(**{**vars(options), **changes}))  # noqa: E731
    assert name() == "d-acc-rocket"
    assert name(together=True, grown=True) == "d-acc-rocket-together-grown"
    assert name(amounts="0.5,0.25") == name(amounts="0.25,0.5,1") == "d-acc-rocket-0.25-0.5"


def test_who_is_not_heard_leaves_its_weight_to_the_others() -> None:
    assert without_first([0.5, 0.3, 0.2]) == pytest.approx([0.0, 0.6, 0.4])
    assert without_first([1.0, 0.0, 0.0]) == [0.0, 0.5, 0.5]


@pytest.mark.slow
def test_a_grown_teacher_does_not_hear_its_transformer(machines: Dataset) -> None:
    data = TrainingData(train=machines.split("train"), valid=machines.split("valid"), sha256="d")
    teacher = _grown_teacher(data, "tiny", 0, None)
    assert teacher.committee is not None
    assert [one.kind for one in teacher.committee.members] == ["transformer", "rocket", "trees"]
    weights = [one.weight for one in teacher.committee.members]
    assert weights[0] == 0.0
    assert abs(sum(weights) - 1) < 1e-9
