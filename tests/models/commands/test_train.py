"""`mmkd-train` and `mmkd-distill` as processes, and outputs of all commands: not overwritten or raced in silence."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.evaluate import run_evaluate
from mmkd_app.commands.train import main, run_train
from mmkd_edge import example_bundle
from mmkd_edge.derive import derive_batch
from mmkd_edge.errors import UsageError
from mmkd_edge.outputs import lock_output
from mmkd_models.data.folds import Labelled, with_visible_labels
from mmkd_models.training.checkpoint import file_sha256, read_student, read_teacher, write_student
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("few_trees")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def done(call, *arguments, cwd):
    """Runs a command in this process: torch takes seconds to import in another."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as stdout:
        patch.chdir(cwd)
        with redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as ended:
            call([str(word) for word in arguments])
    return subprocess.CompletedProcess([], int(str(ended.value.code or 0)), stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def teacher(machines, folder):
    options = ["--preset", "tiny", "--steps", "6", "-o", "teacher.ckpt"]
    return done(run_train, "teacher", machines.path, *options, cwd=folder)


@pytest.fixture(scope="module")
def student(machines, folder, teacher):
    assert teacher.returncode == 0, teacher.stderr
    options = ["--modality", "acc", "--steps", "6", "--no-choose", "-o", "student.ckpt", "--json"]
    return done(run_distill, "teacher.ckpt", machines.path, *options, cwd=folder)


def test_a_teacher_is_trained_and_the_next_command_named(machines, folder, teacher):
    checkpoint = read_teacher(folder / "teacher.ckpt")
    parameters = sum(parameter.numel() for parameter in checkpoint.network().parameters())
    assert teacher.returncode == 0
    states = [checkpoint.state, *checkpoint.further]
    longest = max(len(member.named) for member in checkpoint.committee.members)
    members = [
        f"member {number}      {member.named:<{longest}} balanced_accuracy {member.score:.3f}, "
        f"weight {member.weight:.2f}, {sum(tensor.numel() for tensor in state.values()):,} values"
        for number, (member, state) in enumerate(zip(checkpoint.committee.members, states, strict=True))
    ]
    assert teacher.stdout.splitlines() == [
        "modalities    acc, gyro",
        f"parameters    {parameters:,}",
        f"validation    balanced_accuracy {checkpoint.facts.score:.3f} of the members together",
        *members,
        "logs          tensorboard --logdir teacher.ckpt.run",
        (
            f"wrote teacher.ckpt; next: mmkd-distill teacher.ckpt {machines.path} --modality SENSOR -o student.ckpt;"
            f" mmkd-data report {machines.path} shows which SENSOR to choose"
        ),
    ]
    assert re.fullmatch(r"teacher: step 6/6 loss \d\.\d{3} best valid \d\.\d{3}\n", teacher.stderr)


def test_a_student_is_distilled_and_told_as_one_json_document(machines, folder, student):
    checkpoint = read_student(folder / "student.ckpt")
    document = json.loads(student.stdout)
    assert student.returncode == 0
    assert (document["checkpoint"], document["modalities"]) == ("student.ckpt", ["acc"])
    assert document["parameters"] == sum(parameter.numel() for parameter in checkpoint.network().parameters())
    assert document["facts"] == json.loads(msgspec.json.encode(checkpoint.facts))
    assert document["facts"]["teacher_sha256"] == file_sha256(folder / "teacher.ckpt")
    assert document["facts"]["dataset_sha256"] == machines.sha256
    assert all(line.startswith("acc student: step ") for line in student.stderr.splitlines())
    assert len(checkpoint.carried.windows) == 12
    (log,) = (folder / "student.ckpt.run").iterdir()  # and no resume state
    assert log.name.startswith("events.out.tfevents.")


def test_a_student_of_a_derived_sensor_is_taught_by_the_whole_recording_and_judged(machines, folder, teacher):
    assert teacher.returncode == 0, teacher.stderr
    text, name = "acc[y]@10Hz,8bit,-4..4", "acc__c1_10Hz_8bit_m4to4"
    arguments = ("teacher.ckpt", machines.path, "--steps", "6", "--no-choose", "-o", "cheap.ckpt", "--modality")
    ended = done(run_distill, *arguments, text, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    checkpoint = read_student(folder / "cheap.ckpt")
    assert (checkpoint.modality.name, checkpoint.modality.title) == (name, text)
    assert checkpoint.facts.teacher_sha256 == file_sha256(folder / "teacher.ckpt")
    carried, valid = checkpoint.carried, machines.split("valid")
    expected = derive_batch(valid.take(np.arange(len(valid)))["acc"], checkpoint.modality)
    assert {row.tobytes() for row in carried.windows} == {row.tobytes() for row in expected}
    judged = done(run_evaluate, "cheap.ckpt", machines.path, "--json", cwd=folder)
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["models"][0]["modalities"] == [name]
    line = [str(folder / "teacher.ckpt"), str(machines.path), "--modality", "acc@50Hz", "-o", "no.ckpt"]
    assert said(UsageError, run_distill, line) == (
        "derived sensor 'acc@50Hz': expected a rate up to the recorded 20 Hz, got 50 Hz; lower it"
    )


def endless(dataset):
    return [
        "student",
        dataset.path,
        "--modality",
        "gyro",
        "--steps",
        1_000_000,
        "--no-choose",
        "-o",
        "baseline.ckpt",
        "--force",
    ]


@pytest.fixture(scope="module")
def interrupted(machines, tmp_path_factory):
    """A training that Ctrl-C ended after its first validation, where an earlier checkpoint was."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "baseline.ckpt").write_bytes(b"an earlier checkpoint")

    def press_ctrl_c():
        while not (folder / "baseline.ckpt.run" / "resume.ckpt").exists():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmkd-train", *map(str, endless(machines))])
        threading.Thread(target=press_ctrl_c, daemon=True).start()
        return folder, done(lambda _: main(), cwd=folder)


def test_ctrl_c_ends_with_130_and_leaves_the_earlier_checkpoint(interrupted):
    folder, ended = interrupted
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.splitlines()[-2:] == ["the same command with --resume continues", "mmkd-train: interrupted"]
    assert "Traceback" not in ended.stderr
    assert (folder / "baseline.ckpt").read_bytes() == b"an earlier checkpoint"
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.ckpt", "baseline.ckpt.run"]


def test_resuming_with_another_share_of_labels_is_refused(machines, interrupted, monkeypatch):
    monkeypatch.chdir(interrupted[0])
    train = machines.split("train").labels
    some = with_visible_labels(machines.split("train"), Labelled(fraction=0.5), seed=0).labels
    wanted, found = (hashlib.sha256(labels.tobytes()).hexdigest() for labels in (some[some >= 0], train))
    line = [*map(str, endless(machines)), "--resume", "--label-fraction", "0.5"]
    assert said(UsageError, run_train, line) == (
        f"baseline.ckpt.run/resume.ckpt: expected a training with labels={wanted!r}, got labels={found!r}; "
        "use the same options as before, or start without --resume"
    )


@pytest.mark.slow
def test_two_processes_share_terms_that_read_a_part_of_the_student_and_write_once(machines, folder, teacher, tmp_path):
    assert teacher.returncode == 0, teacher.stderr
    # No term reads the head, and the projector of the features is read in the first half only.
    terms = ["--term", "edam,weight=1", "--term", "feature,weight=1..0@0.5"]
    arguments = [folder / "teacher.ckpt", machines.path, "--modality", "acc", "--steps", 4, "--devices", 2, *terms]
    command = [Path(sys.executable).with_name("mmkd-distill"), *map(str, arguments), "-o", "d.ckpt"]
    ended = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("wrote d.ckpt; next: mmkd-export d.ckpt -o d.edge\n") == 1
    assert read_student(tmp_path / "d.ckpt").facts.training.devices == 2


@pytest.fixture
def press(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "press.npz"
    np.savez(
        file,
        x_vib=rng.normal(size=(12, 40, 2)),
        rate_vib=40.0,
        channels_vib=["a", "b"],
        y=np.array([0, 1] * 6),
        classes=["ok", "worn"],
        group=np.repeat(np.arange(6), 2),
        split=np.repeat([0, 1, 2], 4),
    )
    return file


def every_command(out, press, machines, student):
    """Yield program, arguments and the place that is refused; each command writes in the folder `out`."""
    from mmkd_app.commands.bench import main as bench
    from mmkd_app.commands.data import main as data
    from mmkd_app.commands.demo import main as demo
    from mmkd_app.commands.evaluate import main as evaluate
    from mmkd_app.commands.export import main as export
    from mmkd_app.commands.study import main as study

    page = ("--page", out / "a.html")
    yield data, "data", ("import", press, "-o", out / "press"), out
    yield main, "train", ("student", machines.path, "--modality", "acc", "-o", out / "runs" / "a.ckpt"), out / "runs"
    yield demo, "demo", ("--dataset", machines.path, "--out", out / "demo"), out / "demo"
    yield study, "study", (machines.path, "--modality", "acc", "-o", out / "study"), out / "study"
    yield export, "export", (student, "-o", out / "a.edge"), out
    yield export, "export", (student, "-o", press.parent / "a.edge", *page), out
    yield evaluate, "evaluate", (student, machines.path, *page), out
    yield bench, "bench", ("run", example_bundle(), "-o", out / "a.json"), out
    yield bench, "bench", ("run", example_bundle(), *page), out


@pytest.mark.parametrize(
    ("is_full", "fault"),
    [
        (False, "cannot write there: read-only file system; choose another folder"),
        (True, "expected 16 MB free, got 1 MB; free some space, or choose another folder"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line_before_the_work_in_every_command(
    press, machines, student_checkpoint, tmp_path, monkeypatch, ran, *, is_full, fault
):
    write_student(tmp_path / "student.ckpt", student_checkpoint)
    out = tmp_path / "out"
    out.mkdir()
    temporary_file, disk_usage = tempfile.TemporaryFile, shutil.disk_usage

    def on_read_only_disk(*, dir):  # noqa: A002 - the name of the library
        if dir == out:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return temporary_file(dir=dir)

    if is_full:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda at: SimpleNamespace(free=1_048_576) if at == out else disk_usage(at)
        )
    else:
        monkeypatch.setattr(tempfile, "TemporaryFile", on_read_only_disk)
    for program, name, arguments, place in every_command(out, press, machines, tmp_path / "student.ckpt"):
        assert ran(program, f"mmkd-{name}", *arguments) == (2, "", f"mmkd-{name}: {place}: {fault}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "press.npz", "student.ckpt"]
    assert list(out.iterdir()) == []


def test_an_import_that_does_not_fit_is_one_line_and_leaves_nothing(press, tmp_path):
    program = [sys.executable, "-c", "from mmkd_app.commands.data import main; main()", "import", str(press)]
    shell = ["bash", "-c", 'ulimit -f 1; exec "$@"', "-", *program, "-o", str(tmp_path / "press")]
    environment = ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"}  # the limit would cut compiled modules too
    ended = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)
    told = (
        "cannot write it: file too large; choose another folder, or raise the limit (ulimit -f); nothing is left of it"
    )
    assert ended.returncode == 2
    assert ended.stderr == f"reading {press}\nmmkd-data: {tmp_path / 'press'}: {told}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["press.npz"]


def trained(dataset, output, *options):
    arguments = ["student", dataset.path, "--modality", "acc", "--steps", 2, "--no-choose", "-o", output, *options]
    with pytest.raises(SystemExit) as ended:
        run_train([str(word) for word in arguments])
    assert ended.value.code in (0, None)


def test_a_second_training_is_refused_while_the_first_runs(machines, tmp_path):
    output = tmp_path / "a.ckpt"
    with lock_output(output):
        told = said(UsageError, trained, machines, output)
    assert re.fullmatch(
        rf"{output}: \S+ \(process {os.getpid()} of .+\) is writing it; wait until it ends, or choose another name",
        told,
    )
    trained(machines, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.run"]


def test_a_file_that_exists_or_has_another_name_is_refused_unless_forced(machines, tmp_path):
    output, foreign = tmp_path / "a.ckpt", tmp_path / "notes.ckpt"
    foreign.write_text("notes")
    trained(machines, output)
    for path in (output, foreign):
        assert said(UsageError, trained, machines, path, "--seed", 3) == (
            f"{path}: already exists; choose another name, or add --force to replace it"
        )
    assert foreign.read_text() == "notes"
    trained(machines, output, "--seed", 3, "--force")
    assert read_student(output).facts.training.seed == 3
    assert said(UsageError, trained, machines, tmp_path / "model.onnx") == (
        f"{tmp_path / 'model.onnx'}: expected a name that ends in .ckpt; name it {tmp_path / 'model.ckpt'}"
    )
