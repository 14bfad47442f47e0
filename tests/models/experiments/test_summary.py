"""The document of a comparison against sums by hand."""

import json
from dataclasses import replace

import msgspec
import pytest

from mmkd_edge.spec import TaskSpec
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork
from mmkd_models.experiments.summary import demo_document
from mmkd_models.metrics.scores import Scores
from mmkd_report.pages.demo_answer import answer
from tests.report.rendered import read_demo

WINDOWS = {1: 10, 2: 10}


def two_folds(make, *, teacher=9, **options):
    """Baselines at 0.5 and 0.7, students at 0.6 and 1.0, the teacher at 0.9 and `teacher` tenths."""
    first = make(
        seed=0, windows=WINDOWS, teacher={1: 9, 2: 9}, students={"acc": ({1: 6, 2: 6}, {1: 5, 2: 5})}, **options
    )
    second = make(
        seed=1, windows=WINDOWS, teacher={1: teacher, 2: teacher}, students={"acc": ({1: 10, 2: 10}, {1: 7, 2: 7})}
    )
    return [first, second]


def document_of(folds, dataset):
    """The document as a reader of the JSON has it."""
    spec = msgspec.structs.replace(dataset.spec, task=TaskSpec(labels=("a", "b")))
    return json.loads(msgspec.json.encode(demo_document(spec, "ab" * 32, folds)))


def test_means_and_spreads_are_those_of_the_seeds(fold_result, machines):
    document = document_of(two_folds(fold_result), machines)
    student, baseline = document["students"]["acc"]["student"], document["students"]["acc"]["baseline"]
    assert student["accuracy"] == {"mean": 0.8, "std": pytest.approx(0.2 * 2**0.5), "per_seed": [0.6, 1.0]}
    assert baseline["accuracy"] == {"mean": 0.6, "std": pytest.approx(0.1 * 2**0.5), "per_seed": [0.5, 0.7]}
    assert student["balanced_accuracy"]["per_seed"] == [0.3, 0.5]
    assert student["macro_f1"]["mean"] == 0.2
    assert document["teacher"]["accuracy"]["mean"] == 0.9
    assert document["seeds"] == [0, 1]
    assert document["students"]["acc"]["student"]["confusion"] == [[12 + 20, 8 + 0], [0, 0]]


def test_the_gain_is_in_points_and_says_how_its_interval_was_made(fold_result, machines):
    document = document_of(two_folds(fold_result), machines)
    gain = document["students"]["acc"]["gain_points"]
    assert gain == {
        "mean": pytest.approx(20.0),
        "method": "mean over seeds of student minus baseline; an interval needs 5 groups or more, and more seeds test "
        "further ones",
    }
    assert document["mean_gain_points"] == gain  # of a single modality
    (fold, _) = two_folds(fold_result)
    acc = fold.students["acc"]
    acc = replace(acc, student=tossed(acc.student, 13), baseline=tossed(acc.baseline, 8))
    of_twenty = replace(fold, students={"acc": acc}, teacher=tossed(fold.teacher, 10))
    gain = document_of([of_twenty], machines)["students"]["acc"]["gain_points"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["method"].startswith(
        "mean over seeds of student minus baseline; 95 % interval by resampling whole groups"
    )


def test_the_gap_recovered_is_the_share_of_the_teachers_lead(fold_result, machines, monkeypatch):
    entry = document_of(two_folds(fold_result), machines)["students"]["acc"]
    assert (entry.get("gap_recovered"), entry["gap_points"]) == (None, {"mean": pytest.approx(30.0)})
    monkeypatch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 2)
    entry = document_of(two_folds(fold_result), machines)["students"]["acc"]
    assert entry["gap_recovered"] == pytest.approx((0.8 - 0.6) / (0.9 - 0.6))
    assert entry["gap_points"] == {key: pytest.approx(30.0) for key in ("mean", "low", "high")}
    assert entry["over_teacher_points"] == {key: pytest.approx(-10.0) for key in ("mean", "low", "high")}


def test_every_network_and_rival_is_held_against_guessing(fold_result, machines):
    # All windows are of one class: whoever names it is always right.
    document = document_of(two_folds(fold_result), machines)
    entry = document["students"]["acc"]
    for network in (document["teacher"], entry["student"], entry["baseline"]):
        assert (network["chance"]["figure"], network["chance"]["is_better"]) == (1.0, False)
    assert entry["student"]["chance"]["low"] <= 0.8 <= entry["student"]["chance"]["high"]
    assert entry["extra_trees"]["chance"]["figure"] == 1.0
    assert entry["extra_trees"]["valid_score"]["mean"] == 0.5


def tossed(network, right):
    """As many right answers to ten windows of each of two classes, every window a group of its own."""
    half, rest = right // 2, right - right // 2
    confusion = ((half, 10 - half), (10 - rest, rest))
    test = TestedNetwork(
        class_scores=Scores(accuracy=right / 20, balanced_accuracy=right / 20, macro_f1=0.5, confusion=confusion),
        confusions=tuple(
            GroupConfusion(group=window, confusion=((int(window < right), int(window >= right)), (0, 0)))
            for window in range(20)
        ),
    )
    return replace(network, test=test)


def test_random_numbers_end_in_no_verdict(fold_result, machines):
    """As the example of the README: the student is ahead of everything else, and none is better than tossing a coin."""
    (fold, _) = two_folds(fold_result)
    acc = fold.students["acc"]
    acc = replace(acc, student=tossed(acc.student, 13), baseline=tossed(acc.baseline, 8))
    fold = replace(fold, students={"acc": acc}, teacher=tossed(fold.teacher, 10))
    demo = read_demo(document_of([fold], machines))
    assert demo.students["acc"].gap_recovered is None
    (sentence,) = answer(demo)
    assert sentence.startswith("No sensor can be judged: no student is better than chance (accuracy: acc 65.0")
    assert sentence.endswith("chance 50.0\u202f%).")


def test_a_rival_without_scores_keeps_its_keys_and_says_why(fold_result, machines):
    entry = document_of(two_folds(fold_result, mini_rocket="aeon is not installed"), machines)["students"]["acc"]
    assert entry["mini_rocket"] == {
        "accuracy": None,
        "balanced_accuracy": None,
        "macro_f1": None,
        "reason": "aeon is not installed",
    }
    assert entry["extra_trees"]["accuracy"] == {"mean": 0.5, "std": 0.0, "per_seed": [0.5, 0.5]}


def test_missing_sensors_sizes_and_facts_of_the_dataset_are_in_the_document(fold_result, machines):
    document = document_of(two_folds(fold_result), machines)
    assert document["students"]["acc"]["missing"]["student"][1]["per_seed"] == [0.0, 0.25]
    assert document["students"]["acc"]["missing"]["fractions"] == [0.0, 0.5]
    assert document["teacher"]["missing"][1]["modalities"] == ["acc"]
    assert document["teacher"]["missing"][1]["accuracy"]["mean"] == 0.25
    assert document["students"]["acc"]["parameters_ratio"] == 10.0
    assert (document["teacher"]["parameters"], document["students"]["acc"]["student"]["parameters"]) == (500, 50)
    facts = document["dataset"]
    assert (facts["name"], facts["licence"], facts["groups"]) == ("machines", "CC0-1.0", 9)
    assert facts["modalities"][0] == {
        "name": "acc",
        "channels": ["x", "y"],
        "rate_hz": 20.0,
        "samples": 40,
        "unit": "g",
    }
    assert read_demo(document).students["acc"].gap_recovered == document["students"]["acc"]["gap_recovered"]
