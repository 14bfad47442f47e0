"""Where a command writes: refused before the work, and one command's at a time, across processes."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_edge.cli.outputs import check_file, check_folder, check_name, lock_output
from mmkd_edge.errors import UsageError

# Holds an output until it is killed.
HOLDER = """
import sys
from pathlib import Path
from mmkd_edge.cli.outputs import lock_output
sys.argv[0] = "/usr/bin/mmkd-train"
with lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def refusal(*arguments, call=check_folder, **options):
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    return str(caught.value)


def hold(output):
    with lock_output(output):
        pass


def holder(output):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_hears_who_writes_the_output_and_since_when(tmp_path):
    output = tmp_path / "teacher.ckpt"
    with holder(output) as process:
        said = refusal(output, call=hold)
        process.communicate("")
    assert re.fullmatch(
        rf"{output}: mmkd-train \(process {process.pid} of \S+ on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\) "
        "is writing it; wait until it ends, or choose another name",
        said,
    )
    hold(output)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_blocks_nobody_and_a_folder_made_for_nothing_is_removed(tmp_path):
    output = tmp_path / "teacher.ckpt"
    with holder(output) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".teacher.ckpt.lock"]
    hold(output)
    assert list(tmp_path.iterdir()) == []
    hold(tmp_path / "runs" / "a.ckpt")
    assert not (tmp_path / "runs").exists()
    with lock_output(tmp_path / "runs" / "a.ckpt"):
        (tmp_path / "runs" / "a.ckpt").touch()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.ckpt"]


def test_a_folder_is_locked_from_within(tmp_path):
    with lock_output(tmp_path, is_folder=True):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with (
            pytest.raises(UsageError, match=r"is writing it; wait until it ends"),
            lock_output(tmp_path, is_folder=True),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "runs"
    assert refusal(folder) == (
        f"{folder}: cannot write there: {tmp_path / 'file'} is a file, not a folder; choose another folder"
    )
    # Of the kernel's own folders root is refused too.
    folder = Path("/sys/runs")
    assert re.fullmatch(
        "/sys/runs: cannot write there: (permission denied|operation not permitted|read-only file system); "
        "choose (a path that this user may use|another folder)",
        refusal(folder),
    )
    said = refusal(tmp_path, needs_bytes=10**18)
    assert re.fullmatch(
        rf"{tmp_path}: expected 1,000,000,000,000 MB free, got [\d,]+ MB; free some space, or choose another folder",
        said,
    )


def test_a_file_needs_a_folder_and_a_name_that_says_what_it_is(tmp_path):
    assert refusal(tmp_path, call=check_file) == (
        f"{tmp_path}: expected the name of a file, got a directory; name a file in it"
    )
    file = tmp_path / "no" / "r.json"
    assert refusal(file, call=check_file) == (
        f"{file}: cannot be written: there is no directory {tmp_path / 'no'}; make it first"
    )
    check_name(Path("a.b/student.edge"), ".edge")
    assert refusal(Path("model.onnx"), ".edge", call=check_name) == (
        "model.onnx: expected a name that ends in .edge; name it model.edge"
    )
    assert refusal(Path("student"), ".edge", call=check_name) == (
        "student: expected a name that ends in .edge; name it student.edge"
    )
