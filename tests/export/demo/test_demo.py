"""`mmkd-demo` from recordings to the page, on small datasets."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import mmkd_edge
from mmkd_app.commands.demo import quick_options, run_demo, show_demo
from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.train import run_train
from mmkd_app.demo_bundles import measure
from mmkd_app.experiments import ComparisonOptions, requested_plan
from mmkd_app.pages.demo_answer import is_judged, leading_rival, recommendation, shipped_text
from mmkd_app.words import for_terminal
from mmkd_documents.demo import DemoBenchmark, DemoDocument, LatencyPercentiles
from mmkd_documents.figures import Spread
from mmkd_documents.study import PairLatency
from mmkd_edge import Bundle, EdgePredictor
from mmkd_edge.errors import GateError, MmkdError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.dataset import shipped_dataset
from mmkd_models.data.folds import Labelled
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.experiments.experiment import Experiment, ResultTable
from mmkd_models.experiments.experiment import run as run_experiment
from mmkd_models.experiments.summary import demo_document
from mmkd_models.experiments.workers import torch_threads
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import read_student, read_teacher
from tests.app.pages.rendered import read_demo, render_demo
from tests.edge.ended import has_ended
from tests.edge.said import said
from tests.models.conftest import SENSORS, comparison_of, grouped_split, leaky_copy

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LIMIT_S = 600  # of one run on a busy machine
LABELS = ("idle", "ok", "worn")
TIMES_MS = {"p50": 0.2, "p90": 0.3, "p99": 0.4}
TIMES = LatencyPercentiles(**TIMES_MS)
Finished = tuple[Experiment, ResultTable]
Measured = tuple[DemoDocument, list[tuple[Path, Path | None]]]


def dataset_of(path, *modalities):
    """Ten machines of six windows: 36 to train on, 12 to validate, 12 to test; `temp` has an offset in every group."""
    splits = {}
    for split, groups in {"train": range(6), "valid": range(6, 8), "test": range(8, 10)}.items():
        found = grouped_split(groups)
        heat = 20 + 5 * found["groups"] + found["labels"]
        found["temp"] = heat[:, None, None] + np.random.default_rng(groups.start).normal(0, 0.1, (len(heat), 6, 1))
        splits[split] = {name: found[name] for name in (*[one.name for one in modalities], "labels", "groups")}
    return write_dataset(path, name="line 3", labels=LABELS, modalities=modalities, splits=splits)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("data") / "tiny", *SENSORS)


SHORT = ["--modality", "acc", "--steps", "4", "--duration-s", "0.4", "--label-fraction", "0.1", "--teacher", "tiny"]

LIMITS = ["--members", "transformer", "--student-members", "transformer,convolutions"]


def start(dataset, *options, cwd, **environment):
    command = [str(Path(sys.executable).with_name("mmkd-demo")), "--dataset", str(dataset.path), *SHORT, *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT | environment, stdout=pipe, stderr=pipe, text=True)


def run(dataset, *options, cwd, **environment):
    with start(dataset, *options, cwd=cwd, **environment) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_a_demo_that_would_tear_windows_apart_is_refused_before_anything_is_trained(tiny, tmp_path):
    line = ["--dataset", str(leaky_copy(tiny, tmp_path / "bare").path), "--out", str(tmp_path / "demo")]
    ask = "write groups.npy (the person, machine or session of each window), or set split.group in its recipe"
    assert said(MmkdError, run_demo, [*line, "--seeds", "2"]) == (
        "--seeds 2: expected 1 at most, since each judges on another fold and dataset 'bare' has no groups, so that "
        f"its own split is its only fold; to have more, {ask}"
    )
    assert said(MmkdError, run_demo, line) == (
        "dataset 'bare': the last 25 samples of train window 7 are the first of test window 2 in 'acc' (1 such in "
        f"all); splits must not share samples; {ask}, so that whole groups are in one of the splits"
    )
    assert not (tmp_path / "demo").exists()


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A finished demo: its folder, its arguments, what it said, its document."""

    folder: Path
    arguments: list[str]
    stderr: str
    document: dict[str, Any]


@pytest.fixture(scope="module")
def first(tiny, quick_rocket, tmp_path_factory):
    """One fold, in this process: torch takes seconds to import in another."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["--dataset", str(tiny.path), *SHORT, *LIMITS, "--json"]
    with pytest.MonkeyPatch.context() as patch, quick_rocket(), redirect_stdout(io.StringIO()) as stdout:
        patch.chdir(folder)
        with redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as ended:
            run_demo([*arguments, "--workers", "1"])
    assert ended.value.code == 0
    document = json.loads(stdout.getvalue())
    assert json.loads((folder / "demo" / "demo.json").read_text()) == document
    return Demo(folder=folder, arguments=arguments, stderr=stderr.getvalue(), document=document)


def trained(stderr):
    return [line.split(": step")[0] for line in stderr.splitlines() if ": step" in line]


@pytest.mark.slow
def test_a_killed_run_continues_where_it_was(tiny, tmp_path):
    """After `kill -9` before the first student, the same command goes on in two processes."""
    said = []
    with start(tiny, "--seeds", "2", "--workers", "1", cwd=tmp_path) as process:
        for line in process.stderr:
            said.append(line)
            if line.startswith("seed 1 acc rivals: done"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, said
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt") if path.name != "resume.ckpt"}
    assert sorted(path.relative_to(tmp_path).as_posix().rpartition("-")[0] for path in files) == [
        f"demo/{name}-seed{seed}" for name in ("teachers/tiny", "trials/none-acc-tiny-0.002") for seed in (0, 1)
    ]
    ended = run(tiny, "--seeds", "2", "--workers", "2", cwd=tmp_path)
    assert set(trained(ended.stderr)) == {"seed 0 acc taught tiny", "seed 1 acc taught tiny"}
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.slow
def test_a_demo_that_is_told_to_end_leaves_no_training_behind(tiny, tmp_path):
    """SIGTERM while two processes train, as `kill` and a container's end send it."""
    with start(tiny, "--seeds", "2", "--workers", "2", cwd=tmp_path) as process:
        for line in process.stderr:
            if "teacher" in line:
                break
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
    assert process.returncode == -signal.SIGTERM
    assert len(pids) >= 2
    assert all(has_ended(pid) for pid in pids)


@pytest.mark.slow
def test_a_machine_without_a_compiler_makes_the_demo(tiny, tmp_path):
    bare, engine = tmp_path / "bare", shutil.ignore_patterns("libmmkd*")
    shutil.copytree(Path(mmkd_edge.__file__).parent, bare / "mmkd_edge", ignore=engine)
    document = json.loads(run(tiny, *LIMITS, "--json", cwd=tmp_path, PYTHONPATH=str(bare), CC="/bin/false").stdout)
    assert document["benchmark"]["backend"] in ("openvino", "ort")
    with Bundle.open(tmp_path / document["benchmark"]["bundle"]) as bundle:
        assert "native" not in {artifact.format for artifact in bundle.manifest.models[0].artifacts}


def is_spread(entry):
    (figure,) = entry["per_seed"]
    return isinstance(figure, float) and 0 <= figure <= 1 and entry["mean"] == figure and entry.get("std") is None


def is_gain(entry):
    """Two machines were tested, which make no interval."""
    return isinstance(entry["mean"], float) and entry.get("low") is entry.get("high") is None


def is_latency(entry):
    return 0 < entry["p50"] <= entry["p90"] <= entry["p99"]


def test_the_document_has_every_figure_and_progress_is_on_stderr(first):
    document = first.document
    scores = ("accuracy", "balanced_accuracy", "macro_f1")
    assert document["dataset"]["name"] == "line 3"
    assert document["seeds"] == [0]
    assert document["label_fraction"] == 0.1
    teacher = document["teacher"]
    assert all(is_spread(teacher[key]) for key in scores)
    assert isinstance(teacher["parameters"], int)
    assert is_latency(teacher["latency_ms"])
    assert list(document["students"]) == ["acc"]
    for name, entry in document["students"].items():
        for network in (entry["baseline"], entry["student"]):
            assert all(is_spread(network[key]) for key in scores)
            assert 0 < network["parameters"] < teacher["parameters"]
        assert is_latency(entry["student"]["latency_ms"])
        alike = entry["baseline"]["kinds"][0] == entry["student"]["kinds"][0] == "transformer"
        assert is_latency(entry["baseline"]["latency_ms"]) if alike else "latency_ms" not in entry["baseline"]
        for rival in (entry["extra_trees"], entry["mini_rocket"]):
            assert all(is_spread(rival[key]) for key in scores)
        assert is_gain(entry["gain_points"])
        assert entry["gap_recovered"] is None or isinstance(entry["gap_recovered"], float)
        assert entry["latency_ratio"] > 1
        assert entry["bundle"] == f"demo/{name}.edge"
    assert is_gain(document["mean_gain_points"])
    assert document["report"] == "demo/report.html"
    assert document["benchmark"]["bundle"] == "demo/student.edge"
    said = [line for line in first.stderr.splitlines() if ": step" not in line and not line.startswith("seed ")]
    assert said == [
        "export: acc student",
        "latency: teacher against acc student",
        "benchmark: acc student through EdgePredictor",
    ]


def test_students_are_of_the_members_that_are_asked_for(first):
    (taught,) = (first.folder / "demo").glob("trials/*taught*/student.ckpt")
    student = read_student(taught)
    names = [trial.name for trial in student.facts.tried or ()]
    assert names[:2] == ["transformer", "convolutions"]
    assert set(names[2:]) <= {"average of transformer, convolutions", "labels only"}
    assert student.portable is None


@pytest.mark.parametrize(("rival", "members"), [("mini_rocket", "convolutions"), ("extra_trees", "trees")])
def test_a_rival_that_validates_best_is_the_next_command(tiny, first, capsys, rival, members):
    demo = read_demo(first.document)
    acc, best, half = demo.students["acc"], Spread(mean=1.0, per_seed=(1.0,)), Spread(mean=0.5, per_seed=(0.5,))
    rivals = dict.fromkeys(("extra_trees", "mini_rocket", "rocket_and_trees"))
    rivals[rival] = msgspec.structs.replace(getattr(acc, rival), valid_score=best)
    student = msgspec.structs.replace(acc.student, chance=None, valid_score=half)
    altered = msgspec.structs.replace(acc, student=student, **rivals)
    show_demo(msgspec.structs.replace(demo, students={"acc": altered}), out=Path("demo"), dataset=tiny)
    *_, verdict, last = capsys.readouterr().out.splitlines()
    assert verdict.startswith(f"Recommended: {members} on labels only for acc. On validation ")
    assert last == (
        f"wrote demo/report.html and demo/student.edge; next: mmkd-train student {tiny.path} --modality acc --fold 0 "
        f"--label-fraction 0.1 --members {members} -o demo/recommended.ckpt"
    )


def test_labels_are_hidden_in_the_shipped_recordings_alone(tiny):
    shipped = open_dataset(shipped_dataset())
    assert requested_plan(shipped, ComparisonOptions()).conditions.labelled == Labelled(groups=2)
    plan = requested_plan(tiny, ComparisonOptions(student_members="trees, transformer"))
    assert (plan.conditions.labelled, plan.conditions.members) == (Labelled(), ("transformer", "trees"))
    assert requested_plan(tiny, ComparisonOptions(labelled_groups=3)).conditions.labelled == Labelled(groups=3)


def test_a_quick_demo_has_a_tiny_teacher_few_steps_and_no_transformer_student(tiny):
    plan = requested_plan(tiny, quick_options(tiny, ComparisonOptions(seeds=2, labelled_groups=3)))
    conditions = plan.conditions
    assert (plan.teacher.preset, conditions.teacher_train.steps, conditions.student_train.steps) == ("tiny", 60, 60)
    assert (conditions.members, conditions.choose) == (("convolutions", "intervals", "trees"), True)
    assert conditions.labelled == Labelled(groups=3)


def test_a_first_look_ends_with_the_command_of_the_full_one(tiny, first, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mmkd-demo", "--quick", "--out", "demo"])
    demo = msgspec.structs.replace(read_demo(first.document), is_first_look=True)
    for quick_s, long in ((None, "longer"), (20.0, "about 1 min"), (158.6, "about 7 min")):
        show_demo(demo, out=Path("demo"), dataset=tiny, quick_s=quick_s)
        assert capsys.readouterr().out.splitlines()[-1] == (
            f"wrote demo/report.html and demo/student.edge, a first look; the full one takes {long}; next: mmkd-demo "
            "--out demo"
        )


@pytest.mark.slow
def test_a_quick_run_says_that_it_is_a_first_look_and_shares_its_folder_with_the_full_one(tiny, tmp_path):
    command = [str(Path(sys.executable).with_name("mmkd-demo")), "--quick", "--dataset", str(tiny.path), "--json"]
    ended = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["is_first_look"]
    assert document["students"]["acc"]["student"]["kinds"][0] != "transformer"
    assert "distilled_rocket" not in document["students"]["acc"]
    assert "A first look, with a small teacher" in (tmp_path / "demo" / "report.html").read_text()
    full = run(tiny, *LIMITS, "--json", cwd=tmp_path)
    assert "is_first_look" not in json.loads(full.stdout)
    assert len(list((tmp_path / "demo" / "teachers").iterdir())) == 2


def without_times(entry):
    """The document without what is measured in time or memory."""
    measured = {"latency_ms", "latency_ratio", "latency_ratios", "benchmark", "duration_s", "machine", "command"}
    if isinstance(entry, dict):
        return {key: without_times(value) for key, value in entry.items() if key not in measured}
    return [without_times(value) for value in entry] if isinstance(entry, list) else entry


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_finds_the_same(tiny, first):
    folder, document = first.folder, first.document
    bundle = (folder / "demo" / "acc.edge").read_bytes()
    began = time.monotonic()
    again = run(tiny, *LIMITS, cwd=folder)  # starts no process
    assert time.monotonic() - began < LIMIT_S / 2
    assert trained(again.stderr) == []
    assert without_times(json.loads((folder / "demo" / "demo.json").read_text())) == without_times(document)
    assert (folder / "demo" / "acc.edge").read_bytes() == bundle
    check_words(again.stdout, document)


def test_a_refused_export_leaves_what_was_learnt(first, tmp_path, monkeypatch):
    document = first.document
    shutil.copytree(first.folder / "demo", tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    whole = (tmp_path / "demo" / "demo.json").read_bytes()

    def refuse(*_, **__):
        raise GateError("acc: refused")

    monkeypatch.setattr("mmkd_app.demo_bundles.export", refuse)
    for name in ("", "demo.json"):  # a document of everything that was measured stays
        if name:
            (tmp_path / "demo" / name).unlink()
        with pytest.raises(GateError, match="acc: refused"):
            run_demo(first.arguments)
        assert ((tmp_path / "demo" / "demo.json").read_bytes() == whole) == (not name)
    left = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert without_times(left["students"]["acc"]["student"]) == without_times(document["students"]["acc"]["student"])
    assert left["students"]["acc"]["gain_points"] == document["students"]["acc"]["gain_points"]
    assert "benchmark" not in left
    assert "line 3" in (tmp_path / "demo" / "report.html").read_text()


def check_words(stdout, document):
    """Without --json: a table, what validation shipped, and its verdict; a student is offered where one is judged."""
    *_, verdict, last = lines = stdout.splitlines()
    acc = next(line for line in lines if line.startswith("│ acc"))
    gain = document["students"]["acc"]["gain_points"]["mean"]
    assert (f"{gain:+.1f}" if gain else " 0.0 ") in acc
    assert f"{document['students']['acc']['student']['accuracy']['mean']:.3f} " in acc
    demo = read_demo(document)
    assert for_terminal(shipped_text(demo)) in lines
    assert verdict == for_terminal(recommendation(demo))
    assert verdict.isascii()
    rival = leading_rival(demo)
    following = "mmkd-train student " if rival else "mmkd-bench run demo/student.edge"
    following = following if is_judged(demo) else "mmkd-data check "
    assert last.startswith(f"wrote demo/report.html and demo/student.edge; next: {following}")
    assert any("EdgePredictor" in line for line in lines) == (is_judged(demo) and not rival)


@pytest.mark.parametrize(
    ("options", "message"),
    {
        "--student huge": "--student: expected one of tiny, small, medium, base, got 'huge'; choose one of them",
        "--method none": (
            "--method: expected one of logit, logit+task, dkd, dist, edam@first, edam@last, edam@uniform, "
            "relation@last, relation@uniform, feature@hidden, feature@embedding, crd, logit+edam@last, "
            "logit+relation@last, logit+feature@hidden, logit+crd, logit+edam+crd@last, got 'none'; choose one of them"
        ),
        "--quick --steps 9": "--steps: has no effect with --quick; leave it out",
        "--executor cloud": "--executor: expected one of local, ray, got 'cloud'; choose one of them",
        "--no-choose --max-latency-ms 1": ("--max-latency-ms limits what a choice may take; leave out --no-choose"),
        "--modality sound": "dataset 'line 3': modality 'sound' is not in it; choose one of acc, gyro",
        "--labelled-groups 7": (
            "labelled groups: expected 1 to 6 of the labelled groups that dataset 'line 3' trains on, got 7; choose "
            "another number"
        ),
    }.items(),
)
def test_a_bad_option_is_refused_before_anything_is_trained(tiny, tmp_path, capsys, options, message):
    line = ["--dataset", str(tiny.path), "--out", str(tmp_path / "out"), *options.split()]
    assert said(MmkdError, run_demo, line) == message
    assert "step" not in capsys.readouterr().err


def test_the_student_of_the_demo_is_what_the_commands_of_the_quick_start_make(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmkd_models.training.closed_form._TREES", 20)
    small = {"steps": 2, "teacher": "tiny", "members": "transformer", "student_members": "transformer,intervals,trees"}
    options = ComparisonOptions(**small, modality=["acc"], labelled_groups=2)
    plan = requested_plan(tiny, options, workers=1, rivals=())
    experiment = Experiment(dataset=tiny, plan=plan, out=tmp_path / "demo")
    run_experiment(experiment)
    same = f"{tiny.path} --steps 2 --fold 0 --labelled-groups 2"
    for command, line in (
        (run_train, f"teacher {same} --preset tiny --members transformer"),
        (run_distill, f"teacher.ckpt {same} --modality acc --members transformer,intervals,trees"),
    ):
        with torch_threads(), pytest.raises(SystemExit, match="0"):
            command(line.split())
    made, expected = read_student(tmp_path / "student.ckpt"), read_student(experiment.student_path("acc", 0))
    assert [(trial.name, trial.valid_score) for trial in made.facts.tried or ()] == [
        (trial.name, trial.valid_score) for trial in expected.facts.tried or ()
    ]
    assert {name: tensor.tolist() for name, tensor in made.state.items()} == {
        name: tensor.tolist() for name, tensor in expected.state.items()
    }


TEMP = ModalitySpec(name="temp", channels=("t",), rate_hz=1.0, samples=6, unit="degC", normalise="per_group")


@pytest.fixture(scope="module")
def thermometer(tmp_path_factory):
    """A finished fold of a dataset with one modality, normalised per group, too short for MiniRocket."""
    folder = tmp_path_factory.mktemp("thermometer")
    dataset = dataset_of(folder / "data", TEMP)
    train = TrainConfig(steps=12, batch=16)
    options = {"labelled": Labelled(), "modalities": ("temp",), "sensors": ("temp",), "seeds": (0,)}
    options |= {"recipe": default_recipe(dataset.spec.task), "baseline_learning_rates": (3e-3,)}
    plan = comparison_of(**options, teacher_train=train, student_train=train)
    experiment = Experiment(dataset=dataset, plan=plan, out=folder)
    return experiment, run_experiment(experiment)


@pytest.fixture(scope="module")
def measured(thermometer):
    """The document of the fold with fixed times, and which bundle and reference were benchmarked."""
    experiment, table = thermometer
    asked = []

    def bundle(path, reference):
        asked.append((path, reference))
        return DemoBenchmark(latency_ms=TIMES), {"cpu": "a test"}

    document = demo_document(table)
    times = PairLatency(student_ms=TIMES_MS, teacher_ms=TIMES_MS, ratio=1.0)
    return measure(document, experiment, pair=lambda *_: times, bundle=bundle, say=lambda line: None), asked


def test_windows_too_short_for_a_member_are_refused_before_any_training(thermometer):
    dataset, asked = thermometer[0].dataset, {"student_members": "transformer,trees", "seeds": 1}
    with pytest.raises(UsageError) as refused:
        requested_plan(dataset, ComparisonOptions(**asked, choose=False))
    assert str(refused.value) == (
        "modality 'temp': trees: expected windows of at least 8 samples, got 6; take longer windows, or the member "
        "transformer"
    )
    assert requested_plan(dataset, ComparisonOptions(**asked)).conditions.choose  # which leaves trees out
    assert "transformer" in quick_options(dataset, ComparisonOptions()).student_members.split(",")


def test_a_student_that_is_normalised_per_group_comes_with_a_reference(thermometer, measured):
    experiment, table = thermometer
    dataset, folder = experiment.dataset, experiment.out
    found, asked = measured
    reference = folder / "temp.reference.json"
    assert found.students["temp"].reference == str(reference)
    assert asked == [(folder / "student.edge", reference)]
    (group, *_) = table.student("temp")[0].test.confusions or ()
    rows = np.flatnonzero(dataset.everything().groups == group.group)
    raw = np.asarray([split_window(dataset, row) for row in rows])
    with EdgePredictor.open(folder / "student.edge", reference=reference) as predictor:
        answers = [prediction.index for prediction in predictor.predict_batch(raw)]
    assert sum(np.array(answers) == dataset.everything().labels[rows]) == np.trace(group.confusion)


def split_window(dataset, row):
    """The raw window of that number, as a device has it."""
    for split in ("train", "valid", "test"):
        values = np.load(dataset.path / split / "temp.npy")
        if row < len(values):
            return values[row].astype(np.float32)
        row -= len(values)
    raise AssertionError


def test_one_sensor_is_a_teacher_too_and_makes_a_page(thermometer, measured):
    folder, document = thermometer[0].out, msgspec.to_builtins(measured[0])
    assert document["students"]["temp"]["baseline"]["latency_ms"] == document["teacher"]["latency_ms"] == TIMES_MS
    entry = document["students"]["temp"]
    assert entry["mini_rocket"]["accuracy"] is None
    assert entry["mini_rocket"]["reason"].startswith("MiniRocket refused these windows: ")
    page = render_demo({**document, "report": "report.html"})
    assert f"EdgePredictor.open({str(folder / 'student.edge')!r}" not in page  # the page names the sensor's own bundle
    assert f"reference={str(folder / 'temp.reference.json')!r}" in page.replace("&#39;", "'")


@pytest.mark.slow
def test_the_teacher_and_the_students_are_made_as_they_are_asked_for(tiny, tmp_path, first):
    run(tiny, "--workers", "1", "--no-choose", cwd=tmp_path)
    folders = [first.folder / "demo", tmp_path / "demo"]
    teachers = [read_teacher(next(out.glob("teachers/tiny-seed0-*/teacher.ckpt"))).committee for out in folders]
    assert teachers[0] is None
    assert [one.kind for one in teachers[1].members][:3] == ["transformer", "convolutions", "trees"]
    paths = [next(out.glob("trials/taught-acc-*-seed0-*/student.ckpt")) for out in folders]
    assert [bool(read_student(path).facts.tried) for path in paths] == [True, False]
