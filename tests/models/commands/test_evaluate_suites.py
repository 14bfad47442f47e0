"""`mmkd-evaluate --suite`: checkpoints and bundles side by side, what is refused, and the page of the document."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_edge import example_bundle
from mmkd_edge.install.keys import make_keys
from mmkd_edge.spec import task_text
from mmkd_models.data import write_dataset
from mmkd_models.data.folds import Labelled
from mmkd_models.evaluation.faults import NAMES
from mmkd_models.evaluation.rivals import RIVALS
from mmkd_models.training.checkpoint import read_student, write_student
from tests.app.pages.rendered import render_judging
from tests.models.judging_rig import write_random_student, write_random_teacher
from tests.models.kinds_rig import kinds_dataset

pytestmark = pytest.mark.usefixtures("few_trees")


def facts_of(document, suite):
    return document["suites"][suite]["facts"]


@pytest.fixture
def models(machines, student_checkpoint, teacher_checkpoint, tmp_path):
    """A student that a teacher taught, one of labels only, and a teacher, with random weights."""
    paths = {name: tmp_path / f"{name}.ckpt" for name in ("student", "labels", "teacher")}
    write_random_student(paths["student"], student_checkpoint, machines, teacher_sha256="f" * 64)
    write_random_student(paths["labels"], student_checkpoint, machines, seed=1, teacher_sha256=None)
    write_random_teacher(paths["teacher"], teacher_checkpoint, machines, seed=9)
    return paths


@pytest.mark.parametrize("name", ["mic", "cam"])
def test_every_suite_takes_what_hears_and_what_sees(run, student_checkpoint, tmp_path, name):
    data = kinds_dataset(tmp_path / "kinds")
    spec = data.spec.modality(name)
    student, file = tmp_path / "student.ckpt", tmp_path / "cost.toml"
    write_random_student(student, student_checkpoint, data, spec)
    file.write_text("version = 1\n[student]\n")
    code, out, err = run(student, data.path, "--suite", "all", "--cost", file, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert list(document["suites"]) == ["scores", "missing", "faults", "groups", "confidence", "cost"]
    faults = [one["name"] for one in facts_of(document, "faults")["faults"]]
    conditions = [one["condition"] for one in facts_of(document, "confidence")["models"]["student.ckpt"]]
    assert conditions == ["intact", *(fault for fault in NAMES if fault in faults)]


_SUITES = "scores, missing, faults, shift, groups, combined, confidence, over_time, cost, normal, all"
_NO_METADATA = "--by machine: dataset 'machines' has no such metadata; choose one of group"


WRONG = {
    "--suite fault": f"--suite: expected one of {_SUITES}, got 'fault'; choose one of them",
    "--suite combined": "--suite combined: expected windows with two labels or more, got none of test windows of"
    " 'machines' (kind classification); leave the suite out, or name another --split",
    "--split exam": "--split: expected one of train, valid, test, got 'exam'; choose one of them",
    "--fold 99": "fold 99: expected 0 to 4, since dataset 'machines' has 5 folds; choose among them",
    "--suite all --by machine": _NO_METADATA,
    "--suite all --by machine --rival extra_trees": _NO_METADATA,  # and no rival is trained before
    "--suite faults --rival distilled_rocket": f"--rival: expected one of {', '.join(RIVALS[:-1])}, got"
    " 'distilled_rocket'; choose one of them",
    "--suite faults --rival extra_trees --split valid": "--rival: 12 of the windows to judge train or choose a rival;"
    " judge by --split test or --fold N, or leave it out",
    "--suite groups --against {folder}/./../{folder.name}/student.ckpt": "--against"
    " {folder}/../{folder.name}/student.ckpt: this file is already named; name each once",
}


@pytest.mark.parametrize(("options", "message"), WRONG.items())
def test_a_wrong_option_is_refused_before_anything_is_judged(run, models, machines, options, message):
    student = models["student"]
    line, wanted = (text.format(folder=student.parent) for text in (options, message))
    assert run(student, machines.path, *line.split()) == (2, "", f"mmkd-evaluate: {wanted}\n")


def test_a_teacher_of_several_sensors_has_no_rivals(run, models, machines):
    code, out, err = run(models["teacher"], machines.path, "--suite", "faults", "--rival", "extra_trees")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "mmkd-evaluate: --rival: rivals learn on one sensor, and teacher.ckpt uses acc, gyro; judge a student, and "
        "name the teacher by --against"
    )


def test_a_model_and_a_dataset_that_do_not_belong_together_are_refused_whole(
    run, models, machines, rigs, student_checkpoint, tmp_path
):
    student, suite = models["student"], ("--suite", "faults")

    def refused(*arguments, expected=2):
        code, text, err = run(*arguments)
        assert (code, text) == (expected, "")
        return err.removeprefix("mmkd-evaluate: ").rstrip("\n")

    def data(name, *modalities, **labels):
        splits = {}
        for split in ("train", "valid", "test"):
            windows = machines.split(split)
            values = windows.take(np.arange(len(windows)))
            splits[split] = {one: values[one] for one in modalities} | {"labels": labels.get(split, windows.labels)}
        specs = [machines.spec.modality(one) for one in modalities]
        return write_dataset(
            tmp_path / name, name=name, labels=machines.spec.task.labels, modalities=specs, splits=splits
        ).path

    assert refused(student, data("other", "gyro"), *suite) == (
        f"{student}: student: expected a dataset with modality 'acc', which it was trained with, got gyro; "
        "name the dataset of its training, or train a student on this dataset"
    )
    spec = msgspec.structs.replace(machines.spec.modality("acc"), samples=80)
    longer = write_random_student(tmp_path / "longer.ckpt", student_checkpoint, machines, spec)
    assert refused(longer, machines.path) == (
        f"{longer}: student: modality 'acc': expected windows (T, C)=(80, 2) at 20.0 Hz, got (40, 2) at 20.0 Hz; "
        "name the dataset of its training, or train a student on this dataset"
    )
    rig = rigs["regression"]
    assert refused(student, rig.path, *suite) == (
        f"{student}: student: expected the {task_text(rig.spec.task)} of the dataset, got classes idle, ok, worn; "
        "name the dataset of its training, or train a student on this dataset"
    )
    nowhere = tmp_path / "nowhere"
    assert refused(student, nowhere, *suite) == (
        f"{nowhere}: expected a dataset directory, found none there; check the path"
    )
    cut = tmp_path / "cut.edge"
    cut.write_bytes(example_bundle().read_bytes()[:-9])
    assert refused(cut, machines.path, *suite, expected=6) == (
        f"{cut}: the bundle is truncated or changed: its end record is missing; copy or export it again"
    )
    assert refused(student, data("alone", "acc"), "--suite", "groups") == (
        "--suite groups: dataset 'alone' has no groups; write groups.npy (the person, machine or session of each "
        "window), or set split.group in its recipe, or name metadata with --by"
    )
    silent = data("silent", "acc", valid=np.full(12, -1))
    assert refused(student, silent, *suite, "--rival", "extra_trees") == (
        "--rival: expected labelled windows of train and valid, got none; label some, or leave it out"
    )
    fine, file = data("fine", "acc", test=np.arange(12) % 2), tmp_path / "cost.toml"
    file.write_text('version = 1\nhealthy = ["idle", "ok"]')
    assert refused(student, fine, "--suite", "cost", "--cost", file) == (
        "--suite cost: the windows to judge have no faults; name other 'healthy' labels, or another --split"
    )


def test_what_a_suite_cannot_take_or_nobody_signed_is_said_before_another_runs(
    run, machines, tmp_path, monkeypatch, models, rigs
):
    pytest.importorskip("cryptography")
    make_keys(tmp_path / "line.key")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o755)
    (keys / "line.pub").write_bytes((tmp_path / "line.key.pub").read_bytes())
    monkeypatch.setenv("MMKD_KEYS", str(keys))
    code, out, err = run(example_bundle(), machines.path, "--suite", "faults")
    assert (code, out) == (6, "")
    assert err.startswith(f"mmkd-evaluate: {example_bundle()}: ")
    assert "sign" in err
    file = tmp_path / "cost.toml"
    for text, says in (
        ("version = 2", f"--cost {file}: 'version': expected 1, got 2; use the mmkd-edge that wrote it"),
        (
            'version = 1\nhealthy = ["good"]',
            "--cost: 'healthy': expected labels of idle, ok, worn, got 'good'; correct it",
        ),
    ):
        file.write_text(text)
        given = (models["student"], machines.path, "--suite", "all", "--cost", file)
        assert run(*given) == (2, "", f"mmkd-evaluate: {says}\n")


def test_costs_are_reckoned_from_the_printed_template(run, models, machines, tmp_path):
    code, template, _ = run("--print-cost")
    assert code == 0
    file = tmp_path / "cost.toml"
    file.write_text(template)
    line = [word for name in ("labels", "teacher") for word in ("--against", models[name])]
    given = (models["student"], machines.path, "--suite", "cost", *line)
    code, out, err = run(*given, "--cost", file)
    assert (code, err) == (0, "cost\n")
    assert sum(row.startswith(("teacher ", "student ", "rival ")) for row in out.splitlines()) == 3
    example = "The costs are an example and no verdict: enter healthy, plant.missed_cost, teacher.sensor_price, "
    assert example in " ".join(out.split())
    assert "Example, not a verdict: costs and gains in EUR:" in out
    assert "best option" not in out
    assert "\nhealthy: idle; detection and false alarms are fractions of windows\n" in out
    code, out, _ = run(*given, "--cost", file, "--json")
    document = json.loads(out)
    roles = {"student.ckpt": "distilled", "labels.ckpt": "labels only", "teacher.ckpt": "teacher"}
    assert {one["name"]: one["role"] for one in document["models"]} == roles
    assert document["baseline"] == "labels.ckpt"
    costs = facts_of(document, "cost")
    assert (sorted(costs["results"]), costs["unit"]) == (["rival", "student", "teacher"], "windows")
    marks = {one["path"]: one["mark"] for one in costs["assumptions"]}
    assert (marks["student.detection"], marks["plant.years"]) == ("measured", "entered")
    for words, says in (
        (given, "--suite cost needs --cost FILE.toml; --print-cost prints such a file"),
        ((*given[:2], "--cost", file), "--cost needs --suite cost; add it, or leave --cost out"),
        (
            (*given, "--cost", file, "--by", "site"),
            "--by needs --suite groups or shift or normal; add it, or leave --by out",
        ),
    ):
        assert run(*words) == (2, "", f"mmkd-evaluate: {says}\n")


def test_rivals_stand_beside_every_suite_and_see_the_labels_of_the_student(
    run, models, machines, tmp_path, quick_rocket
):
    pytest.importorskip("aeon")
    file = tmp_path / "cost.toml"
    file.write_text("version = 1\n[student]\n[rival]\n")
    line = ("--rival", "extra_trees", "--rival", "mini_rocket", "--suite", "all", "--cost", file, "--json")
    with quick_rocket():
        code, out, err = run(models["student"], machines.path, *line)
    assert code == 0, err
    document = json.loads(out)
    names = ["student.ckpt", "extra-trees", "MiniRocket"]
    assert [one["name"] for one in document["models"]] == names
    assert [one["role"] for one in document["models"]] == ["distilled", "rival", "rival"]
    assert [one["parameters"] is None for one in document["models"]] == [False, True, True]
    assert document["baseline"] is None
    assert all(list(one["errors"]) == names for one in facts_of(document, "faults")["faults"])
    assert all(list(one["figures"]) == names for one in facts_of(document, "groups")["values"])
    assert list(facts_of(document, "confidence")["models"]) == names
    assert sorted(facts_of(document, "cost")["results"]) == ["rival", "student"]  # extra-trees, the first rival
    assert "extra-trees</dt><dd>a rival trained on the same labels, acc</dd>" in render_judging(document)
    checkpoint = read_student(models["student"])
    facts = msgspec.structs.replace(checkpoint.facts, labelled=Labelled(fraction=0.5))
    for of, seen in ((checkpoint.facts, 36), (facts, 18)):
        write_student(models["student"], replace(checkpoint, facts=of))
        code, _, err = run(models["student"], machines.path, "--suite", "groups", "--rival", "extra_trees")
        assert code == 0
        assert err.splitlines() == [f"rivals learn from {seen} labelled windows: extra_trees", "groups"]


def test_two_files_of_one_name_are_told_apart_by_their_folder(run, models, machines, tmp_path):
    other = tmp_path / "other" / "student.ckpt"
    other.parent.mkdir()
    other.write_bytes(models["student"].read_bytes())
    code, out, _ = run(models["student"], machines.path, "--suite", "groups", "--against", other, "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)["models"]] == [str(models["student"]), str(other)]
