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
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from mmkd_bench.measuring.jobs import FAILURE_FILE, OUTCOME_FILE, SAMPLES_FILE, Failure, Job, RunJob
from mmkd_bench.measuring.timing import Arrays
from mmkd_edge.errors import BackendError, find_error_class

START_LIMIT_S = 120.0  # extra time of a process: libraries, session, a slow card
_GRACE_S = 15.0  # for an interrupted process to hand over its results
Progress = Callable[[str], object]  # receives one line when a launch begins
WORKER = "mmkd_bench.measuring.worker"
OutcomeT = TypeVar("OutcomeT", bound=msgspec.Struct)


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
    job: Job,
    outcome_type: type[OutcomeT],
    *,
    limit_s: float,
    launches: int = 1,
    doing: str = "",
    progress: Progress = ignore_progress,
    worker: str | None = None,
) -> Launched[OutcomeT]:
    """Do a job in new processes; Ctrl-C asks a run for what it has, and ends other jobs.

    Raises a process's MmkdError; BackendError if it crashed or took too long; KeyboardInterrupt without a measurement.
    """
    outcomes: list[OutcomeT] = []
    samples: list[Arrays] = []
    interrupted = False
    try:
        while len(outcomes) < launches and not interrupted:
            progress(f"launch {len(outcomes) + 1} of {launches}: {doing}")
            with tempfile.TemporaryDirectory(prefix="mmkd-bench-") as folder:
                interrupted = _run(job, Path(folder), limit_s, worker)
                if (Path(folder) / OUTCOME_FILE).exists():
                    outcomes.append(msgspec.json.decode((Path(folder) / OUTCOME_FILE).read_bytes(), type=outcome_type))
                    with np.load(Path(folder) / SAMPLES_FILE, allow_pickle=False) as stored:
                        samples.append({key: stored[key] for key in stored.files})
    except KeyboardInterrupt:  # between two launches
        if not isinstance(job, RunJob):
            raise
        interrupted = True
    if not outcomes:
        raise KeyboardInterrupt
    return Launched(outcomes=outcomes, samples=samples, interrupted=interrupted)


def _run(job: Job, folder: Path, limit_s: float, worker: str | None) -> bool:
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
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                process.stdin.flush()  # stays open: closing it ends the other process
            exit_code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            exit_code = None
        except KeyboardInterrupt:
            if not isinstance(job, RunJob):
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
