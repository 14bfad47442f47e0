"""`mmkd-study` as a user meets it: its files, messages, options and refusals."""

import json
import os
import sys

import msgspec
import pytest

from mmkd_app.commands.study import run_study
from mmkd_documents.study import StudyDocument
from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import Labelled
from mmkd_models.training.checkpoint import read_student, read_teacher
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("few_trees")

SHORT = "--modality acc --grid --steps 6 --teacher-steps 6 --student tiny --learning-rate 0.01 --rival extra_trees"
OPTIONS = [*SHORT.split(), "--no-latency"]
LOGIT = ["--teacher", "tiny", "--method", "logit", "--seeds", "1"]


def studied(dataset, out, *options):
    with pytest.raises(SystemExit) as ended:
        run_study([str(dataset.path), "-o", str(out), *OPTIONS, *options])
    assert ended.value.code == 0
    return msgspec.json.decode((out / "study.json").read_bytes(), type=StudyDocument)


def trainers(out):
    """The processes that trained: TensorBoard names each log `events.out.tfevents.TIME.HOST.PROCESS.NUMBER`."""
    return {int(path.name.split(".")[-2]) for path in out.glob("t*/*/run/**/events.*")}


def test_a_study_ends_with_a_table_files_and_what_to_do_next(machines, tmp_path, capsys, monkeypatch):
    out, options = tmp_path / "study", ("--teacher", "tiny", "--method", "logit", "--seeds", "2")
    monkeypatch.setattr(sys, "argv", ["mmkd-study", "machines"])
    document = studied(machines, out, *options)
    printed, err = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].strip() == "machines, acc on groups never seen (2 folds), 100% labelled"
    names = ("teachers", "acc+gyro:tiny", "tiny student", "labels only", "logit", "without a network", "extra-trees")
    places = [printed.index(name) for name in names]
    assert places == sorted(places)
    assert "an interval needs 5 groups or more" in lines
    assert lines[-2].startswith("chosen by validation: tiny student, ")
    assert lines[-1] == (
        f"wrote {out}/report.html and {out}/student.ckpt; next: mmkd-export {out}/student.ckpt -o {out}/student.edge"
    )
    assert "seed 1 acc logit tiny" in err
    assert err.count(" best valid ") >= 6
    assert document.command == "mmkd-study machines"
    assert [row.method for row in document.entries] == ["none", "logit"]
    assert (document.coverage.complete, document.coverage.finished, document.coverage.failed) == (True, 4, 0)
    page = (out / "report.html").read_text()
    assert document.recommendation.sha256 in page
    assert len(page) < 1_000_000
    assert read_student(out / "student.ckpt").modality.name == "acc"
    studied(machines, out, *options, "--json")  # nothing is trained again
    printed, err = capsys.readouterr()
    again = msgspec.json.decode(printed, type=StudyDocument)
    assert msgspec.structs.replace(again, duration_s=document.duration_s) == document
    assert " best valid " not in err


def test_methods_are_listed_and_a_study_without_time_says_so(machines, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_study(["--list-methods"])
    methods = json.loads(capsys.readouterr().out)
    assert methods["none"] is None
    assert methods["logit"]["terms"] == [
        {"type": "logit", "weight": {"start": 1.0, "end": 1.0, "until": 1.0}, "temperature": 2.0}
    ]
    with pytest.raises(UsageError, match="got none of 0 that ended; give more --budget-hours"):
        studied(machines, tmp_path / "late", *LOGIT, "--budget-hours", "0")


@pytest.mark.parametrize(
    ("options", "labelled"),
    [
        (["--label-fraction", "0.5"], Labelled(fraction=0.5)),
        pytest.param(["--labelled-groups", "2"], Labelled(groups=2), marks=pytest.mark.slow),
    ],
    ids=["a fraction of the windows", "whole groups"],
)
def test_a_recipe_of_ones_own_is_a_method_and_labels_that_are_hidden_teach_nobody(
    machines, tmp_path, options, labelled
):
    recipe = tmp_path / "warm.json"
    recipe.write_text('{"terms": [{"type": "logit", "weight": {"start": 1.0, "end": 1.0}, "temperature": 4.0}]}')
    own = ["--recipe", f"logit@warm={recipe}", "--method", "none", "--teacher", "tiny", "--seeds", "1"]
    document = studied(machines, tmp_path / "study", *own, *options)
    assert [row.method for row in document.entries] == ["none", "logit@warm"]
    facts, shown = document.facts, document.facts.labelled_groups
    assert (facts.label_fraction, shown and shown.labelled) == (None if labelled.groups else 0.5, labelled.groups)
    students = [read_student(path) for path in tmp_path.glob("study/trials/*/student.ckpt")]
    assert [one.facts.labelled for one in students] == [labelled] * 2
    assert trainers(tmp_path / "study") == {os.getpid()}


@pytest.mark.slow
def test_several_workers_train_in_processes_of_their_own(machines, tmp_path):
    assert studied(machines, tmp_path / "study", *LOGIT, "--workers", "2").coverage.complete
    assert trainers(tmp_path / "study")
    assert os.getpid() not in trainers(tmp_path / "study")


@pytest.mark.slow
def test_students_are_winners_of_a_race_and_the_committee_teaches_them(rigs, tmp_path):
    out = tmp_path / "study"
    options = ("--teacher", "tiny,committee", "--method", "logit", "--seeds", "1", "--choose")
    document = studied(rigs["multi_label"], out, *options)
    assert document.facts.choose
    assert [one.name for one in document.teachers] == ["acc+gyro:tiny,committee"]
    (teacher,) = out.glob("teachers/*/teacher.ckpt")
    committee = read_teacher(teacher).committee
    assert committee is not None
    assert [member.kind for member in committee.members] == ["transformer", "convolutions", "trees"]
    students = {path.parent.name.partition("-")[0]: read_student(path) for path in out.glob("trials/*/student.ckpt")}
    assert set(students) == {"none", "logit"}
    for student in students.values():
        names = [contender.name for contender in student.facts.tried or ()]
        assert "convolutions" in names
        assert "labels only" not in names  # it is an entry of the table
        assert student.facts.shipped in names
    assert (students["none"].facts.teacher_sha256, students["logit"].facts.teacher_sha256 is None) == (None, False)
    assert "Validation chose every student among" in (out / "report.html").read_text()


def test_a_derived_sensor_may_be_written_as_a_text(machines, tmp_path, monkeypatch):
    def study(dataset, plan, **_):
        raise UsageError(f"the student's sensor is {plan.sensors[0]}")

    monkeypatch.setattr("mmkd_models.experiments.study.study", study)
    line = [str(machines.path), "--modality", "acc[x]@10Hz", "-o", str(tmp_path / "out"), "--no-latency"]
    assert said(UsageError, run_study, line) == "the student's sensor is acc__c0_10Hz"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--teacher", "sonar:tiny"], "dataset 'machines': modality 'sonar' is not in it; choose one of acc, gyro"),
        (["--teacher", "acc:huge"], "--teacher: expected one of tiny, small, medium, base, got 'huge'; choose one of "),
        (["--student", "huge"], "--student: expected one of tiny, small, medium, base, got 'huge'; choose one of them"),
        (["--method", "magic"], "--method: expected one of none, logit, "),
        (["--rival", "forest"], "--rival: expected one of extra_trees, mini_rocket, rocket_and_trees, "),
        (["--recipe", "magic"], "--recipe: expected NAME=FILE.json, got 'magic'; name the method and the file"),
        (["--executor", "cloud"], "--executor: expected one of local, ray, got 'cloud'; choose one of them"),
        (["--metric", "luck"], "--metric: expected one of accuracy, balanced_accuracy, macro_f1, got 'luck'; "),
        (["--max-latency-ms", "1"], "--max-latency-ms: expected latencies to be measured, got --no-latency or "),
    ],
)
def test_a_wrong_option_is_named(machines, tmp_path, arguments, problem):
    out = tmp_path / "out"
    line = [str(machines.path), "--modality", "acc", "-o", str(out), "--grid", "--no-latency", *arguments]
    assert said(UsageError, run_study, line).startswith(problem)
    assert not out.exists()


@pytest.mark.slow
def test_latencies_are_measured_through_the_exported_student(machines, tmp_path):
    limits = ("--latency", "--max-latency-ms", "1000", "--duration-s", "0.2")
    document = studied(machines, tmp_path / "study", *LOGIT, *limits)
    measured = document.recommendation.latency
    assert measured is not None
    assert 0 < measured.student_ms["p50"] <= measured.student_ms["p99"] < 1000
    assert measured.ratio > 0
    assert document.entries[0].latency_ms == measured.student_ms["p50"]
