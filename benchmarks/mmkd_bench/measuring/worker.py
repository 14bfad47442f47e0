"""The measuring process: reads a job from stdin, ends when stdin closes; writes an outcome or a failure to a folder."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmkd_bench.measuring.process import OpenTorch


def main(folder: Path, *, open_torch: OpenTorch | None = None) -> None:
    """Do the job on stdin; `open_torch` opens a checkpoint among rivals."""
    stop = Event()
    signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    begin = time.perf_counter_ns()
    importlib.import_module("mmkd_edge.predictor")
    import_ms = (time.perf_counter_ns() - begin) / 1e6
    _do_job(line, folder=folder, given={"import_ms": import_ms, "stop": stop, "open_torch": open_torch})


def _do_job(line: bytes, *, folder: Path, given: dict[str, Any]) -> None:
    # Only now: these import the runtime, whose import is timed.
    import msgspec
    import numpy as np

    from mmkd_bench.measuring.process import FAILURE_FILE, OUTCOME_FILE, SAMPLES_FILE, Failure, MeasuringProcess
    from mmkd_edge.errors import MmkdError

    try:
        work, _, job = line.partition(b" ")
        module, *names = work.decode().split(":")
        function, kind = (getattr(importlib.import_module(module), name) for name in names)
        measured = function(msgspec.json.decode(job, type=kind), MeasuringProcess(**given))
    except Exception as error:
        name, is_ours = type(error).__name__, isinstance(error, MmkdError)
        message, trace = (str(error), "") if is_ours else (f"{name}: {error}", traceback.format_exc())
        failure = Failure(error=name if is_ours else "", message=message, trace=trace)
        (folder / FAILURE_FILE).write_bytes(msgspec.json.encode(failure))
        return
    if measured is not None:
        outcome, samples = measured if isinstance(measured, tuple) else (measured, {})
        np.savez(folder / SAMPLES_FILE, **samples)
        (folder / OUTCOME_FILE).write_bytes(msgspec.json.encode(outcome))


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread holding its lock would keep the interpreter alive.
    while os.read(0, 1):
        continue
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
