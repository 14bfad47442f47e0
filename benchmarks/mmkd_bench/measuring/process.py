"""The parent's side of a measuring process: start it, wait, take its outcome, or turn its end into an error.

Every measured configuration gets a process of its own: no cache, thread pool or library state of an earlier one is
left, and a crash of a native library takes down a measurement, not the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import numpy as np

from mmkd_bench.measuring.jobs import FAILURE_FILE, OUTCOME_FILE, SAMPLES_FILE, Failure, Job
from mmkd_edge import errors
from mmkd_edge.errors import BackendError, MmkdError

if TYPE_CHECKING:
    from numpy.typing import NDArray

START_LIMIT_S = 120.0
"""How long a process may take beyond its measured times: libraries, session, a slow card."""

GRACE_S = 15.0
"""How long an interrupted process may take to hand over what it has."""

_MODULE = "mmkd_bench.worker"

Progress = Callable[[str], object]
"""Gets one line when a launch begins."""

OutcomeT = TypeVar("OutcomeT", bound=msgspec.Struct)
ReportT = TypeVar("ReportT")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after something was measured: who shows results catches it, everybody else just ends."""

    def __init__(self, report: Any) -> None:
        self.report = report


@dataclass(frozen=True, kw_only=True)
class Ended(Generic[OutcomeT]):
    """How a measuring process ended.

    Attributes:
        outcome: what it found; None where it was interrupted before it had measured anything.
        samples: its raw samples by name, each int64 (N,).
        interrupted: Ctrl-C ended it.
    """

    outcome: OutcomeT | None
    samples: dict[str, NDArray[np.int64]]
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class Launched(Generic[OutcomeT]):
    """Launches that measured something, at least one.

    Attributes:
        outcomes: what each found.
        samples: raw samples of each, in the same order.
        interrupted: Ctrl-C ended the last of them, or came after it.
    """

    outcomes: list[OutcomeT]
    samples: list[dict[str, NDArray[np.int64]]]
    interrupted: bool

    def finish(self, report: ReportT) -> ReportT:
        """The report that was made of the launches.

        Raises:
            Interrupted: Ctrl-C had ended them; it has the report.
        """
        if self.interrupted:
            raise Interrupted(report)
        return report


def unheard(line: str) -> object:
    """Progress for callers who do not want to see it."""
    return line


def run_launches(
    job: Job, outcome_type: type[OutcomeT], *, launches: int, limit_s: float, doing: str, progress: Progress
) -> Launched[OutcomeT]:
    """Carry out a job in one new process after another.

    Raises:
        MmkdError: what a process raised, crashed by or took too long for; see `run_job`.
        KeyboardInterrupt: Ctrl-C came before anything was measured.
    """
    found: list[Ended[OutcomeT]] = []
    try:
        while len(found) < launches and not (found and found[-1].interrupted):
            progress(f"launch {len(found) + 1} of {launches}: {doing}")
            found.append(run_job(job, outcome_type, limit_s=limit_s))
        interrupted = found[-1].interrupted
    except KeyboardInterrupt:  # between two launches
        interrupted = True
    measured = [(one.outcome, one.samples) for one in found if one.outcome is not None]
    if not measured:
        raise KeyboardInterrupt
    return Launched(
        outcomes=[outcome for outcome, _ in measured],
        samples=[samples for _, samples in measured],
        interrupted=interrupted,
    )


def run_job(job: Job, outcome_type: type[OutcomeT], *, limit_s: float) -> Ended[OutcomeT]:
    """Carry out a job in a new process.

    Ctrl-C asks the process for what it has; a second one ends it at once.

    Raises:
        MmkdError: what the process raised, with the same class and message.
        BackendError: the process crashed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="mmkd-bench-") as name:
        folder = Path(name)
        interrupted, exit_code = _run(job, folder, limit_s)
        if (folder / FAILURE_FILE).exists():
            raise _error((folder / FAILURE_FILE).read_bytes())
        if not (folder / OUTCOME_FILE).exists():
            if interrupted:
                return Ended(outcome=None, samples={}, interrupted=True)
            raise BackendError(_last_words(folder, exit_code, limit_s))
        outcome = msgspec.json.decode((folder / OUTCOME_FILE).read_bytes(), type=outcome_type)
        with np.load(folder / SAMPLES_FILE, allow_pickle=False) as stored:
            samples = {key: stored[key] for key in stored.files}
        return Ended(outcome=outcome, samples=samples, interrupted=interrupted)


def _run(job: Job, folder: Path, limit_s: float) -> tuple[bool, int | None]:
    """Whether Ctrl-C ended the process, and its exit code; None where it took too long."""
    # Only from the installed packages: not from whatever folder the command was started in.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, os.fspath(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then asks for what there is
        )
        try:
            _hand_over(job, process)
            process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return False, None
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            _wait_kindly(process)
            return True, process.returncode
        else:
            return False, process.returncode
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            _close_lifeline(process)


def _hand_over(job: Job, process: subprocess.Popen[bytes]) -> None:
    """The job as one line. Its stdin stays open: where it closes, this process has ended, and so does the other."""
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # it has ended already, and its last words say why


def _close_lifeline(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        return


def _wait_kindly(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return


def _error(data: bytes) -> Exception:
    failure = msgspec.json.decode(data, type=Failure)
    kind: type[MmkdError] | None = getattr(errors, failure.error, None) if failure.error else None
    if kind is not None:
        return kind(failure.message)
    return RuntimeError(f"the measuring process failed: {failure.message}\n{failure.trace}".rstrip())


def _last_words(folder: Path, exit_code: int | None, limit_s: float) -> str:
    if exit_code is None:
        how = f"did not end within {limit_s:.0f} s"
    elif exit_code < 0:
        how = f"was ended by {signal.Signals(-exit_code).name}"
    else:
        how = f"ended with exit code {exit_code}"
    words = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = f"; its last words: {words[-1]}" if words else " and said nothing"
    return f"the measuring process {how} before it had a result{said}"
