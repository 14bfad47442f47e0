"""Where commands may write, and texts that a spreadsheet would run."""

import csv
import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_edge.errors import UsageError
from mmkd_edge.outputs import check_file, check_folder, check_name, csv_text, lock_output
from tests.edge.said import said

# Holds an output until it is killed.
HOLDER = """
import sys
from pathlib import Path
from mmkd_edge.outputs import lock_output
sys.argv[0] = "/usr/bin/mmkd-train"
with lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def refusal(*arguments, call=check_folder, **options):
    return said(UsageError, call, *arguments, **options)


def hold(output, **options):
    with lock_output(output, **options):
        pass


def holder(output):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_hears_who_writes_the_output_and_since_when(tmp_path):
    output = tmp_path / "teacher.ckpt"
    with holder(output) as process:
        told = refusal(output, call=hold)
        process.communicate("")
    assert re.fullmatch(
        rf"{output}: mmkd-train \(process {process.pid} of \S+ on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\) "
        "is writing it; wait until it ends, or choose another name",
        told,
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
        assert "is writing it; wait until it ends" in refusal(tmp_path, call=hold, is_folder=True)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "runs"
    told = f"{folder}: cannot write there: {tmp_path / 'file'} is a file, not a folder; choose another folder"
    assert refusal(folder) == told
    # Of the kernel's own folders root is refused too.
    folder = Path("/sys/runs")
    assert re.fullmatch(
        "/sys/runs: cannot write there: (permission denied|operation not permitted|read-only file system); "
        "choose (a path that this user may use|another folder)",
        refusal(folder),
    )
    assert re.fullmatch(
        rf"{tmp_path}: expected 1,000,000,000,000 MB free, got [\d,]+ MB; free some space, or choose another folder",
        refusal(tmp_path, needs_bytes=10**18),
    )


def test_a_file_needs_a_folder_and_a_name_that_says_what_it_is(tmp_path):
    told = f"{tmp_path}: expected the name of a file, got a directory; name a file in it"
    assert refusal(tmp_path, call=check_file) == told
    file = tmp_path / "no" / "r.json"
    told = f"{file}: cannot be written: there is no directory {tmp_path / 'no'}; make it first"
    assert refusal(file, call=check_file) == told
    check_name(Path("a.b/student.edge"), ".edge")
    for name in ("student.onnx", "student"):
        told = f"{name}: expected a name that ends in .edge; name it student.edge"
        assert refusal(Path(name), ".edge", call=check_name) == told


REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "text", ['=HYPERLINK("http://evil.example")', "+1+1", "-cmd", "@SUM(A1)", "\t=1+1", "\r=1+1", "=", "--1"]
)
def test_a_text_that_a_spreadsheet_would_run_is_escaped(text):
    assert list(csv.reader(io.StringIO(csv_text([[text]]), newline=""))) == [["'" + text.replace("\r", "\n")]]


@pytest.mark.parametrize("value", [-1, -0.5, "-0.5", "+3", "-1e-05", "-inf", "a=b", "", None, "1 = 1"])
def test_numbers_and_other_texts_stay_as_they_are_and_a_carriage_return_begins_no_row(value):
    expected = "" if value is None else str(value)
    assert next(csv.reader(io.StringIO(csv_text([[value, 1]])))) == [expected, "1"]
    assert csv_text([["a\r=1+1", 2]]) == '"a\n=1+1",2\n'


def test_no_other_file_writes_csv():
    writers = re.compile(r"csv\.writer|DictWriter|\.write_csv\(|\.to_csv\(")
    for folder in ("mmkd_edge", "models", "export", "benchmarks/mmkd_bench", "app", "documents", "station"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            assert bool(writers.search(file.read_text())) == (file == REPOSITORY / "mmkd_edge/outputs.py"), file
