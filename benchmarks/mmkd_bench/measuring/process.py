"""Start a measuring process and read its outcome: each configuration gets a new one, which alone a crash ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_bench.measuring.timing import Arrays
from mmkd_edge.errors import BackendError, find_error_class

START_LIMIT_S = 120.0  # extra time of a process: libraries, session, a slow card
_GRACE_S = 15.0  # for an interrupted process to hand over its results
Progress = Callable[[str], object]  # receives one line when a launch begins
WORKER = "mmkd_bench.measuring.worker"
OUTCOME_FILE, SAMPLES_FILE, FAILURE_FILE = "outcome.json", "samples.npz", "failure.json"
Array = NDArray[np.float32]
Answers = tuple[Array, Array]
_Run = Callable[[Array, Array], Answers]  # values and presence, each (1, T, C), to the two outputs, each (1, K)
EngineCall = tuple[_Run, str]  # how an engine is called, and its version
OpenTorch = Callable[[Path, int, bool], EngineCall]  # takes a checkpoint, threads, and whether to compile
JobT = TypeVar("JobT", bound=msgspec.Struct)
OutcomeT = TypeVar("OutcomeT", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class MeasuringProcess:
    """What a job gets from its process: the time to import the runtime, Ctrl-C, and what opens a checkpoint."""

    import_ms: float = 0.0
    stop: Event
    open_torch: OpenTorch | None = None


Work = Callable[[JobT, MeasuringProcess], tuple[OutcomeT, Arrays] | OutcomeT | None]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no outcome: an error of `mmkd_edge.errors`, or an internal one with its trace."""

    error: str
    message: str
    trace: str


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after a run measured something."""

    def __init__(self, report: Any) -> None:
        self.report = report


@dataclass(frozen=True, kw_only=True)
class Launched(Generic[OutcomeT]):
    """At least one successful launch; `interrupted` by Ctrl-C in or after the last."""

    outcomes: list[OutcomeT]
    samples: list[Arrays]
    interrupted: bool


def ignore_progress(line: str) -> object:
    """Show no progress."""
    return line


def run_launches(
    work: Work[JobT, OutcomeT],
    job: JobT,
    outcome_type: type[OutcomeT],
    *,
    limit_s: float,
    launches: int = 1,
    doing: str = "",
    progress: Progress = ignore_progress,
    worker: str | None = None,
    is_partial: bool = False,
) -> Launched[OutcomeT]:
    """Do a job by a function of a module, in new processes; Ctrl-C ends it, or asks for what it has (`is_partial`).

    Raises a process's MmkdError; BackendError if it crashed or took too long; KeyboardInterrupt without a measurement.
    """
    outcomes: list[OutcomeT] = []
    samples: list[Arrays] = []
    interrupted = False
    line = (
        f"{work.__module__}:{work.__qualname__}:{type(job).__qualname__} ".encode() + msgspec.json.encode(job) + b"\n"
    )
    try:
        while len(outcomes) < launches and not interrupted:
            progress(f"launch {len(outcomes) + 1} of {launches}: {doing}")
            with tempfile.TemporaryDirectory(prefix="mmkd-bench-") as folder:
                interrupted = _run(line, Path(folder), limit_s, worker, is_partial=is_partial)
                if (Path(folder) / OUTCOME_FILE).exists():
                    outcomes.append(msgspec.json.decode((Path(folder) / OUTCOME_FILE).read_bytes(), type=outcome_type))
                    with np.load(Path(folder) / SAMPLES_FILE, allow_pickle=False) as stored:
                        samples.append({key: stored[key] for key in stored.files})
    except KeyboardInterrupt:  # between two launches
        if not is_partial:
            raise
        interrupted = True
    if not outcomes:
        raise KeyboardInterrupt
    return Launched(outcomes=outcomes, samples=samples, interrupted=interrupted)


def _run(line: bytes, folder: Path, limit_s: float, worker: str | None, *, is_partial: bool) -> bool:
    """Run one process; return whether Ctrl-C ended it."""
    # Only installed packages, not the current folder.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    interrupted, exit_code = False, None
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", worker or WORKER, os.fspath(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which asks for results
        )
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; its output has the reason
                process.stdin.write(line)
                process.stdin.flush()  # stays open: closing it ends the other process
            exit_code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            exit_code = None
        except KeyboardInterrupt:
            if not is_partial:
                raise
            interrupted = True
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(timeout=_GRACE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    if (folder / FAILURE_FILE).exists():
        raise _error((folder / FAILURE_FILE).read_bytes())
    if not interrupted and not (folder / OUTCOME_FILE).exists():
        raise BackendError(_describe_end(folder, exit_code, limit_s))
    return interrupted


def _error(data: bytes) -> Exception:
    failure = msgspec.json.decode(data, type=Failure)
    if failure.error:
        return find_error_class(failure.error)(failure.message)
    return RuntimeError(f"the measuring process failed: {failure.message}\n{failure.trace}".rstrip())


def _describe_end(folder: Path, exit_code: int | None, limit_s: float) -> str:
    if exit_code is None:
        how = f"did not end within {limit_s:.0f} s"
    elif exit_code < 0:
        how = f"was ended by {signal.Signals(-exit_code).name}"
    else:
        how = f"ended with exit code {exit_code}"
    lines = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    output = f"; its last line: {lines[-1]}" if lines else " and printed nothing"
    return f"the measuring process {how} before it had a result{output}"
