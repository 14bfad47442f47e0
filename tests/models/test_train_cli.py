"""`mmkd-train` and `mmkd-distill` as a user meets them: processes, files, messages and exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import MmkdError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.checkpoint import file_sha256, read_student, read_teacher
from mmkd_models.data import Dataset, write_dataset
from mmkd_models.defaults import RECIPE
from mmkd_models.distill import Recipe
from mmkd_models.jobs import visible_labels
from mmkd_models.train_cli import run_distill, run_train

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"mmkd-train": run_train, "mmkd-distill": run_distill}
START_S = 120  # for a process on a busy machine


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command that ran inside the test's process."""

    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stdout.splitlines()[-1]


Call = Callable[..., Ended]


def process_of(command: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Starts a command as the shell would."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name(command)), *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    with process_of(command, *arguments, cwd=cwd) as process:
        stdout, stderr = process.communicate(timeout=START_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Waits until a running process has written the file."""
    end = time.monotonic() + START_S
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} was not written in {START_S} s"
        time.sleep(0.002)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Runs a command in this process, in an empty folder: the same code without the seconds that imports take."""
    monkeypatch.chdir(tmp_path)

    def _call(command: str, *arguments: object) -> Ended:
        capsys.readouterr()
        with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
            COMMANDS[command]([str(argument) for argument in arguments])
        stdout, stderr = capsys.readouterr()
        assert ended.value.code in (0, None), stderr
        return Ended(stdout=stdout, stderr=stderr)

    return _call


def message_of(command: str, *arguments: object, exit_code: int = 2) -> str:
    """What the command would say, ending with that exit code."""
    with pytest.raises(MmkdError) as caught:
        COMMANDS[command]([str(argument) for argument in arguments])
    assert caught.value.exit_code == exit_code
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def teacher(machines: Dataset, folder: Path) -> subprocess.CompletedProcess[str]:
    """A teacher in `folder`, trained by a process of its own."""
    return run(
        "mmkd-train", "teacher", machines.path, "--preset", "tiny", "--steps", 6, "-o", "teacher.ckpt", cwd=folder
    )


@pytest.fixture(scope="module")
def student(
    machines: Dataset, folder: Path, teacher: subprocess.CompletedProcess[str]
) -> subprocess.CompletedProcess[str]:
    """A student in `folder`, distilled by a process of its own in 110 steps."""
    assert teacher.returncode == 0, teacher.stderr
    return run(
        "mmkd-distill",
        "teacher.ckpt",
        machines.path,
        "--modality",
        "acc",
        "--steps",
        110,
        "-o",
        "student.ckpt",
        "--json",
        cwd=folder,
    )


def test_a_teacher_is_trained_and_the_next_command_named(
    machines: Dataset, folder: Path, teacher: subprocess.CompletedProcess[str]
) -> None:
    checkpoint = read_teacher(folder / "teacher.ckpt")
    parameters = sum(parameter.numel() for parameter in checkpoint.network().parameters())
    assert teacher.returncode == 0
    assert teacher.stdout.splitlines() == [
        "modalities    acc, gyro",
        f"parameters    {parameters:,}",
        f"validation    balanced_accuracy {checkpoint.facts.score:.3f} at step 6 of 6",
        "logs          tensorboard --logdir teacher.ckpt.run",
        f"wrote teacher.ckpt; next: mmkd-distill teacher.ckpt {machines.path} --modality acc -o student.ckpt",
    ]
    assert re.fullmatch(r"teacher: step 6/6 loss \d\.\d{3} best valid \d\.\d{3}\n", teacher.stderr)


def test_a_student_is_distilled_and_told_as_one_json_document(
    machines: Dataset, folder: Path, student: subprocess.CompletedProcess[str]
) -> None:
    checkpoint = read_student(folder / "student.ckpt")
    document = json.loads(student.stdout)
    assert student.returncode == 0
    assert (document["checkpoint"], document["modalities"]) == ("student.ckpt", ["acc"])
    assert document["parameters"] == sum(parameter.numel() for parameter in checkpoint.network().parameters())
    assert document["facts"] == json.loads(msgspec.json.encode(checkpoint.facts))
    assert document["facts"]["teacher_sha256"] == file_sha256(folder / "teacher.ckpt")
    assert document["facts"]["dataset_sha256"] == machines.sha256
    assert all(line.startswith("acc student: step ") for line in student.stderr.splitlines())
    assert checkpoint.carried is not None
    assert len(checkpoint.carried.windows) == 12


def test_a_finished_training_leaves_its_logs_and_no_state(
    folder: Path, student: subprocess.CompletedProcess[str]
) -> None:
    assert student.returncode == 0
    kept = [path.name for path in (folder / "student.ckpt.run").iterdir()]
    assert [name.startswith("events.out.tfevents.") for name in kept] == [True]


def logged_steps(path: Path) -> list[int]:
    """The steps at which the validation score was logged."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = EventFileLoader(str(path)).Load()
    return [event.step for event in events for value in event.summary.value if value.tag == "valid/score"]


def test_a_killed_training_resumes_to_the_same_bytes(
    machines: Dataset, folder: Path, student: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    assert student.returncode == 0
    arguments = [folder / "teacher.ckpt", machines.path, "--modality", "acc", "--steps", 110, "-o", "student.ckpt"]
    with process_of("mmkd-distill", *arguments, cwd=tmp_path) as killed:
        wait_for(tmp_path / "student.ckpt.run" / "resume.ckpt", killed)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "student.ckpt").exists()
    before = set((tmp_path / "student.ckpt.run").iterdir())
    resumed = run("mmkd-distill", *arguments, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "student.ckpt").read_bytes() == (folder / "student.ckpt").read_bytes()  # facts and curve too
    (log,) = set((tmp_path / "student.ckpt.run").iterdir()) - before
    assert 50 not in logged_steps(log)  # what was done was not done again
    assert logged_steps(log)[-1] == 110


def endless(dataset: Dataset) -> list[object]:
    return ["student", dataset.path, "--modality", "gyro", "--steps", 1_000_000, "-o", "baseline.ckpt"]


@pytest.fixture(scope="module")
def interrupted(
    machines: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A training that Ctrl-C ended after its first validation, where an earlier checkpoint was."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "baseline.ckpt").write_bytes(b"an earlier checkpoint")
    with process_of("mmkd-train", *endless(machines), cwd=folder) as process:
        wait_for(folder / "baseline.ckpt.run" / "resume.ckpt", process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=START_S)
    return folder, subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_ctrl_c_ends_with_130_and_leaves_the_earlier_checkpoint(
    interrupted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = interrupted
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.splitlines()[-1] == "interrupted; the same command with --resume continues"
    assert "Traceback" not in ended.stderr
    assert (folder / "baseline.ckpt").read_bytes() == b"an earlier checkpoint"
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.ckpt", "baseline.ckpt.run"]


def test_resuming_with_another_share_of_labels_is_refused(
    machines: Dataset,
    interrupted: tuple[Path, subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(interrupted[0])
    train = machines.split("train").labels
    some = visible_labels(machines.split("train"), share=0.5, seed=0)
    wanted, found = (hashlib.sha256(labels.tobytes()).hexdigest() for labels in (some[some >= 0], train))
    assert message_of("mmkd-train", *endless(machines), "--resume", "--label-share", 0.5) == (
        f"baseline.ckpt.run/resume.ckpt: expected a training with labels={wanted!r}, got labels={found!r}; "
        "use the same options as before, or start without --resume"
    )


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_for_a_teacher_is_refused_and_nothing_in_it_runs(machines: Dataset, tmp_path: Path) -> None:
    (tmp_path / "teacher.ckpt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    ended = run("mmkd-distill", "teacher.ckpt", machines.path, "--modality", "acc", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (6, "")
    assert ended.stderr == (
        "mmkd-distill: teacher.ckpt: expected a safetensors checkpoint of mmkd-edge, got a pickle (or a ZIP with one), "
        "which could run code when it is read; it was not read. Train again with mmkd-train or mmkd-distill\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.ckpt"]


def test_a_missing_dataset_is_one_line_and_exit_2(tmp_path: Path) -> None:
    ended = run("mmkd-train", "teacher", "nowhere", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "mmkd-train: nowhere: expected a dataset directory, found none there; check the path\n"
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_share_the_work_write_and_tell_once(machines: Dataset, tmp_path: Path) -> None:
    arguments = ["student", machines.path, "--modality", "gyro", "--steps", 2, "--devices", 2, "-o", "b.ckpt"]
    ended = run("mmkd-train", *arguments, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("wrote b.ckpt; next: mmkd-export b.ckpt -o b.edge\n") == 1
    assert read_student(tmp_path / "b.ckpt").facts.training.devices == 2


def baseline_of(call: Call, dataset: Dataset, *options: object) -> Ended:
    return call("mmkd-train", "student", dataset.path, "--modality", "gyro", "--steps", 2, *options)


def test_a_baseline_is_trained_and_the_export_named(call: Call, machines: Dataset, tmp_path: Path) -> None:
    ended = baseline_of(call, machines)
    assert ended.last_line == "wrote baseline.ckpt; next: mmkd-export baseline.ckpt -o baseline.edge"
    assert read_student(tmp_path / "baseline.ckpt").modality.name == "gyro"
    assert re.fullmatch(r"gyro baseline: step 2/2 loss \d\.\d{3} best valid \d\.\d{3}\n", ended.stderr)


def test_names_with_spaces_come_quoted(call: Call, machines: Dataset, tmp_path: Path) -> None:
    ended = baseline_of(call, machines, "-o", "a line/my baseline.ckpt")
    assert ended.last_line == (
        "wrote a line/my baseline.ckpt; next: mmkd-export 'a line/my baseline.ckpt' -o 'a line/my baseline.edge'"
    )
    assert (tmp_path / "a line" / "my baseline.ckpt").exists()


def test_windows_stay_at_home_when_they_are_told_to(call: Call, machines: Dataset, tmp_path: Path) -> None:
    baseline_of(call, machines, "--no-embed-windows")
    assert read_student(tmp_path / "baseline.ckpt").carried is None


@pytest.mark.parametrize("option", [("--label-share", 0.5), ("--fold", 1), ("--seed", 1)])
def test_a_share_of_labels_a_fold_and_a_seed_make_another_student(
    call: Call, machines: Dataset, tmp_path: Path, option: tuple[str, object]
) -> None:
    baseline_of(call, machines, "-o", "plain.ckpt")
    baseline_of(call, machines, *option, "-o", "other.ckpt")
    plain, other = (read_student(tmp_path / f"{name}.ckpt") for name in ("plain", "other"))
    assert not all(torch.equal(plain.state[name], other.state[name]) for name in plain.state)


def test_options_reach_the_checkpoint(call: Call, machines: Dataset, tmp_path: Path) -> None:
    options = ["--batch", 8, "--learning-rate", 0.01, "--patience", 3, "--metric", "macro_f1", "--seed", 5]
    baseline_of(call, machines, *options, "--precision", "bf16-mixed", "--preset", "small")
    checkpoint = read_student(tmp_path / "baseline.ckpt")
    training = checkpoint.facts.training
    assert (training.steps, training.batch, training.learning_rate, training.patience) == (2, 8, 0.01, 3)
    assert (training.metric, training.seed, training.precision) == ("macro_f1", 5, "bf16-mixed")
    assert (checkpoint.facts.metric, checkpoint.config.preset) == ("macro_f1", "small")


def test_the_next_command_sees_the_same_windows_and_labels(call: Call, machines: Dataset) -> None:
    ended = call(
        "mmkd-train",
        "teacher",
        machines.path,
        "--preset",
        "tiny",
        "--steps",
        2,
        "--label-share",
        0.5,
        "--fold",
        1,
        "--seed",
        2,
    )
    assert ended.last_line == (
        f"wrote teacher.ckpt; next: mmkd-distill teacher.ckpt {machines.path} --modality acc -o student.ckpt "
        "--label-share 0.5 --fold 1 --seed 2"
    )
    lines = ended.stderr.splitlines()
    assert [line.split(": step")[0] for line in lines] == ["teacher", "teacher, second generation"]


def test_a_teacher_without_self_training_is_of_the_first_generation(call: Call, machines: Dataset) -> None:
    options = ["--preset", "tiny", "--steps", 2, "--label-share", 0.5, "--no-self-training"]
    ended = call("mmkd-train", "teacher", machines.path, *options)
    assert [line.split(": step")[0] for line in ended.stderr.splitlines()] == ["teacher"]


def test_a_teacher_takes_the_sensors_that_are_named(call: Call, machines: Dataset, tmp_path: Path) -> None:
    call("mmkd-train", "teacher", machines.path, "--modality", "gyro", "--preset", "tiny", "--steps", 2)
    assert [spec.name for spec in read_teacher(tmp_path / "teacher.ckpt").modalities] == ["gyro"]


def distilled(call: Call, folder: Path, dataset: Dataset, *options: object) -> Ended:
    arguments = [folder / "teacher.ckpt", dataset.path, "--modality", "acc", "--steps", 2, *options]
    return call("mmkd-distill", *arguments)


@pytest.mark.usefixtures("teacher")
def test_the_printed_recipe_is_the_default_and_can_be_given_back(
    call: Call, machines: Dataset, folder: Path, tmp_path: Path
) -> None:
    printed = call("mmkd-distill", "--print-recipe").stdout
    assert msgspec.json.decode(printed, type=Recipe) == RECIPE
    (tmp_path / "recipe.json").write_text(printed)
    distilled(call, folder, machines, "-o", "default.ckpt")
    distilled(call, folder, machines, "-o", "given.ckpt", "--recipe", "recipe.json")
    assert (tmp_path / "default.ckpt").read_bytes() == (tmp_path / "given.ckpt").read_bytes()


@pytest.mark.usefixtures("teacher")
def test_another_recipe_is_what_the_student_learns_from(
    call: Call, machines: Dataset, folder: Path, tmp_path: Path
) -> None:
    weight = {"start": 0.5, "end": 0.5}
    terms = [{"type": kind, "weight": weight} for kind in ("task", "edam", "crd")]
    (tmp_path / "recipe.json").write_text(json.dumps({"terms": terms}))
    ended = distilled(call, folder, machines, "--recipe", "recipe.json")
    recipe = read_student(tmp_path / "student.ckpt").facts.recipe
    assert recipe is not None
    assert [type(term).__name__ for term in recipe.terms] == ["TaskTerm", "EdamTerm", "CrdTerm"]
    number = r"-?\d+\.\d{3}"
    terms = " ".join(f"{name} {number}" for name in ("task", "edam", "edam_kl", "crd", "loss", "best valid"))
    assert re.fullmatch(f"acc student: step 2/2 {terms}\n", ended.stderr)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Input data was truncated"),
        (
            '{"terms": [{"type": "logit", "weight": {"start": 1}}]}',
            "Object missing required field `end` - at `$.terms[0].weight`",
        ),
        ('{"terms": [{"type": "logits"}]}', "Invalid value 'logits' - at `$.terms[0].type`"),
        ('{"terms": [], "name": "mine"}', "Object contains unknown field `name`"),
    ],
)
@pytest.mark.usefixtures("teacher")
def test_a_recipe_that_is_none_says_where(
    machines: Dataset, folder: Path, tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    found = message_of("mmkd-distill", folder / "teacher.ckpt", machines.path, "--modality", "acc", "--recipe", path)
    assert found == f"{path}: expected a recipe, {reason}; --print-recipe prints one to start from"


@pytest.mark.usefixtures("teacher")
def test_a_recipe_that_cannot_be_computed_is_refused(machines: Dataset, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"terms": []}')
    found = message_of("mmkd-distill", folder / "teacher.ckpt", machines.path, "--modality", "acc", "--recipe", path)
    assert found == "recipe: expected one or more terms of different kinds, got none; name each kind once"


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--preset", "huge", "tiny, small, medium, base"),
        ("--metric", "f1", "accuracy, balanced_accuracy, macro_f1"),
        ("--precision", "8", "32-true, bf16-mixed, 16-mixed"),
    ],
)
def test_a_choice_that_is_none_names_all_of_them(machines: Dataset, option: str, value: str, allowed: str) -> None:
    found = message_of("mmkd-train", "student", machines.path, "--modality", "acc", option, value)
    assert found == f"{option}: expected one of {allowed}, got {value!r}; choose one of them"


def test_an_unknown_modality_names_those_of_the_dataset(machines: Dataset) -> None:
    expected = "dataset 'machines': modality 'sound' is not in it; choose one of acc, gyro"
    assert message_of("mmkd-train", "student", machines.path, "--modality", "sound") == expected
    assert message_of("mmkd-train", "teacher", machines.path, "--modality", "sound") == expected


@pytest.mark.usefixtures("teacher")
def test_a_modality_that_the_teacher_does_not_know_is_refused(call: Call, machines: Dataset, tmp_path: Path) -> None:
    call("mmkd-train", "teacher", machines.path, "--modality", "gyro", "--preset", "tiny", "--steps", 2)
    assert message_of("mmkd-distill", tmp_path / "teacher.ckpt", machines.path, "--modality", "acc") == (
        "dataset 'machines': modality 'acc' is not in it; choose one of gyro"
    )


def test_a_sensor_that_is_named_twice_is_refused(machines: Dataset) -> None:
    found = message_of("mmkd-train", "teacher", machines.path, "--modality", "acc", "--modality", "acc")
    assert found == "modalities: expected each name once, got acc, acc; name each once"


@pytest.mark.usefixtures("teacher")
def test_a_teacher_of_another_dataset_is_refused(dataset: Dataset, folder: Path) -> None:
    assert message_of("mmkd-distill", folder / "teacher.ckpt", dataset.path, "--modality", "acc") == (
        "teacher: expected the labels ['slow', 'fast'] of the dataset, got ['idle', 'ok', 'worn']; "
        "train a teacher on this dataset"
    )


@pytest.mark.usefixtures("teacher")
def test_a_teacher_of_sensors_that_the_dataset_lacks_is_refused(
    machines: Dataset, folder: Path, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 40, 2)).astype(np.float32)
    splits = {
        split: {"acc": values[number], "labels": np.arange(3)}
        for number, split in enumerate(("train", "valid", "test"))
    }
    acc = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40, unit="g")
    labels = machines.spec.task.labels
    alone = write_dataset(tmp_path / "alone", name="alone", labels=labels, modalities=[acc], splits=splits)
    assert message_of("mmkd-distill", folder / "teacher.ckpt", alone.path, "--modality", "acc") == (
        "teacher: expected a dataset with modality 'gyro', which it was trained with, got acc; "
        "train a teacher on this dataset"
    )


@pytest.mark.usefixtures("teacher")
def test_a_student_is_no_teacher_and_a_teacher_is_not_overwritten(
    call: Call, machines: Dataset, folder: Path, tmp_path: Path
) -> None:
    baseline_of(call, machines)
    arguments = [machines.path, "--modality", "acc"]
    path = tmp_path / "baseline.ckpt"
    assert message_of("mmkd-distill", path, *arguments, exit_code=6) == (
        f"{path}: expected a teacher checkpoint, got a student checkpoint; name the right file"
    )
    before = file_sha256(folder / "teacher.ckpt")
    twice = folder / "." / "teacher.ckpt"
    assert message_of("mmkd-distill", folder / "teacher.ckpt", *arguments, "-o", twice) == (
        f"--output {twice}: expected another file than the teacher's, got the same; choose another name"
    )
    assert file_sha256(folder / "teacher.ckpt") == before


def test_an_output_that_is_a_directory_is_refused_before_training(
    machines: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message_of("mmkd-train", "teacher", machines.path, "-o", tmp_path) == (
        f"--output {tmp_path}: expected the name of a checkpoint, got a directory; name a file in it"
    )
    assert "step" not in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1.5", "nan"])
def test_a_share_of_labels_that_is_none_is_refused(machines: Dataset, share: str) -> None:
    found = message_of("mmkd-train", "student", machines.path, "--modality", "acc", "--label-share", share)
    assert found == f"label share: expected above 0 and up to 1, got {float(share)}; 0.1 keeps a tenth of the labels"
