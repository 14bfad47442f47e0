"""A study of several sets: its stages, what they decide, and its figures over sets by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import study_cases as cases

from checks.study.files import SeedResults, SizeResults, read_seeds
from checks.study.pool import pooled_results, results_page
from checks.study.stages import (
    Plan,
    Portion,
    StudySensor,
    a_third,
    best_methods,
    first_stage,
    portion_plan,
    run_stages,
    second_stage,
    sensor_from_text,
    third_stage,
    with_races,
)
from mmkd_documents.study import PairLatency, StudentSize, StudyDataset
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import Labelled
from mmkd_models.distillation.recipe import shipped_methods
from mmkd_models.experiments.folder import RunResult
from mmkd_models.experiments.plan import Candidate, Conditions, Entry, TeacherChoice, Trial
from mmkd_models.experiments.runs import Judged
from mmkd_models.train_config import TrainConfig
from tests.edge.said import said
from tests.models.judging_rig import class_outcome

EACH = 10  # windows of a class in a group


def judged(right):
    """Two classes, ten windows of each in every group; so many of the first are right, and all of the second."""
    truth, answers, groups = [], [], []
    for group, count in right.items():
        truth += [0] * EACH + [1] * EACH
        answers += [0] * count + [1] * (EACH - count) + [1] * EACH
        groups += [group] * 2 * EACH
    return class_outcome(truth, answers, groups)


def conditions_of(modality, share):
    return Conditions(
        dataset_sha256="cd" * 32,
        modality=modality,
        labelled=Labelled(fraction=share),
        teacher_train=TrainConfig(steps=3),
        student_train=TrainConfig(steps=8),
        augment=AugmentConfig(),
    )


def run(seed, score, test, parameters=100, **what):
    result = RunResult(conditions=conditions_of("acc", 0.1), seed=seed, score=score, parameters=parameters, **what)
    return Judged(result=result, test=test)


def trial(seed, method, teacher, rate, score, test):
    candidate = Candidate(entry=Entry(student="tiny", method=method, teacher=teacher), learning_rate=rate)
    return run(seed, score, test, trial=Trial(candidate=candidate, seed=seed))


def teacher(seed, preset, score, parameters, test):
    return run(seed, score, test, parameters, teacher=TeacherChoice(modalities=("acc", "gyro"), preset=preset))


def seed_results(
    dataset, seed, *, groups, alone, taught, trees=2, modality="acc", share=0.1, sizes=("small",), dist=None
):
    """One fold where labels only, logits and extra-trees get so many of ten windows of the first class right."""
    counts = {"a": alone, "t": taught, "x": trees} | ({} if dist is None else {"d": dist})
    of = {who: judged(dict.fromkeys(groups, count)) for who, count in counts.items()}
    facts = {"sha256": "cd" * 32, "source": "", "licence": "", "windows": 100, "groups": 10}
    return SeedResults(
        dataset=StudyDataset(name=dataset, labels=("no", "yes"), modalities=("acc", "gyro"), **facts),
        seed=seed,
        conditions=conditions_of(modality, share),
        trainings=2 + len(sizes) + (dist is not None),
        teachers=(
            teacher(seed, "small", 0.9, 1000, judged(dict.fromkeys(groups, 10))),
            teacher(seed, "tiny", 0.8951, 400, judged(dict.fromkeys(groups, 9))),
        ),
        trials=(
            trial(seed, "none", None, 1e-3, 0.6, of["a"]),
            trial(seed, "none", None, 3e-3, 0.5, judged(dict.fromkeys(groups, 10))),  # a test that is not to count
            *(trial(seed, "logit", f"acc+gyro:{size}", 2e-3, 0.7 + 0.01 * n, of["t"]) for n, size in enumerate(sizes)),
            *(trial(seed, "dist", "acc+gyro:small", 2e-3, 0.7, of[who]) for who in of if who == "d"),
        ),
        rivals=(run(seed, None, of["x"], rival="extra_trees"),),
    )


@pytest.fixture
def results():
    """Two sets: one of two sensors that gain 10 and 20 points, one that loses 5 and lies below extra-trees."""
    five = range(5)
    found = [
        seed_results("rig", 0, groups=five, alone=4, taught=6),
        seed_results("rig", 1, groups=range(5, 10), alone=4, taught=6),
        seed_results("rig", 0, groups=five, alone=4, taught=8, modality="gyro"),
        seed_results("walk", 0, groups=five, alone=6, taught=5, trees=7),
    ]
    latency = PairLatency(student_ms={"p50": 0.1}, teacher_ms={"p50": 0.6}, ratio=6.0, machine={})
    size = StudentSize(preset="tiny", parameters=100, latency=latency, excluded="")
    sizes = SizeResults(dataset="rig", modality="acc", teacher="acc+gyro:small", students=(size,))
    return pooled_results(found, {("rig", "acc"): sizes})


def test_a_row_has_the_rate_that_validates_best_and_its_gain(results):
    table = next(one for one in results.tables if (one.dataset, one.modality) == ("rig", "acc"))
    alone, taught = table.rows
    assert (alone.entry.method, [test.scores.balanced_accuracy for test in alone.tests]) == ("none", [0.7, 0.7])
    # every group gains two of twenty windows, so every draw does
    assert (taught.gain.mean, taught.gain.low, taught.gain.high) == pytest.approx((10.0, 10.0, 10.0))
    assert taught.over_trees.mean == pytest.approx(20.0)
    assert taught.gap == pytest.approx((0.8 - 0.7) / (1.0 - 0.7))
    assert taught.valid_gain == pytest.approx(10.0)
    assert (taught.pair, len(taught.tests)) == ("all:small", 2)


def test_the_page_names_the_smallest_teacher_near_the_best_and_its_cost(results):
    lines = results_page(results).splitlines()
    assert "| teacher acc+gyro:tiny | 2 | 95.0 ± 0.0 | 95.0 ± 0.0 | 95.0 ± 0.0 | | | | 400 |" in lines
    assert "| extra-trees | 2 | 60.0 ± 0.0 | 60.0 ± 0.0 | 52.4 ± 0.0 | | | |  |" in lines
    assert "Coverage: folds 0, 1; 6 trainings. Teaching: acc+gyro:small." in lines
    assert (
        "Teacher by the rule (the smallest within half a point of the best on validation): acc+gyro:tiny. The smallest "
        "student has 4.0 times fewer parameters and answers 6.0 times faster than acc+gyro:small (0.100 ms against "
        "0.600 ms, median, one thread, called in turn)."
    ) in lines


def test_pooled_gains_are_means_of_means_with_intervals_of_many_groups(results):
    (row,) = results.pooled
    assert row.gain.mean == pytest.approx(((10 + 20) / 2 - 5) / 2)
    assert (row.gain.low, row.gain.high) == pytest.approx((5.0, 5.0))
    assert (row.sets, row.folds, row.over_outputs) == (("rig", "walk"), 4, None)
    assert row.below_baseline == ("walk acc",)
    assert row.below_extra_trees == ("walk acc",)
    found = seed_results("rig", 0, groups=range(5), alone=4, taught=6)
    other = replace(found, dataset=msgspec.structs.replace(found.dataset, kind="regression"))
    assert results_page(pooled_results([other, found], {})) == results_page(pooled_results([found], {}))
    told = said(UsageError, pooled_results, [other], {})
    assert told == "results: expected some of a task with classes, got none; run a study of one first"
    found = pooled_results([seed_results("rig", 0, groups=range(4), alone=6, taught=5)], {})
    (row,) = found.pooled
    assert (row.gain.mean, row.gain.low, row.gain.high, row.below_baseline) == (pytest.approx(-5.0), None, None, ())
    page = results_page(found)
    assert "| logit | 1 | 1 | -5.0 | +10.0 |  | none | none |" in page.splitlines()


def test_sets_whose_teachers_differ_in_size_are_pooled():
    rig = seed_results("rig", 0, groups=range(5), alone=4, taught=6, sizes=("small", "tiny"))
    walk = seed_results("walk", 0, groups=range(5), alone=6, taught=5, sizes=("tiny",))
    found = pooled_results([rig, walk], {})
    (row,) = found.pooled
    assert (row.pair, row.sets, row.folds, row.gain.mean) == ("all", ("rig", "walk"), 2, pytest.approx((10 - 5) / 2))
    assert row.valid_gain == pytest.approx((11 + 10) / 2)  # of two sizes, that which validates better
    lines = results_page(found).splitlines()
    assert "| logit | 2 | 2 | +2.5 (+2.5 to +2.5) | +10.5 |  | walk acc | none |" in lines
    rows = [line.split(" | ")[0] for line in lines if "logit, all" in line]
    assert rows == ["| tiny, logit, all:small", "| tiny, logit, all:tiny"]


def test_what_a_method_adds_to_outputs_is_told_where_both_are_finished():
    folds = [
        seed_results("rig", 0, groups=range(5), alone=4, taught=6, dist=7),
        seed_results("rig", 1, groups=range(5, 10), alone=4, taught=9),
        seed_results("walk", 0, groups=range(5), alone=4, taught=6, dist=4),
    ]
    found = pooled_results(folds, {})
    rows = {row.method: row for row in found.pooled}
    over = rows["dist"].over_outputs
    # one of twenty windows more on rig, two fewer on walk
    assert (over.mean, over.low, over.high) == 3 * (pytest.approx((5 - 10) / 2),)
    assert rows["logit"].over_outputs is None
    assert "\n| dist | 2 | 2 | +7.5 (+7.5 to +7.5) | +10.0 | -2.5 (-2.5 to -2.5) |" in results_page(found)


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
    portions = [(one.label_fraction, one.whole_groups) for one in second_stage(plan, [])]
    assert portions == 2 * [(1.0, True)] + 2 * [(1.0, False)]
    conditions = [portion_plan(one, plan, machines, None).conditions for one in second_stage(plan, [])[1:3]]
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
    grid = portion_plan(portion, plan, machines, None)
    assert grid.conditions.choose
    assert [teacher.name.partition(":")[2] for teacher in grid.space.teachers] == ["small,committee"]
    assert grid.space.baseline_learning_rates == ()


def test_a_sensor_may_name_the_size_of_its_teacher(machines):
    assert sensor_from_text("data/rig:acc") == StudySensor("data/rig", "acc", "small")
    assert sensor_from_text("data/rig:acc:tiny") == StudySensor("data/rig", "acc", "tiny")
    assert sensor_from_text("disk:rig:acc") == StudySensor("disk:rig", "acc", "small")
    everything = "+".join(modality.name for modality in machines.spec.modalities)
    for made, name in (("", f"{everything}:tiny"), ("committee", f"{everything}:tiny,committee")):
        sensor = StudySensor(str(machines.path), "acc", "tiny")
        portion = Portion(sensor=sensor, label_fraction=0.1, seeds=1, methods=("none", "logit"), made=made)
        grid = portion_plan(portion, Plan(sets=(sensor,)), machines, None)
        assert [teacher.name for teacher in grid.space.teachers] == [name]


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
    outputs = found.trials[2]
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
    assert {(row.method, row.pair, row.layout[1]) for row in pooled.pooled} == {
        (method, "all,committee", groups) for method in ("logit", "dist") for groups in (True, False)
    }


def test_without_time_nothing_begins(machines, tmp_path):
    plan = small_plan(machines)
    assert not run_stages(plan, build=tmp_path / "build", budget_hours=0.0)
    assert not (tmp_path / "build").exists()
    told = said(UsageError, run_stages, Plan(sets=()), build=tmp_path, budget_hours=None)
    assert told == "study: expected one or more sets, got none; name DIR:MODALITY"
