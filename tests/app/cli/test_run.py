"""How a command ends: exit codes, one line for an error, and Ctrl-C at any moment."""

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmkd_app.cli.catalogue import COMMANDS, ONE_MAIN, ONE_NAME
from mmkd_app.cli.run import run_command
from mmkd_app.cli.show import hint_at_resuming
from mmkd_edge.errors import BundleError, GateError, PerformanceError, UnavailableError, UsageError


def _run(command, *arguments, **options):
    with pytest.raises(SystemExit) as exit_info:
        run_command("mmkd-x", command, arguments=arguments, **options)
    return exit_info.value.code


def _raising(error):
    def command(arguments):
        raise error

    return command


def _script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text("import sys, time\nfrom mmkd_app.cli.run import run_command\n" + textwrap.dedent(body))
    return [sys.executable, str(path)]


def _started(tmp_path, body):
    return subprocess.Popen(_script(tmp_path, body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_command_ends_with_zero_or_one_line_without_traceback(capsys):
    seen = []
    assert _run(seen.append, "check", "DIR") == 0
    assert seen == [["check", "DIR"]]
    assert _run(_raising(SystemExit(5))) == 5
    assert _run(_raising(ValueError("odd"))) == 1
    expected = "mmkd-x: internal error: ValueError: odd; add --debug to see where, and please report it\n"
    assert capsys.readouterr().err == expected
    assert _run(_raising(MemoryError())) == 3
    told = "mmkd-x: out of memory: this process may have no more; give it more, or end others\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("error", [UsageError, UnavailableError, GateError, PerformanceError, BundleError])
def test_an_error_of_the_tree_is_one_line_and_its_own_exit_code(error, capsys):
    codes = {UsageError: 2, UnavailableError: 3, GateError: 4, PerformanceError: 5, BundleError: 6}
    assert _run(_raising(error("a: b"))) == codes[error]
    assert capsys.readouterr() == ("", "mmkd-x: a: b\n")


def test_an_interrupted_command_says_once_how_it_goes_on(capsys):
    with pytest.raises(KeyboardInterrupt), hint_at_resuming():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "the same command continues\n"


def test_debug_shows_the_traceback_and_is_taken_out_of_the_arguments(capsys):
    def command(arguments):
        raise UsageError(" ".join(arguments))

    _run(command, "check", "--debug", "DIR")
    error_text = capsys.readouterr().err
    assert error_text.startswith("Traceback (most recent call last):\n")
    assert error_text.endswith("mmkd-x: check DIR\n")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOENT, "no such file or directory; check the path"),
        (errno.EROFS, "read-only file system; choose another folder"),
        (errno.ENOSPC, "no space left on device; free some space, or choose another folder"),
        (errno.EDQUOT, "disk quota exceeded; free some space, or choose another folder"),
        (errno.EFBIG, "file too large; choose another folder, or raise the limit (ulimit -f)"),
        (errno.EACCES, "permission denied; choose a path that this user may use"),
        (errno.ENOTDIR, "not a directory; a part of the path is a file; correct it"),
        (errno.EISDIR, "is a directory; name a file in it"),
        (errno.ENOTEMPTY, "directory not empty; choose another name"),
    ],
)
def test_a_path_that_cannot_be_used_says_why_and_what_to_do(code, said, capsys):
    assert _run(_raising(OSError(code, os.strerror(code), "a.edge"))) == 2
    assert capsys.readouterr().err == f"mmkd-x: a.edge: {said}\n"


def test_a_result_that_goes_to_a_full_disk_is_one_line(tmp_path):
    script = _script(tmp_path, "run_command('mmkd-x', lambda arguments: print('result'))")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(script, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "mmkd-x: cannot write: no space left on device; free some space, or choose another folder\n"
    assert (ended.returncode, ended.stderr) == (2, said)


def test_missing_modules_name_the_extra_and_the_command_never_starts(capsys):
    assert _run(_raising(AssertionError()), needs=("no_such_a", "no_such_b"), extra="train") == 3
    expected = (
        "mmkd-x: mmkd-x needs no_such_a and no_such_b, which this Python lacks; run: pip install 'mmkd-edge[train]'\n"
    )
    assert capsys.readouterr().err == expected


def test_no_next_command_holds_a_path_that_is_not_quoted():
    root = Path(__file__).parents[3]
    files = [
        path for part in ("app", "mmkd_edge", "export", "benchmarks", "models") for path in (root / part).rglob("*.py")
    ]
    assert len(files) > 100
    unquoted = [
        f"{path.name}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"next: (mmkd-[a-z]+|python)[^{]*\{", line) or re.search(r'f"mmkd-[a-z]+ [^"]*\{', line)
    ]
    assert unquoted == []


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path):
    # A shell that starts tests in the background ignores SIGINT, and children inherit that.
    body = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    def command(arguments):
        print("ready", flush=True)
        time.sleep(60)
    run_command("mmkd-x", command)
    """
    process = _started(tmp_path, body)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    _, error_text = process.communicate(timeout=60)
    assert (process.returncode, error_text) == (130, "mmkd-x: interrupted\n")


def test_a_reader_that_leaves_early_causes_no_noise(tmp_path):
    body = """
    def command(arguments):
        for number in range(100000):
            print("line", number)
    run_command("mmkd-x", command)
    """
    process = _started(tmp_path, body)
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as errors:
        assert (errors.read(), process.wait(timeout=60)) == ("", 141)


def test_what_an_error_repeats_from_a_file_cannot_repaint_the_terminal(capsys):
    _run(_raising(UsageError("two:\n  - \x1b[2Jok\r\u202e")))
    assert capsys.readouterr().err == "mmkd-x: two:\n  - \\x1b[2Jok\\r\\u202e\n"


# Python tells every import when it is done; so a signal comes at a known moment, however busy the machine is.
ENVIRONMENT = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "OMP_NUM_THREADS": "1"}


def interrupted(command, *arguments, when, later):
    """Sends Ctrl-C when a module, and so many after it, are imported; exit code and what was said beside imports."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(command)), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == when:
                break
        for _ in range(later):
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
    return process.returncode, [line for line in rest if not line.startswith("import time:")]


@pytest.mark.parametrize(
    ("module", "later"),
    [
        ("mmkd_edge.errors", 0),  # the door's own
        ("numpy._core._exceptions", 0),  # imported by C code, which turns an interrupt into an ImportError
        ("torch._C", 500),  # amid torch, which the command imports late
    ],
)
def test_an_interrupted_import_is_one_line_and_no_traceback(module, later, tmp_path):
    line = ("student", "watch_exercises", "--modality", "acc", "-o", str(tmp_path / "a.ckpt"))
    said = interrupted("mmkd-train", *line, when=module, later=later)
    assert said == (130, ["mmkd-train: interrupted"])


BEFORE_MAIN = """
import importlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
name, module, function = sys.argv[1], *sys.argv[2].split(":")
sys.argv = [f"bin/{name}", "--help"]
main = getattr(importlib.import_module(module), function)
signal.raise_signal(signal.SIGINT)
main()
"""


@pytest.mark.parametrize(
    ("name", "main"), [(ONE_NAME, ONE_MAIN), *((name, command.main) for name, command in COMMANDS.items())]
)
def test_an_interrupt_between_import_and_main_is_one_line_and_no_traceback(name, main):
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_MAIN, name, main], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{name}: interrupted\n")


def test_a_module_of_a_command_leaves_the_interrupts_of_other_programs_alone():
    body = "import signal, mmkd_app.commands.edge; signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("\nKeyboardInterrupt\n")
