"""Outputs of the commands: not overwritten or raced in silence, and refused before the work, in real processes."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from mmkd_edge import example_bundle
from mmkd_edge.cli.outputs import lock_output
from mmkd_edge.errors import MmkdError
from mmkd_models.commands.train import run_train
from mmkd_models.training.checkpoint import read_student, write_student

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# Runs several commands through their doors in one process, since torch takes seconds to import; says how each ended.
COMMANDS = """
import contextlib, io, json, sys
from mmkd_bench.commands.cli import main as bench
from mmkd_export.commands.export import main as export
from mmkd_export.commands.demo import main as demo
from mmkd_models.commands.data import main as data
from mmkd_models.commands.evaluate import main as evaluate
from mmkd_models.commands.study import main as study
from mmkd_models.commands.train import main as train
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = ["mmkd-" + name, *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            globals()[name]()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([name, code, said.getvalue()]))
"""
# Disks of their own for one process tree, which need no rights where the kernel lets users have namespaces.
WITH_DISKS = 'mount -t tmpfs -o ro tmpfs "$1" && mount -t tmpfs -o size=1m tmpfs "$2" && shift 2 && exec "$@"'


def ends_with_disks(read_only, small, commands):
    """How commands end where one folder is a read-only file system and another has a megabyte."""
    calls = json.dumps([[str(word) for word in command] for command in commands])
    program = ["unshare", "-rm", "bash", "-c", WITH_DISKS, "-", read_only, small, sys.executable, "-c", COMMANDS, calls]
    ended = subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if not ended.stdout and ("unshare" in ended.stderr or "mount" in ended.stderr):
        pytest.skip("needs user namespaces")
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


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
    """Each writes in the folder `out`, and would take long."""
    return [
        ["data", "import", press, "-o", out / "press"],
        ["train", "student", machines.path, "--modality", "acc", "-o", out / "runs" / "a.ckpt"],
        ["demo", "--dataset", machines.path, "--out", out / "demo"],
        ["study", machines.path, "--modality", "acc", "-o", out / "study"],
        ["export", student, "-o", out / "a.edge"],
        ["export", student, "-o", press.parent / "a.edge", "--page", out / "a.html"],
        ["evaluate", student, machines.path, "--page", out / "a.html"],
        ["bench", "run", example_bundle(), "-o", out / "a.json"],
        ["bench", "run", example_bundle(), "--page", out / "a.html"],
    ]


def test_a_folder_that_cannot_be_written_is_one_line_before_the_work_in_every_command(
    press, machines, student_checkpoint, tmp_path
):
    student = tmp_path / "student.ckpt"
    write_student(student, student_checkpoint)
    read_only, small = tmp_path / "read-only", tmp_path / "small"
    faults = {
        read_only: "cannot write there: read-only file system; choose another folder",
        small: "expected 16 MB free, got 1 MB; free some space, or choose another folder",
    }
    commands, wanted = [], []
    for out, fault in faults.items():
        out.mkdir()
        commands += every_command(out, press, machines, student)
        places = [out, out / "runs", out / "demo", out / "study", *[out] * 5]
        names = ["data", "train", "demo", "study", "export", "export", "evaluate", "bench", "bench"]
        wanted += [(name, 2, f"mmkd-{name}: {place}: {fault}\n") for name, place in zip(names, places, strict=True)]
    assert ends_with_disks(read_only, small, commands) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["press.npz", "read-only", "small", "student.ckpt"]


def data_command(*arguments, before=""):
    command = [sys.executable, "-c", "from mmkd_models.commands.data import main; main()", *map(str, arguments)]
    shell = ["bash", "-c", f'{before} exec "$@"', "-", *command]
    return subprocess.run(shell, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_an_import_that_does_not_fit_is_one_line_and_leaves_nothing(press, tmp_path):
    ended = data_command("import", press, "-o", tmp_path / "press", before="ulimit -f 1;")
    said = (
        "cannot write it: file too large; choose another folder, or raise the limit (ulimit -f); nothing is left of it"
    )
    assert ended.returncode == 2
    assert ended.stderr == f"reading {press}\nmmkd-data: {tmp_path / 'press'}: {said}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["press.npz"]


def message_of(call):
    with pytest.raises(MmkdError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


def trained(dataset, output, *options):
    arguments = ["student", dataset.path, "--modality", "acc", "--steps", 2, "-o", output, *options]
    with pytest.raises(SystemExit) as ended:
        run_train([str(word) for word in arguments])
    assert ended.value.code in (0, None)


def test_a_second_training_is_refused_while_the_first_runs(machines, tmp_path):
    output = tmp_path / "a.ckpt"
    with lock_output(output):
        said = message_of(lambda: trained(machines, output))
    assert re.fullmatch(
        rf"{output}: \S+ \(process {os.getpid()} of .+\) is writing it; wait until it ends, or choose another name",
        said,
    )
    trained(machines, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.run"]


def test_a_file_that_exists_or_has_another_name_is_refused_unless_forced(machines, tmp_path):
    output, foreign = tmp_path / "a.ckpt", tmp_path / "notes.ckpt"
    foreign.write_text("notes")
    trained(machines, output)
    for path in (output, foreign):
        assert message_of(lambda path=path: trained(machines, path, "--seed", 3)) == (
            f"{path}: already exists; choose another name, or add --force to replace it"
        )
    assert foreign.read_text() == "notes"
    trained(machines, output, "--seed", 3, "--force")
    assert read_student(output).facts.training.seed == 3
    assert message_of(lambda: trained(machines, tmp_path / "model.onnx")) == (
        f"{tmp_path / 'model.onnx'}: expected a name that ends in .ckpt; name it {tmp_path / 'model.ckpt'}"
    )
