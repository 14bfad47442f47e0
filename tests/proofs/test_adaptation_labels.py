"""What a few labels, a new class and a new sensor are measured on, and how it is counted."""

from __future__ import annotations

import msgspec
import numpy as np

from mmkd_models.data import Dataset
from mmkd_report.documents.adaptation import WayJudgement
from proofs.adaptation_growth import CLASS_ARMS, GrowthFound, without_class
from proofs.adaptation_growth import _table as growth_table
from proofs.adaptation_labels import ARMS, LabelledGroup, balanced, in_turns, old_rows, written_by
from proofs.adaptation_labels import _table as labels_table
from proofs.gains import ranged

WAY = WayJudgement(
    way="labels",
    estimate=0.9,
    gain_points=5.0,
    standard_error_points=4.0,
    old_score=0.8,
    forgotten_points=0.0,
    seconds=1.0,
)


def test_of_each_class_of_a_group_the_first_teach_the_next_judge_and_nobody_sees_the_last(machines: Dataset) -> None:
    windows = machines.everything()
    groups = np.unique(windows.groups)[:2]
    parts = old_rows(windows, groups)
    mine = np.flatnonzero(np.isin(windows.groups, groups))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == mine.tolist()
    rows = mine[(windows.groups[mine] == groups[0]) & (windows.labels[mine] == windows.labels[mine][0])]
    count = len(rows)
    assert np.isin(rows[: 2 * count // 3], parts["learn"]).all()
    assert np.isin(rows[5 * count // 6 :], parts["unseen"]).all()


def test_labels_come_from_every_other_stretch_without_its_last_window(machines: Dataset) -> None:
    windows = machines.everything()
    rows = np.flatnonzero(windows.labels == 0)[:12]
    first, second = in_turns(windows.subset(rows))
    assert (first.tolist(), second.tolist()) == ([0, 1, 6, 7], [3, 4, 9, 10])


def test_a_class_that_is_to_come_is_unknown_before(machines: Dataset) -> None:
    windows = machines.everything()
    known = without_class({"learn": windows}, 0)["learn"]
    assert known.spec.task.labels == windows.spec.task.labels[1:]
    assert len(known) == int((windows.labels > 0).sum())
    assert known.labels.tolist() == (windows.labels[windows.labels > 0] - 1).tolist()


def test_balanced_accuracy_counts_each_class_alike() -> None:
    assert balanced([([0, 0, 0, 1], [0, 0, 0, 0])]).tolist() == [0.5]


def test_the_table_of_labels_says_what_was_gained_and_forgotten() -> None:
    new = {key: [0, 0] for key in ARMS} | {"labels": [0, 1], "no replay": [0, 1]}
    old = {key: [0, 1] for key in ARMS} | {"no replay": [0, 0]}
    worse = msgspec.structs.replace(WAY, forgotten_points=2.0, forgotten_error_points=1.5)
    forgets = msgspec.structs.replace(WAY, forgotten_points=3.0, forgotten_error_points=1.5)
    group = LabelledGroup(
        group="g",
        labels=2,
        ways=[],
        whole=worse,
        thrice=forgets,
        truth=[0, 1],
        old_truth=[0, 1],
        new={**new, "replay thrice": [0, 1]},
        old={**old, "replay thrice": [0, 1]},
    )
    refused = msgspec.structs.replace(group, whole=forgets, thrice=worse)
    never = msgspec.structs.replace(group, whole=forgets)
    lines = {line.split(" |")[0]: line for line in labels_table([group, refused, never])}
    changed = {arm: line.split(" | ")[2] for arm, line in lines.items()}
    assert changed["| gate, all or nothing"] == "1"
    assert changed["| gate, strict"] == "0"
    assert changed["| gate, replay thrice"] == "2"
    lines = {line.split(" |")[0]: line for line in labels_table([group, group])}
    gain = "+50.0 [+50.0, +50.0] | 0 | +100.0 [+100.0, +100.0]"
    assert lines["| labels"] == f"| labels | 2 | 2 | 100.0 | {gain} | 100.0 | +0.0 [+0.0, +0.0] | +0.0 | 0 |"
    assert lines["| gate"].startswith("| gate | 2 | 0 | 50.0 |")
    assert lines["| gate"].endswith("| 100.0 | +0.0 [+0.0, +0.0] |  | 0 |")
    assert lines["| no replay"].endswith("| 50.0 | -50.0 [-50.0, -50.0] | -50.0 | 2 |")


def test_the_table_of_a_new_class_says_how_much_of_it_is_found() -> None:
    part = "part of the way"
    new = {"before": [0, 0], part: [0, 1], "labels": [1, 1]}
    old = {"before": [0, 0], part: [0, 1], "labels": [1, 1]}
    found = GrowthFound(
        dataset="d",
        sensor="acc",
        added="b",
        old_groups=["1"],
        truth=[0, 1],
        old_truth=[0, 0],
        new=new,
        old=old,
        ways=[WAY],
        whole=WAY,
        added_number=1,
    )
    refused = msgspec.structs.replace(found, new={**new, part: [1, 1]}, ways=[])
    lines = list(growth_table([found, refused], CLASS_ARMS))
    assert [line.split(" |")[0] for line in lines[1:]] == [f"| {arm}" for arm in CLASS_ARMS]
    whole = "50.0 | +0.0 (+0.0 to +0.0) | 0.0 | -100.0 (-100.0 to -100.0) | 100.0"
    assert lines[2] == f"| labels | 2 | {whole} |  |  |"
    taught = "75.0 | +25.0 (+0.0 to +50.0) | 50.0 | -50.0 (-50.0 to -50.0) | 100.0"
    assert lines[3] == f"| part of the way | 2 | {taught} |  |  |"
    assert lines[4] == "| gate | 2 | 75.0 | +25.0 (+0.0 to +50.0) | 75.0 | -25.0 (-50.0 to +0.0) | 50.0 | 1 | -50.0 |"
    assert lines[5].endswith("| 0.0 | 0 |  |")
    assert lines[6] == f"| gate, all or nothing | 2 | {whole} | 2 | -100.0 |"
    forgets = msgspec.structs.replace(found, whole=msgspec.structs.replace(WAY, forgotten_points=3.0))
    assert list(growth_table([forgets], CLASS_ARMS))[6].endswith("| 0.0 | 0 |  |")


def test_a_single_case_has_no_range() -> None:
    assert ranged(np.array([0.125])) == "+12.5"


def test_a_gate_writes_the_best_way_that_it_lets_pass() -> None:
    ways = [WAY, msgspec.structs.replace(WAY, way="statistics", estimate=0.95, refusals=("it forgets",))]
    assert [written_by(arm, ways) for arm in ("labels", "gate", "gate, sure")] == ["labels", "labels", "before"]
    assert written_by("gate", [msgspec.structs.replace(WAY, way="statistics"), *ways[1:]]) == "before"
    sure = msgspec.structs.replace(WAY, standard_error_points=2.5)
    assert written_by("gate, sure", [sure]) == "labels"
    assert written_by("gate, sure", [sure, *ways[1:], *ways[1:]]) == "before"
