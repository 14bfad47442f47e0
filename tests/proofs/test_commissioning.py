"""What the proof of commissioning adapts to, and how it counts what that was worth."""

from __future__ import annotations

import numpy as np

from mmkd_models.adapt.domains import FEWEST
from mmkd_models.data import Dataset, open_dataset
from proofs.commissioning import FoldFound, NewGroup, _new_groups, _tables, parts_of


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
