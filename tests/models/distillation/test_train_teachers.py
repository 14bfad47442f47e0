"""`mmkd-train teacher --out-of-fold` and `mmkd-distill` with several teachers, as commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd_edge.errors import MmkdError
from mmkd_export.inspect.files import inspect_file
from mmkd_models.commands.distill import run_distill
from mmkd_models.commands.evaluate import run_evaluate
from mmkd_models.commands.train import run_train
from mmkd_models.data import Dataset
from mmkd_models.training.checkpoint import file_sha256, read_student
from mmkd_models.training.teacher_set import read_teacher_set

Command = Callable[..., str]


@pytest.fixture(scope="module")
def folder(machines: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers of both sensors, of one sensor, and cross-fitted ones, each trained for two steps."""
    folder = tmp_path_factory.mktemp("teachers")
    common = [str(machines.path), "--preset", "tiny", "--steps", "2", "--json"]
    for name, options in {"all": (), "gyro": ("--modality", "gyro"), "oof": ("--out-of-fold", "3")}.items():
        with pytest.raises(SystemExit):
            run_train(["teacher", *common, *options, "-o", str(folder / f"{name}.ckpt")])
    return folder


def distilled(folder: Path, dataset: Dataset, *options: str, teachers: tuple[str, ...]) -> None:
    paths = [str(folder / f"{name}.ckpt") for name in teachers]
    arguments = [*paths, str(dataset.path), "--modality", "acc", "--steps", "2", *options]
    with pytest.raises(SystemExit) as ended:
        run_distill(arguments)
    assert ended.value.code in (0, None)


def test_out_of_fold_teachers_end_with_their_scores_and_the_next_command(
    machines: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--preset", "tiny", "--steps", "2", "--out-of-fold", "2", "--label-share", "0.5", "--seed", "1"]
    with pytest.raises(SystemExit):
        run_train(["teacher", str(machines.path), *options])
    stdout, stderr = capsys.readouterr()
    number = r"\d\.\d{3}"
    lines = stdout.splitlines()
    assert re.fullmatch(r"parameters    [\d,]+ in 2 teachers", lines[1])
    assert re.fullmatch(f"validation    balanced_accuracy {number} {number}", lines[2])
    assert re.fullmatch(
        f"out of fold   balanced_accuracy {number} on training windows, each by the teacher that has not seen it",
        lines[3],
    )
    assert lines[-1] == (
        f"wrote teacher.ckpt; next: mmkd-distill teacher.ckpt {machines.path} --modality acc -o student.ckpt "
        "--label-share 0.5 --seed 1"
    )
    assert [line.split(": step")[0] for line in stderr.splitlines()] == [
        "teacher 1 of 2",
        "teacher 1 of 2, second generation",
        "teacher 2 of 2",
        "teacher 2 of 2, second generation",
    ]
    assert not list(tmp_path.rglob("resume.ckpt"))
    assert len(read_teacher_set(tmp_path / "teacher.ckpt").facts) == 2


def test_out_of_fold_teachers_come_as_json(
    machines: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", "tiny", "--steps", "2", "--out-of-fold", "2", "--json", "-o", str(tmp_path / "set.ckpt")]
    with pytest.raises(SystemExit):
        run_train(["teacher", str(machines.path), *options])
    document = json.loads(capsys.readouterr().out)
    assert document["out_of_fold_score"] == read_teacher_set(tmp_path / "set.ckpt").score
    assert [len(document["facts"]), document["modalities"]] == [2, ["acc", "gyro"]]


def test_several_teachers_teach_one_student_that_names_them_all(
    machines: Dataset, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "student.ckpt"
    options = ["--term", "logit", "--term", "edam,member=0", "--mix", "logits", "-o", str(output)]
    distilled(folder, machines, *options, teachers=("all", "gyro", "oof"))
    facts = read_student(output).facts
    hashes = tuple(file_sha256(folder / f"{name}.ckpt") for name in ("all", "gyro", "oof"))
    assert facts.teachers_sha256 == hashes
    assert facts.recipe is not None
    assert facts.recipe.mix == "logits"
    assert inspect_file(output)["teacher"] == ", ".join(hashes)
    assert " edam " in capsys.readouterr().err


def test_out_of_fold_teachers_are_another_teacher_than_one(machines: Dataset, folder: Path, tmp_path: Path) -> None:
    for name in ("oof", "all"):
        distilled(folder, machines, "-o", str(tmp_path / f"{name}.ckpt"), teachers=(name,))
    ours, theirs = (read_student(tmp_path / f"{name}.ckpt") for name in ("oof", "all"))
    assert any(not ours.state[name].equal(theirs.state[name]) for name in ours.state)


def test_inspecting_out_of_fold_teachers_shows_their_scores(folder: Path) -> None:
    path = folder / "oof.ckpt"
    teachers, facts = read_teacher_set(path), inspect_file(path)
    assert facts["kind"] == "teacher-set checkpoint, its content verified"
    assert facts["teachers"] == "3, each trained without one part of the groups"
    assert facts["out_of_fold.balanced_accuracy"] == f"{teachers.score:.4f}"
    assert facts["validation.balanced_accuracy"] == ", ".join(f"{one.score:.4f}" for one in teachers.facts)
    values = sum(tensor.numel() for state in teachers.states for tensor in state.values())
    assert facts["size"] == f"tiny, {values:,} values in its tensors"


def message_of(run: Callable[[list[str]], None], *arguments: object) -> str:
    with pytest.raises(MmkdError) as caught:
        run([str(argument) for argument in arguments])
    return str(caught.value)


def test_what_several_teachers_cannot_do_is_said(machines: Dataset, dataset: Dataset, folder: Path) -> None:
    every, gyro, oof = (folder / f"{name}.ckpt" for name in ("all", "gyro", "oof"))
    acc = (machines.path, "--modality", "acc")
    assert message_of(run_distill, every, every, *acc) == (
        "distillation: expected each teacher once, got teacher 0 again as 1; name it once"
    )
    assert message_of(run_distill, every, *acc, "--mix", "logits") == (
        "recipe: mix 'logits' needs several teachers, got one; name more teachers, or leave it out"
    )
    assert message_of(run_distill, every, gyro, *acc, "-o", gyro) == (
        f"--out {gyro}: expected another file than the teacher's, got the same; choose another name"
    )
    assert message_of(run_distill, oof, *acc, "--fold", 1) == (
        f"teacher {oof}: expected one that was trained on fold 1, as the student is, got one of the dataset's own "
        "split, which may know windows that judge the student; leave --fold out, or train it anew"
    )
    assert message_of(run_train, "teacher", machines.path, "--out-of-fold", 7) == (
        "dataset 'machines': expected 2 to 6 parts of its 6 groups of training windows, got 7; choose another number"
    )
    assert message_of(run_evaluate, oof, machines.path) == (
        f"{oof}: expected one teacher or student, got out-of-fold teachers, which answer for the windows they were "
        "cross-fitted on alone; mmkd-inspect shows their out-of-fold score, mmkd-train teacher trains one to judge"
    )
