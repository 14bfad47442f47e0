"""What the proof of adapting counts, and that the methods of others change what they say they do."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from mmkd_models.adapt.domains import Domain
from mmkd_models.adapt.ways import ADAPT_TRAIN, Task
from mmkd_models.data import Dataset
from mmkd_models.networks.config import student_config
from mmkd_report.documents.adaptation import WayJudgement
from proofs.adaptation_pairs import PairFound, _chosen, _refused, _table, score_of
from proofs.adaptation_rivals import _shot, _tent, evened, sure_by_class
from proofs.domains import domains_of, one_against_others
from proofs.gains import recovered
from proofs.students import untrained

WAY = WayJudgement(
    way="teacher",
    estimate=0.9,
    gain_points=5.0,
    standard_error_points=1.0,
    old_score=0.8,
    forgotten_points=2.0,
    refusals=("it forgets 2.0 points of the old domain, more than 1",),
    seconds=1.0,
)
PAIR = PairFound(
    dataset="d",
    sensor="acc",
    kind="rocket",
    source="1",
    target="2",
    source_score=1.0,
    truth=[0, 0, 0, 0, 1, 1],
    answers={"before": [0, 0, 0, 0, 0, 0], "teacher": [0, 0, 0, 0, 0, 1], "oracle": [0, 0, 0, 0, 1, 1]},
    ways=[WAY],
)


def test_a_pair_is_scored_by_balanced_accuracy_and_the_gate_by_what_it_writes() -> None:
    assert [score_of(PAIR, arm) for arm in ("before", "teacher", "gate", "oracle")] == [0.5, 0.75, 0.5, 1.0]
    assert [_chosen(PAIR, arm) for arm in ("gate", "gate, may forget")] == ["", "teacher"]
    assert score_of(PAIR, "gate, may forget") == 0.75


def test_the_table_says_what_was_gained_and_recovered() -> None:
    lines = list(_table([PAIR, msgspec.structs.replace(PAIR, target="3")]))
    by_arm = {line.split(" |")[0]: line for line in lines[1:]}
    assert by_arm["| teacher"] == "| teacher | 2 | 75.0 | +25.0 [+25.0, +25.0] | +50.0 [+50.0, +50.0] | 2 | 0 |"
    assert by_arm["| gate"] == "| gate | 2 | 50.0 | +0.0 [+0.0, +0.0] | +0.0 [+0.0, +0.0] | 0 | 0 |"
    assert list(by_arm) == ["| before", "| teacher", "| gate", "| gate, may forget", "| oracle"]


def test_what_the_gate_refuses_is_counted_by_what_the_teacher_would_do() -> None:
    passed = msgspec.structs.replace(PAIR, ways=[msgspec.structs.replace(WAY, refusals=())])
    told = "of 1 that the gate refuses the teacher would make 1 better by a point and 0 worse"
    assert _refused([PAIR, passed]) == told


def test_one_pair_has_no_interval() -> None:
    assert recovered(torch.zeros(1).double().numpy(), torch.ones(1).double().numpy()) == ""


@pytest.fixture
def task(machines: Dataset) -> Task:
    spec = machines.spec.modalities[0]
    windows = machines.split("train").with_modalities((spec.name,))
    domain = Domain(learn=windows, judge=windows, name="d", sha256="0" * 64)
    student = untrained(spec, machines.spec.task, student_config("tiny"))
    train = msgspec.structs.replace(ADAPT_TRAIN, steps=4)
    return Task(student=student, new=domain, old=domain, answers=None, train=train)


def changed(task: Task, state: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in task.student.state.items() if not torch.equal(value, state[name])}


def test_shot_leaves_the_head_alone_and_tent_all_but_the_norms(task: Task) -> None:
    moved = changed(task, dict(_shot(task).state))
    assert moved
    assert not {name for name in moved if name.startswith("head.")}
    moved = changed(task, dict(_tent(task).state))
    assert moved
    assert all("norm" in name for name in moved)


def test_a_teacher_is_sure_by_class() -> None:
    answers = np.array([[0.9, 0.1], [0.7, 0.3], [0.45, 0.55], [0.4, 0.6]])
    # Mean confidence 0.6875; the classes have 0.6125 and 0.3875 of the answers, so that 0.435 is enough of the second.
    assert sure_by_class(answers).tolist() == [True, True, True, True]
    assert sure_by_class(np.array([[0.9, 0.1], [0.6, 0.4]])).tolist() == [True, False]


def test_evened_answers_have_the_classes_of_the_labels() -> None:
    found = evened(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    np.testing.assert_allclose(found, 0.5)


def test_a_domain_is_a_group_or_so_many_of_them(machines: Dataset) -> None:
    windows = machines.everything()
    groups = np.unique(windows.groups)
    assert set(domains_of(windows, None)) == set(groups.astype(str))
    pairs = domains_of(windows, "2")
    assert len(set(pairs)) == -(-len(groups) // 2)
    assert len(set(pairs[np.isin(windows.groups, groups[:2])])) == 1
    with pytest.raises(SystemExit, match="--by campaign: expected a number of groups or one of the columns"):
        domains_of(windows, "campaign")


def test_one_class_stands_against_all_others(machines: Dataset) -> None:
    windows = machines.everything()
    name = windows.spec.task.labels[1]
    two = one_against_others(windows, name)
    assert two.spec.task.labels == (name, "other")
    np.testing.assert_array_equal(two.labels == 0, windows.labels == 1)
