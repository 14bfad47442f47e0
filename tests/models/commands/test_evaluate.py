"""`mmkd-evaluate`: its figures against the functions behind them, its refusals, its page and its last line."""

import json

import msgspec
import pytest

from mmkd_models.evaluation.suites.missing import FRACTIONS, with_missing_samples
from mmkd_models.training.checkpoint import file_sha256, read_student
from mmkd_models.training.predict import scores_of
from tests.models.judging_rig import write_random_student, write_random_teacher


@pytest.fixture
def make_student(machines, student_checkpoint, tmp_path):
    return lambda name, **facts: write_random_student(tmp_path / name, student_checkpoint, machines, **facts)


@pytest.fixture
def make_teacher(machines, teacher_checkpoint, tmp_path):
    return lambda name, **seed: write_random_teacher(tmp_path / name, teacher_checkpoint, machines, **seed)


def training_facts(out, suite="scores"):
    return json.loads(out)["suites"][suite]["facts"]


def test_scores_are_those_of_the_network_and_the_document_names_the_windows(run, make_student, machines):
    path = make_student("s.ckpt")
    code, out, err = run(path, machines.path, "--json")
    assert (code, err) == (0, "scores\n")
    document = json.loads(out)
    expected = scores_of(read_student(path).network(), machines.split("test"), modality="acc")
    scores = training_facts(out)["models"]["s.ckpt"]["scores"]
    assert scores == {name: expected.metric(name) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    assert document["models"][0]["sha256"] == file_sha256(path)
    assert document["data"] == {
        "name": "machines",
        "sha256": machines.sha256,
        "part": "test windows",
        "windows": 12,
        "groups": 2,
        "split": {"by": "groups", "judged_on": "groups never seen", "resampled": "whole groups"},
        "labels": ["idle", "ok", "worn"],
    }


def test_a_student_is_judged_with_samples_missing(run, make_student, machines):
    path, test = make_student("s.ckpt"), machines.split("test")
    code, out, err = run(path, machines.path, "--suite", "missing", "--seed", "4", "--json")
    assert (code, err.splitlines()) == (0, ["missing sensors and samples"])
    network, rows = read_student(path).network(), training_facts(out, "missing")["rows"]
    parts = [test, *(with_missing_samples(test, fraction, seed=4) for fraction in FRACTIONS[1:])]
    assert [(row["fraction"], row["scores"]["s.ckpt"]) for row in rows] == [
        (fraction, scores_of(network, part, modality="acc").metric("balanced_accuracy"))
        for fraction, part in zip(FRACTIONS, parts, strict=True)
    ]


def test_a_teacher_is_compared_under_every_subset_too(run, make_teacher, make_student, machines, tmp_path):
    path, other, page = make_teacher("t.ckpt", seed=0), make_teacher("o.ckpt", seed=1), tmp_path / "page.html"
    line = (path, machines.path, "--suite", "missing", "--against", other, "--against", make_student("s.ckpt"))
    rows = training_facts(run(*line, "--json")[1], "missing")["rows"]
    alone = training_facts(run(other, machines.path, "--suite", "missing", "--json")[1], "missing")["rows"]
    assert [row["left"] for row in rows[:3]] == [["acc", "gyro"], ["acc"], ["gyro"]]
    assert ["s.ckpt" in row["scores"] for row in rows[:3]] == [True, True, False]
    for row, other_row in zip(rows, alone, strict=True):
        assert row["scores"]["o.ckpt"] == other_row["scores"]["o.ckpt"]
        assert row["gain"]["mean"] == pytest.approx(100 * (row["scores"]["t.ckpt"] - row["scores"]["o.ckpt"]))
        assert row["gain"]["low"] is None  # of two groups
    code, out, _ = run(*line, "--page", page)
    assert code == 0
    lines = out.splitlines()
    starts = ["nothing missing", "without all but acc", "without all but gyro", "10% of the samples missing"]
    assert all(any(line.startswith(start) for line in lines) for start in starts)
    assert not any(line.startswith("only ") for line in lines)
    (masked,) = (line for line in lines if line.startswith("t.ckpt without all but "))
    sensor = masked.split()[4]
    assert masked.endswith(f"; this is no figure of {sensor} itself, which its student has.")
    lead = "A teacher without the other sensors is no figure of the one that is left: its student is."
    assert lead in page.read_text(encoding="utf-8")
    assert lines[-1] == (
        f"wrote {page}; next: mmkd-distill {path} {machines.path} --modality SENSOR -o student.ckpt; mmkd-data report"
        f" {machines.path} shows which SENSOR to choose"
    )
    assert page.read_text(encoding="utf-8").count("<svg") == 1  # of missing samples


def test_scores_of_two_models_stand_side_by_side_with_the_gain_and_chance(run, make_student, machines):
    ours, theirs = make_student("ours.ckpt"), make_student("theirs.ckpt", seed=1)
    code, out, _ = run(ours, machines.path, "--split", "valid", "--against", theirs)
    assert code == 0
    lines = out.splitlines()
    models = training_facts(run(ours, machines.path, "--split", "valid", "--against", theirs, "--json")[1])["models"]
    gain = models["theirs.ckpt"]["gain"]
    figures = [100 * models[name]["scores"]["balanced_accuracy"] for name in ("ours.ckpt", "theirs.ckpt")]
    assert gain == {"mean": pytest.approx(figures[0] - figures[1]), "low": None, "high": None}
    low, high = (100 * models["ours.ckpt"]["chance"][end] for end in ("low", "high"))
    ends = f"(95 % CI of windows of 2 groups: {low:.1f} to {high:.1f})"
    chance = f"{ends}: no better than chance, so no conclusion is drawn (33.3%)"
    assert lines[:3] == [
        "ours.ckpt, theirs.ckpt on 12 valid windows of machines (2 groups)",
        f"ours.ckpt has {figures[0]:.1f}% balanced accuracy {chance}.",
        f"Compared with theirs.ckpt: {gain['mean']:+.1f} points (too few for an interval).",
    ]
    assert lines[-4:] == [
        "too few groups for an interval: 2, at least 5 are needed; new ones may differ",
        f"caution: {ours} was chosen by 12 of these 12 windows: its scores flatter it",
        f"caution: {theirs} was chosen by 12 of these 12 windows: its scores flatter it",
        f"next: mmkd-export {ours}",
    ]


def test_a_model_of_another_dataset_or_of_an_unknown_fold_is_judged_with_a_caution(
    run, make_teacher, make_student, machines
):
    path = make_teacher("t.ckpt", seed=0)
    out = run(path, machines.path)[1]
    said = f"{path} was trained on another dataset (SHA-256 abababababab...): this one is a new domain"
    assert f"caution: {said}" in out.splitlines()
    found = json.loads(run(path, machines.path, "--json")[1])
    assert found["cautions"] == [said]
    old = make_student("old.ckpt", fold=msgspec.UNSET)
    out = run(old, machines.path, "--fold", "3")[1]
    assert f"caution: {old} does not record which windows trained it: some of these may have" in out.splitlines()


@pytest.mark.parametrize(
    ("fold", "asked", "part", "known", "right", "trained"),
    [
        (0, ("--fold", "3"), "test windows of fold 3", "fold 0", "--fold 0", 12),
        (1, (), "test windows", "fold 1", "--fold 1", 6),  # machine 8 judges fold 1, machine 9 trains
        (None, ("--fold", "3"), "test windows of fold 3", "the dataset's own split", "--split test", 6),
        (None, ("--split", "train"), "train windows", "the dataset's own split", "--split test", 36),
    ],
)
def test_windows_that_trained_the_model_are_refused_and_the_right_ones_named(
    run, make_student, machines, *, fold, asked, part, known, right, trained
):
    path = make_student("s.ckpt", fold=fold)
    of = 36 if "train" in asked else 12
    refused = (
        f"mmkd-evaluate: {path}: expected windows that did not train it, got {part}: {trained} of {of} did, "
        f"since it was trained on {known}; use {right}\n"
    )
    assert run(path, machines.path, *asked) == (2, "", refused)
    assert run(path, machines.path, *right.split())[0] == 0


def test_without_groups_the_table_says_what_the_windows_are_and_resamples_blocks(
    run, student_checkpoint, dataset, tmp_path
):
    path = write_random_student(tmp_path / "s.ckpt", student_checkpoint, dataset)
    other = tmp_path / "other.ckpt"
    other.write_bytes(path.read_bytes())
    code, out, _ = run(path, dataset.path, "--against", other)
    assert code == 0
    windows = "windows of the dataset's own test split; no groups: may be of groups that trained"
    assert out.splitlines()[0].endswith(f"on 8 test windows of two ({windows})")
    note = "too few blocks of windows for an interval: 2, at least 5 are needed; new ones may differ"
    assert note in out.splitlines()
    found = json.loads(run(path, dataset.path, "--json")[1])["data"]
    split = {"by": "own split", "judged_on": windows, "resampled": "blocks of 6 consecutive windows"}
    assert (found["groups"], found["split"]) == (0, split)
    assert run(path, dataset.path, "--fold", "1")[2] == (
        "mmkd-evaluate: fold 1: expected 0, since dataset 'two' has no groups, so that its own split is its only fold; "
        "to have more, write groups.npy (the person, machine or session of each window)"
        ", or set split.group in its recipe\n"
    )
