"""Ctrl-C in the first half second of a command: one line and exit 130, whatever is being imported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkd_edge.cli.show import hint_at_resuming

# Python tells every import when it is done; so a signal comes at a known moment, however busy the machine is.
ENVIRONMENT = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "OMP_NUM_THREADS": "1"}


def interrupted(command, *arguments, when, after_s=0.0):
    """Sends Ctrl-C when a module has been imported, or so long after; exit code and what was said beside imports."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(command)), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == when:
                break
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
    return process.returncode, [line for line in rest if not line.startswith("import time:")]


@pytest.mark.parametrize(
    "module",
    [
        "mmkd_edge.bundle.files",  # the door's own
        "numpy._core._exceptions",  # imported by C code, which turns an interrupt into an ImportError
        "numpy.linalg._umath_linalg",
    ],
)
def test_an_interrupted_import_is_one_line_and_no_traceback(module):
    said = interrupted("mmkd-train", "student", "nowhere", "--modality", "acc", when=module)
    assert said == (130, ["mmkd-train: interrupted"])


@pytest.mark.parametrize("after_s", [0.05, 0.1, 0.2, 0.4])
def test_ctrl_c_is_answered_from_the_start(after_s):
    # Python's own start, which ends with the module site, is out of reach.
    said = interrupted("mmkd-train", "student", "nowhere", "--modality", "acc", when="site", after_s=after_s)
    assert said == (130, ["mmkd-train: interrupted"])


def test_an_interrupted_command_says_once_how_it_goes_on(capsys):
    with pytest.raises(KeyboardInterrupt), hint_at_resuming():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "the same command continues\n"
