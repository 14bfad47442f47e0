"""Windows by a double: POSIX's calls are hidden, files that are open resist, and folders cannot be opened."""

import json
import subprocess
import sys

import numpy as np

from mmkd_app.commands.run import main
from mmkd_edge import EdgePredictor, example_bundle

# The standard library and NumPy are of this system, and are loaded before.
WINDOWS = """
import asyncio, fcntl, getpass, logging, os, queue, select, shutil, signal, socket, sqlite3, subprocess, sys, tempfile
import ctypes, threading, types, numpy, msgspec

def locking(descriptor, mode, count):
    assert (mode, count, os.lseek(descriptor, 0, os.SEEK_CUR)) == (2, 1, 1 << 30)
    flock(descriptor, 6)

def resisting(call):
    def resist(*names, **options):
        held = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
        if os.path.realpath(names[-1]) in held:
            raise PermissionError(13, "Permission denied", str(names[-1]))
        return call(*names, **options)
    return resist

def opening(call):
    def open_file(path, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return call(path, *rest, **options)
    return open_file

def selecting(*_):
    raise OSError(10038, "an operation was attempted on something that is not a socket")

flock = fcntl.flock
for name in ("fcntl", "pwd", "resource"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
sys.modules["msvcrt"].locking, sys.modules["msvcrt"].LK_NBLCK = locking, 2
for name in ("pread", "pwrite", "fchmod", "geteuid", "getuid", "killpg", "fork", "sched_getaffinity", "uname", "chown"):
    delattr(os, name)
for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "O_TMPFILE"):
    delattr(os, name)
os.O_NOINHERIT = os.O_BINARY = 0
for name in ("replace", "unlink"):
    setattr(os, name, resisting(getattr(os, name)))
os.open, select.select = opening(os.open), selecting
tempfile.TemporaryFile = tempfile.NamedTemporaryFile
signal.SIGBREAK = signal.SIGUSR1
del signal.SIGHUP, signal.SIGKILL, socket.AF_UNIX
"""


def run(program, *arguments, text=None):
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS + program, *map(str, arguments)], capture_output=True, text=True, input=text
    )
    return done.returncode, done.stdout, done.stderr


def run_command(module, *line, text=None):
    return run(f"from {module} import main\nsys.argv[:1] = []\nmain()", *line, text=text)


def test_what_is_not_for_devices_is_refused_there():
    for module, line, name in (
        ("mmkd_app.cli.mmkd", ("mmkd", "train", "teacher"), "mmkd-train"),
        ("mmkd_app.commands.bench", ("mmkd-bench", "run", "student.edge"), "mmkd-bench"),
    ):
        cure = f"{name} needs Linux or macOS, and this is linux; here mmkd-edge and mmkd-run run; run {name} in WSL 2"
        assert run_command(module, *line) == (3, "", f"{name}: {cure}\n")


def test_a_predictor_answers_there_and_a_sandbox_check_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no sandbox check has passed yet
    program = """
from mmkd_edge import EdgePredictor, MmkdError, example_bundle
with EdgePredictor.open(example_bundle()) as predictor:
    print(predictor.info().backend, predictor.predict(numpy.ones((200, 3), dtype=numpy.float32)).probabilities.tolist())
try:
    EdgePredictor.open(example_bundle(), backend="ort")
except MmkdError as error:
    print(error)
"""
    code, output, errors = run(program)
    assert (code, errors) == (0, "")
    answer, refusal = output.splitlines()
    with EdgePredictor.open(example_bundle(), backend="native") as predictor:
        expected = predictor.predict(np.ones((200, 3), dtype=np.float32)).probabilities.tolist()
        assert predictor.info().sandbox_check == "none: the native engine checks its own files"
    assert answer == f"native {expected}"
    assert refusal == (
        f"a sandbox check limits a process with calls of POSIX, and this is {sys.platform}; use backend='native', or "
        "install the bundle with mmkd-edge install and open it with trust='installed'"
    )


def test_a_station_runs_there_from_a_pipe_into_files_with_its_store(tmp_path, ran):
    text = "".join(f"{number % 7},0,0\n" for number in range(600))
    sinks = ("--sink", f"jsonl:{tmp_path}/a.jsonl", "--sink", f"csv:{tmp_path}/a.csv", "--store", tmp_path / "store")
    code, _, errors = run_command(
        "mmkd_app.commands.run", "mmkd-run", example_bundle(), "--source", "stdin", *sinks, text=text
    )
    assert code == 0, errors
    (tmp_path / "log.csv").write_text(text)
    here = ("--source", f"csv:{tmp_path}/log.csv", "--sink", f"jsonl:{tmp_path}/b.jsonl")
    assert ran(main, "mmkd-run", example_bundle(), *here)[0] == 0
    there, expected = (
        [(record["label"], record["probability"]) for record in map(json.loads, file) if record["kind"] == "result"]
        for file in ((tmp_path / name).read_text().splitlines() for name in ("a.jsonl", "b.jsonl"))
    )
    assert there == expected
    assert len(there) > 3


def test_ctrl_break_ends_a_station_there(tmp_path):
    (tmp_path / "log.csv").write_text("1,0,0\n" * 300)
    program = """
def end():
    path = sys.argv[-1].partition(":")[2]
    while not os.path.exists(path) or not os.path.getsize(path):
        threading.Event().wait(0.05)
    os.kill(os.getpid(), signal.SIGBREAK)

threading.Thread(target=end, daemon=True).start()
from mmkd_app.commands.run import main
sys.argv[:1] = []
main()
"""
    line = ("mmkd-run", example_bundle(), "--source", f"csv:{tmp_path}/log.csv", "--follow", "--json")
    code, _, errors = run(program, *line, "--sink", f"jsonl:{tmp_path}/a.jsonl")
    assert code == 0, errors
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1])["state"] == "stopped"


def test_bundles_are_installed_and_listed_there(tmp_path):
    state = tmp_path / "state"
    for line, expected in ((("install", example_bundle(), state), "installed"), (("list", state), "current")):
        code, output, errors = run_command("mmkd_app.commands.edge", "mmkd-edge", *line)
        assert (code, errors, expected in output) == (0, "", True)


def test_a_lock_keeps_a_second_out_there_and_a_file_that_is_open_is_left_as_it_was(tmp_path):
    program = """
from pathlib import Path
from mmkd_edge import MmkdError
from mmkd_edge.bundle.files import write_file
from mmkd_edge.outputs import lock_output
from mmkd_edge.system import lock_file, read_at
os.environ["USER"] = os.environ["LOGNAME"] = "ada"
folder = Path(sys.argv[1])
with lock_output(folder / "out"):
    try:
        with lock_output(folder / "out"): ...
    except MmkdError as error:
        print(error)
write_file(folder / "kept", b"old")
write_file(folder / "kept", b"newer")
with (folder / "kept").open("rb") as file:
    print(read_at(file.fileno(), 3, 2))
    try:
        write_file(folder / "kept", b"last")
    except MmkdError as error:
        print(error)
first, second = (os.open(folder / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
lock_file(first, wait=False)
threading.Timer(0.3, os.close, [first]).start()
lock_file(second, wait=True)
print(sorted(path.name for path in folder.iterdir()), (folder / "kept").read_bytes())
"""
    code, output, errors = run(program, tmp_path)
    assert (code, errors) == (0, "")
    locked, read, refused, kept = output.splitlines()
    assert locked.startswith(f"{tmp_path}/out: -c (process ")
    assert " of ada on " in locked
    assert locked.endswith(" is writing it; wait until it ends, or choose another name")
    assert (read, kept) == ("b'wer'", "['.out.lock', 'kept', 'lock'] b'newer'")
    assert refused == (
        f"{tmp_path}/kept: cannot write it: permission denied; choose a path that this user may use; an earlier file "
        "is left as it was"
    )
