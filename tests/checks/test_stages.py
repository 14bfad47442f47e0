"""Stages of a study of several sets: what comes first, what stage 1 decides, and that nothing is trained twice."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

import study_cases as cases
from test_pool import seed_results

from checks.study.files import read_seeds
from checks.study.pool import pooled_results
from checks.study.stages import (
    Plan,
    Portion,
    StudySensor,
    a_third,
    best_methods,
    first_stage,
    portion_options,
    run_stages,
    second_stage,
    sensor_from_text,
    third_stage,
    with_races,
)
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.distillation.recipe import shipped_methods
from tests.edge.said import said

THREE = (StudySensor("one", "a"), StudySensor("two", "b", "tiny"), StudySensor("three", "c"))


def small_plan(machines):
    return Plan(
        sets=(StudySensor(str(machines.path), "acc"),),
        first_seeds=1,
        seeds=1,
        best=1,
        first_methods=("none", "logit"),
        further_methods=("dist",),
        further_teachers=(),
        steps=2,
        teacher_steps=2,
    )


def test_stages_take_methods_sets_and_shares_in_turn():
    plan = Plan(sets=THREE, first_seeds=2)
    portions = first_stage(plan)
    assert {portion.label_fraction for portion in portions} == {0.1}
    assert [(one.sensor.path, one.seeds) for one in portions] == [("one", 1), ("two", 1), ("one", 2), ("two", 2)]
    assert {portion.methods for portion in portions} == {plan.first_methods}
    plan = Plan(sets=THREE, first_seeds=2)
    portions = third_stage(plan)
    assert [(one.sensor.path, one.seeds) for one in portions[:4]] == [("one", 1), ("two", 1), ("one", 2), ("two", 2)]
    named = {name for portion in [*first_stage(plan), *portions] for name in portion.methods}
    assert named == {method.name for method in shipped_methods()}
    assert portions[0].methods[0] == "none"
    assert {one.made for one in portions if one.made} == {"committee"}
    portions = second_stage(Plan(sets=THREE, seeds=5), ["dist", "logit"])
    assert len(portions) == 3 * 5 * 2
    assert portions[0] == Portion(sensor=THREE[0], label_fraction=0.1, seeds=1, methods=("none", "logit", "dist"))
    assert [portion.label_fraction for portion in portions] == [0.1] * 15 + [1.0] * 15


def test_few_labels_may_be_those_of_a_third_of_the_groups(machines):
    sensor = StudySensor(str(machines.path), "acc")
    plan = Plan(sets=(sensor,), whole_groups=True, seeds=2)
    assert {(one.label_fraction, one.whole_groups) for one in (*first_stage(plan), *third_stage(plan))} == {(1.0, True)}
    assert [(one.label_fraction, one.whole_groups) for one in second_stage(plan, [])] == 2 * [(1.0, True)] + 2 * [
        (1.0, False)
    ]
    conditions = [portion_options(one, plan, machines, None).conditions for one in second_stage(plan, [])[1:3]]
    assert [(one.labelled.fraction, one.labelled.groups) for one in conditions] == [(1.0, 2), (1.0, None)]


def test_too_few_groups_have_no_third_to_label(tmp_path):
    labels = np.array([0, 1] * 3)
    splits = {
        name: {"acc": np.zeros((6, 20, 1), np.float32), "labels": labels, "groups": np.arange(6) // 2 + first}
        for name, first in (("train", 0), ("valid", 3), ("test", 6))
    }
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=20)
    few = write_dataset(tmp_path / "few", name="few", labels=["off", "on"], modalities=[acc], splits=splits)
    assert said(UsageError, lambda: a_third(few, 2)) == (
        "--whole-groups: expected six groups to train on or more in dataset 'few', a third of which has every class on "
        "every fold, got fewer; leave the option out, or leave out this set"
    )


def test_with_a_race_a_committee_teaches_what_a_race_can_learn(machines):
    plan = with_races(Plan(sets=(StudySensor(str(machines.path), "acc"),), first_seeds=1))
    (portion,) = first_stage(plan)
    assert portion.methods == ("none", "logit", "dist")
    assert third_stage(plan) == ()
    options = portion_options(portion, plan, machines, None)
    assert options.conditions.choose
    assert [teacher.name.partition(":")[2] for teacher in options.space.teachers] == ["small,committee"]
    assert options.space.baseline_learning_rates == ()


def test_a_sensor_may_name_the_size_of_its_teacher(machines):
    assert sensor_from_text("data/rig:acc") == StudySensor("data/rig", "acc", "small")
    assert sensor_from_text("data/rig:acc:tiny") == StudySensor("data/rig", "acc", "tiny")
    assert sensor_from_text("disk:rig:acc") == StudySensor("disk:rig", "acc", "small")
    everything = "+".join(modality.name for modality in machines.spec.modalities)
    for made, name in (("", f"{everything}:tiny"), ("committee", f"{everything}:tiny,committee")):
        sensor = StudySensor(str(machines.path), "acc", "tiny")
        portion = Portion(sensor=sensor, label_fraction=0.1, seeds=1, methods=("none", "logit"), made=made)
        options = portion_options(portion, Plan(sets=(sensor,)), machines, None)
        assert [teacher.name for teacher in options.space.teachers] == [name]


def test_recipes_are_best_by_validation_where_all_folds_of_stage_1_know_them():
    assert best_methods((), 2) == ()
    found = [seed_results("rig", seed, groups=range(5), alone=4, taught=6) for seed in (0, 1)]
    assert best_methods(found, 2) == ()  # outputs alone are in stage 2 anyway
    known = {"lucky": (0.99, 1), "crd": (0.65, 2), "dist": (0.68, 2)}  # validation score, and on how many folds
    more = []
    for seed, one in enumerate(found):
        added = [taught_by(one, name, score) for name, (score, folds) in known.items() if seed < folds]
        more.append(replace(one, trials=(*one.trials, *added)))
    assert best_methods(more, 2) == ("dist", "crd")


def taught_by(found, method, score):
    """The student of another method that answers as the one of outputs does."""
    outputs = found.trials[2]
    assert outputs.result.trial is not None
    candidate = outputs.result.trial.candidate
    assert candidate.entry.method == "logit"
    entry = msgspec.structs.replace(candidate.entry, method=method)
    trial = msgspec.structs.replace(outputs.result.trial, candidate=msgspec.structs.replace(candidate, entry=entry))
    return replace(outputs, result=msgspec.structs.replace(outputs.result, trial=trial, score=score))


@pytest.mark.slow
def test_stages_are_run_once(machines, tmp_path):
    told = []
    assert run_stages(small_plan(machines), build=tmp_path, budget_hours=None, on_portion=told.append)
    assert [portion.methods for portion in told] == [
        ("none", "logit"),
        *2 * [("none", "logit")],  # few labels and all; nothing else is known to be good yet
        ("none", "dist"),
        *2 * [("none", "logit", "dist")],
    ]
    found = read_seeds(tmp_path)
    assert [(one.conditions.labelled.fraction, one.seed) for one in found] == [(1.0, 0), (0.1, 0)]
    for one in found:
        trials = [judged.result.trial for judged in one.trials]
        assert {trial.candidate.entry.method for trial in trials if trial is not None} == {"none", "logit", "dist"}
        assert {rival.result.rival for rival in one.rivals} >= {"extra_trees"}
    starts = cases.starts(tmp_path / machines.spec.name)
    assert run_stages(small_plan(machines), build=tmp_path, budget_hours=1.0)
    assert cases.starts(tmp_path / machines.spec.name) == starts
    assert read_seeds(tmp_path) == found


@pytest.mark.slow
def test_races_on_whole_groups_have_a_table_of_their_own(machines, tmp_path):
    plan = with_races(msgspec.structs.replace(small_plan(machines), whole_groups=True))
    assert run_stages(plan, build=tmp_path, budget_hours=None)
    found = read_seeds(tmp_path)
    assert [(one.conditions.labelled.groups, one.seed) for one in found] == [(None, 0), (2, 0)]
    pooled = pooled_results(found, {})
    assert {(row.method, row.pair, bool(row.whole_groups)) for row in pooled.pooled} == {
        (method, "all,committee", groups) for method in ("logit", "dist") for groups in (True, False)
    }


def test_without_time_nothing_begins(machines, tmp_path):
    plan = small_plan(machines)
    assert not run_stages(plan, build=tmp_path / "build", budget_hours=0.0)
    assert not (tmp_path / "build").exists()
    with pytest.raises(UsageError) as caught:
        run_stages(Plan(sets=()), build=tmp_path, budget_hours=None)
    assert str(caught.value) == "study: expected one or more sets, got none; name DIR:MODALITY"
