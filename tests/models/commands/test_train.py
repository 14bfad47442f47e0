"""`mmkd-train` and `mmkd-distill` as a user meets them: processes, files, messages and exit codes."""

import hashlib
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge.derive import derive_batch
from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.commands.distill import run_distill
from mmkd_models.commands.evaluate import run_evaluate
from mmkd_models.commands.train import run_train
from mmkd_models.training.checkpoint import file_sha256, read_student, read_teacher
from mmkd_models.training.inputs import visible_labels

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
START_S = 300  # for a process on a busy machine


def process_of(command, *arguments, cwd):
    """Starts a command as the shell would."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name(command)), *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command, *arguments, cwd):
    with process_of(command, *arguments, cwd=cwd) as process:
        stdout, stderr = process.communicate(timeout=START_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def done(call, *arguments, cwd):
    """Runs a command in this process: torch takes seconds to import in another."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as stdout:
        patch.chdir(cwd)
        with redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as ended:
            call([str(word) for word in arguments])
    return subprocess.CompletedProcess([], int(str(ended.value.code or 0)), stdout.getvalue(), stderr.getvalue())


def wait_for(path, process):
    """Waits until a running process has written the file."""
    end = time.monotonic() + START_S
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} was not written in {START_S} s"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def teacher(machines, folder):
    """A teacher in `folder`."""
    options = ["--preset", "tiny", "--steps", "6", "-o", "teacher.ckpt"]
    return done(run_train, "teacher", machines.path, *options, cwd=folder)


@pytest.fixture(scope="module")
def student(machines, folder, teacher):
    """A student in `folder`."""
    assert teacher.returncode == 0, teacher.stderr
    options = ["--modality", "acc", "--steps", "6", "-o", "student.ckpt", "--json"]
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
        f"wrote teacher.ckpt; next: mmkd-distill teacher.ckpt {machines.path} --modality acc -o student.ckpt",
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
    arguments = ("teacher.ckpt", machines.path, "--steps", "6", "-o", "cheap.ckpt", "--modality")
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
    with pytest.raises(UsageError) as error:
        run_distill([str(folder / "teacher.ckpt"), str(machines.path), "--modality", "acc@50Hz", "-o", "no.ckpt"])
    assert str(error.value) == (
        "derived sensor 'acc@50Hz': expected a rate up to the recorded 20 Hz, got 50 Hz; lower it"
    )


def logged_steps(path):
    """The steps at which the validation score was logged."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = EventFileLoader(str(path)).Load()
    return [event.step for event in events for value in event.summary.value if value.tag == "valid/score"]


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(machines, folder, teacher, tmp_path):
    assert teacher.returncode == 0, teacher.stderr
    arguments = [folder / "teacher.ckpt", machines.path, "--modality", "acc", "--steps", 110, "-o", "student.ckpt"]
    whole = run("mmkd-distill", *arguments, cwd=folder)
    assert whole.returncode == 0, whole.stderr
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


def endless(dataset):
    return ["student", dataset.path, "--modality", "gyro", "--steps", 1_000_000, "-o", "baseline.ckpt", "--force"]


@pytest.fixture(scope="module")
def interrupted(machines, tmp_path_factory):
    """A training that Ctrl-C ended after its first validation, where an earlier checkpoint was."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "baseline.ckpt").write_bytes(b"an earlier checkpoint")
    with process_of("mmkd-train", *endless(machines), cwd=folder) as process:
        wait_for(folder / "baseline.ckpt.run" / "resume.ckpt", process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=START_S)
    return folder, subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


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
    some = visible_labels(machines.split("train"), fraction=0.5, seed=0)
    wanted, found = (hashlib.sha256(labels.tobytes()).hexdigest() for labels in (some[some >= 0], train))
    with pytest.raises(UsageError) as caught:
        run_train([*map(str, endless(machines)), "--resume", "--label-fraction", "0.5"])
    assert str(caught.value) == (
        f"baseline.ckpt.run/resume.ckpt: expected a training with labels={wanted!r}, got labels={found!r}; "
        "use the same options as before, or start without --resume"
    )


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_for_a_teacher_is_refused_and_nothing_in_it_runs(machines, tmp_path):
    (tmp_path / "teacher.ckpt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    path = tmp_path / "teacher.ckpt"
    with pytest.raises(CheckpointError) as caught:
        run_distill([str(path), str(machines.path), "--modality", "acc", "-o", str(tmp_path / "student.ckpt")])
    assert str(caught.value) == (
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a pickle (or a ZIP with one), "
        "which could run code when it is read; it was not read. Train again with mmkd-train or mmkd-distill"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.ckpt"]


@pytest.mark.slow
def test_two_processes_share_terms_that_read_a_part_of_the_student_and_write_once(machines, folder, teacher, tmp_path):
    assert teacher.returncode == 0, teacher.stderr
    # No term reads the head, and the projector of the features is read in the first half only.
    terms = ["--term", "edam,weight=1", "--term", "feature,weight=1..0@0.5"]
    arguments = [folder / "teacher.ckpt", machines.path, "--modality", "acc", "--steps", 4, "--devices", 2, *terms]
    ended = run("mmkd-distill", *arguments, "-o", "d.ckpt", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("wrote d.ckpt; next: mmkd-export d.ckpt -o d.edge\n") == 1
    assert read_student(tmp_path / "d.ckpt").facts.training.devices == 2
