"""A child process for what may crash, hang or exhaust memory: started, limited, read, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import msgspec

if TYPE_CHECKING:
    import subprocess

# Isolated from the environment; the places to import from are those of this process.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from {0} import {1}; {1}()"


class ProcessLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a process."""

    step_s: float  # time, also processor time, until its next line
    memory_bytes: int
    file_bytes: int = 0  # largest file that it may write


def start_apart(function: str, request: bytes, *, more: bool = False) -> subprocess.Popen[bytes]:
    """Start a process that runs `package.module:name` with a request on its input, which `more` leaves open."""
    import subprocess  # 7 ms that most starts do not need

    module, _, name = function.partition(":")
    # -B: it leaves no file behind.
    command = [sys.executable, "-I", "-B", "-c", _CHILD.format(module, name), *sys.path]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, OMP_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1"),
        start_new_session=True,  # Ctrl-C is for this process, and what that one starts ends with it
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.flush() if more else process.stdin.close()
    return process


@contextlib.contextmanager
def answering(limits: ProcessLimits) -> Iterator[BinaryIO]:
    """In the child: limit it, discard other output, and yield the answer stream; it ends with the stream's reader."""
    with os.fdopen(os.dup(1), "wb") as answers:
        end_with_reader(answers.fileno())
        quiet = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(quiet, descriptor)
        import resource

        _lower(resource.RLIMIT_DATA, limits.memory_bytes)
        _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
        _lower(resource.RLIMIT_CORE, 0)
        limit_processor(limits)
        yield answers


def end_with_reader(descriptor: int) -> None:
    """In the child: end this process when the process that reads this pipe ends, however that happens."""
    import select
    import threading

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # an error alone, which a pipe without a reader is
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def limit_processor(limits: ProcessLimits) -> None:
    """In the child: allow processor time for one more step, then the system ends it."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + int(limits.step_s) + 1, hard=False)


def _lower(kind: int, limit: int, *, hard: bool = True) -> None:
    import resource

    _, most = resource.getrlimit(kind)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(kind, (limit, limit if hard else most))


class ProcessLines:
    """A child process's lines, each with a time limit."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._descriptor = process.stdout.fileno()
        self._read = b""

    def next(self, *, limit_s: float) -> bytes | None:
        """Return the next line; None if the process ended or is too slow."""
        import selectors

        until = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:  # `select` itself knows no descriptor above 1,023
            selector.register(self._descriptor, selectors.EVENT_READ)
            while b"\n" not in self._read:
                left_s = until - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    return None
                part = os.read(self._descriptor, 1 << 16)
                if not part:
                    return None
                self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line


def describe_end(process: subprocess.Popen[bytes]) -> str:
    """Describe how a process ended, or that it did not."""
    import subprocess

    try:
        code = process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return "it takes too long"
    if code == -signal.SIGXCPU:
        return "it takes too long"
    if code == -signal.SIGKILL:
        return "the system ended it, as a rule for want of memory"
    return f"it crashed: {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
