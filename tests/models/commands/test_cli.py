"""`mmkd-study` as a user meets it: a process, its files, messages and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_models.commands.study import run_study
from mmkd_models.data import Dataset
from mmkd_models.training.checkpoint import read_student

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SHORT = [
    "--steps",
    "6",
    "--teacher-steps",
    "6",
    "--teacher",
    "tiny",
    "--student",
    "tiny",
    "--no-latency",
    "--rival",
    "extra_trees",
]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("mmkd-study")), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def finished(machines: Dataset, folder: Path) -> subprocess.CompletedProcess[str]:
    """A grid of two methods on two seeds, in a process of its own."""
    options = ["--modality", "acc", "-o", "study", "--grid", "--seeds", "2", "--method", "logit"]
    return run(machines.path, *options, *SHORT, cwd=folder)


def test_a_study_ends_with_a_table_and_what_to_do_next(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].strip() == (
        "machines, acc: balanced accuracy on people and machines never seen (2 folds), 100% labelled"
    )
    assert lines[-2].startswith("chosen by validation: tiny student, ")
    assert lines[-1] == (
        "wrote study/report.html and study/student.ckpt; next: mmkd-export study/student.ckpt -o study/student.edge"
    )
    assert "seed 1 acc logit tiny" in finished.stderr
    assert finished.stderr.count(" best valid ") >= 6
    assert "Traceback" not in finished.stderr


def test_its_files_are_there_and_agree(finished: subprocess.CompletedProcess[str], folder: Path) -> None:
    document = json.loads((folder / "study" / "study.json").read_text())
    assert document["command"].startswith("mmkd-study ")
    assert [row["method"] for row in document["entries"]] == ["none", "logit"]
    assert document["coverage"] == {"complete": True, "finished": 8, "failed": 0, "expected": 8}
    page = (folder / "study" / "report.html").read_text()
    assert document["recommendation"]["sha256"] in page
    assert len(page) < 1_000_000
    assert read_student(folder / "study" / "student.ckpt").modality.name == "acc"


def test_the_same_command_prints_the_same_study_as_json(
    machines: Dataset,
    finished: subprocess.CompletedProcess[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = json.loads((folder / "study" / "study.json").read_text())
    shutil.copytree(folder / "study", tmp_path / "study")  # it writes the document again, with a command of its own
    monkeypatch.chdir(tmp_path)
    arguments = [str(machines.path), "--modality", "acc", "-o", "study", "--grid", "--seeds", "2", "--method", "logit"]
    with pytest.raises(SystemExit) as ended:
        run_study([*arguments, *SHORT, "--json"])
    assert ended.value.code == 0
    after = json.loads(capsys.readouterr().out)
    changing = {"duration_s", "command"}
    assert {key: after[key] for key in after.keys() - changing} == {
        key: before[key] for key in before.keys() - changing
    }


def test_methods_are_listed_with_their_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_study(["--list-methods"])
    methods = json.loads(capsys.readouterr().out)
    assert methods["none"] is None
    assert methods["logit"]["terms"] == [
        {"type": "logit", "weight": {"start": 1.0, "end": 1.0, "until": 1.0}, "temperature": 2.0}
    ]


def test_a_recipe_of_ones_own_is_a_method(
    machines: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "warm.json"
    recipe.write_text('{"terms": [{"type": "logit", "weight": {"start": 1.0, "end": 1.0}, "temperature": 4.0}]}')
    arguments = [str(machines.path), "--modality", "acc", "-o", str(tmp_path / "out"), "--grid", "--seeds", "1"]
    own = ["--recipe", f"logit@warm={recipe}", "--method", "none", "--learning-rate", "0.01", "--json"]
    monkeypatch.setattr(sys, "argv", ["mmkd-study"])
    with pytest.raises(SystemExit):
        run_study([*arguments, *SHORT, *own])
    document = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in document["entries"]] == ["none", "logit@warm"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--teacher", "sonar:tiny"], "dataset 'machines': modality 'sonar' is not in it; choose one of acc, gyro"),
        (
            ["--teacher", "acc:huge"],
            "--teacher: expected one of tiny, small, medium, base, got 'huge'; choose one of them",
        ),
        (["--student", "huge"], "--student: expected one of tiny, small, medium, base, got 'huge'; choose one of them"),
        (["--method", "magic"], "--method: expected one of none, logit, "),
        (
            ["--rival", "forest"],
            (
                "--rival: expected one of extra_trees, mini_rocket, rocket_and_trees, multi_rocket_hydra, "
                "distilled_rocket, got 'forest'; choose one of them"
            ),
        ),
        (["--recipe", "magic"], "--recipe: expected NAME=FILE.json, got 'magic'; name the method and the file"),
        (["--executor", "cloud"], "--executor: expected one of local, ray, got 'cloud'; choose one of them"),
        (["--metric", "luck"], "--metric: expected one of accuracy, balanced_accuracy, macro_f1, got 'luck'; "),
        (
            ["--max-latency-ms", "1", "--no-latency"],
            "--max-latency-ms: expected latencies to be measured, got --no-latency; drop one of them",
        ),
    ],
)
def test_a_wrong_option_is_named(machines: Dataset, tmp_path: Path, arguments: list[str], problem: str) -> None:
    command = [str(machines.path), "--modality", "acc", "-o", str(tmp_path / "out"), "--grid", *arguments]
    with pytest.raises(UsageError) as error:
        run_study([*command, *(["--no-latency"] if "--no-latency" not in arguments else [])])
    assert str(error.value).startswith(problem)


def test_a_limit_that_no_student_keeps_ends_with_the_exit_code_of_performance(
    machines: Dataset, tmp_path: Path
) -> None:
    arguments = [str(machines.path), "--modality", "acc", "-o", str(tmp_path / "out"), "--max-parameters", "10"]
    with pytest.raises(PerformanceError) as error:
        run_study([*arguments, *SHORT])
    assert error.value.exit_code == 5
    assert str(error.value) == (
        "study: expected a student size that keeps the limits, got none: tiny has 51,027 parameters, more than 10; "
        "raise --max-latency-ms or --max-parameters, or add a smaller --student"
    )


@pytest.mark.slow
def test_latencies_are_measured_through_the_exported_student(machines: Dataset, tmp_path: Path) -> None:
    short = [option for option in SHORT if option != "--no-latency"]
    limits = ("--max-latency-ms", 1000, "--duration-s", 0.2, "--grid", "--seeds", 1, "--method", "logit")
    done = run(machines.path, "--modality", "acc", *short, *limits, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    measured = document["recommendation"]["latency"]
    assert 0 < measured["student_ms"]["p50"] <= measured["student_ms"]["p99"] < 1000
    assert measured["ratio"] > 0
    assert document["entries"][0]["latency_ms"] == document["students"][0]["latency"]["student_ms"]["p50"]
    assert "Balanced accuracy against latency" in (tmp_path / "study" / "report.html").read_text()
