"""A trial in a process of its own: started, listened to with a limit, and ended.

Owns how the process is started so that it sees what this one does and nothing of a user's environment besides, and what
its end means in words.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from mmkd_edge.errors import UnavailableError
from mmkd_edge.opening.trial import TrialEvent, TrialRequest

WAY_S = 10.0
"""What one way may take: opening, warming up and answering; a student takes tenths of a second."""

STARTING_S = 20.0
"""What the process may take until it begins."""

MEMORY_BYTES = 2 << 30
"""What the process may allocate; a student takes a tenth of it."""

# Isolated from the environment; the places to import from are those of this process.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from mmkd_edge.opening.trial import main; main()"
_INSTEAD = "install the bundle with mmkd-edge install and open it with trust='installed'"


def hold_trial(request: TrialRequest) -> Iterator[TrialEvent | str]:
    """What came of each way in turn; ends early where one ends the process, with a text that says how.

    Raises:
        UnavailableError: no process can be started here.
    """
    process = _start(request)
    try:
        reading = _Lines(process)
        if reading.next(limit_s=STARTING_S) is None:
            raise UnavailableError(f"the process of a trial does not start: {_end_of(process)}; {_INSTEAD}")
        for _ in request.ways:
            line = reading.next(limit_s=WAY_S)
            if line is None:
                yield _end_of(process)
                return
            yield msgspec.json.decode(line, type=TrialEvent)
    finally:
        _end(process)


def _start(request: TrialRequest) -> subprocess.Popen[bytes]:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise UnavailableError(f"a trial needs a Python interpreter, and this program has none of its own; {_INSTEAD}")
    command = [sys.executable, "-I", "-B", "-c", _CHILD, *sys.path]  # -B: it leaves no file behind
    environment = dict(os.environ, OMP_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, and what a trial starts ends with it
        )
    except OSError as error:
        raise UnavailableError(f"a trial cannot start a process: {(error.strerror or str(error)).lower()}") from error
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(request))
        process.stdin.close()
    return process


class _Lines:
    """The lines of a process, each waited for only so long."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._descriptor = process.stdout.fileno()
        self._seen = b""

    def next(self, *, limit_s: float) -> bytes | None:
        """The next line; None where the process has ended, or takes longer."""
        until = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:  # `select` itself knows no descriptor above 1,023
            selector.register(self._descriptor, selectors.EVENT_READ)
            while b"\n" not in self._seen:
                left_s = until - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    return None
                part = os.read(self._descriptor, 1 << 16)
                if not part:
                    return None
                self._seen += part
        line, _, self._seen = self._seen.partition(b"\n")
        return line


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """How a process came to its end, or that it did not."""
    try:
        code = process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return "it takes too long"
    if code == -signal.SIGXCPU:
        return "it takes too long"
    if code == -signal.SIGKILL:
        return "the system ended it, as a rule for want of memory"
    return f"it crashed: {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
