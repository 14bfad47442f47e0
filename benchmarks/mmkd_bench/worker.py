"""The measuring process: `python -m mmkd_bench.worker FOLDER` reads a job from stdin and leaves its outcome in FOLDER.

The job is one line; when stdin closes, whoever asked is gone, and this process ends.
Writes `outcome.json` and `samples.npz`, or `failure.json`, or, where it was interrupted before it had measured
anything, nothing. SIGINT ends a measurement early and what was measured counts.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from threading import Event


def main(folder: Path) -> None:
    """Carry out the job that stands on stdin."""
    stop = Event()
    signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
    job = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    begin = time.perf_counter_ns()
    importlib.import_module("mmkd_edge.predictor")
    import_ms = (time.perf_counter_ns() - begin) / 1e6
    # Only now: this imports the runtime as well.
    from mmkd_bench.dispatch import do_job

    do_job(job, folder=folder, import_ms=import_ms, stop=stop)


def _end_with_parent() -> None:
    # Not through sys.stdin: its lock, held by a thread, would stop the interpreter from ending.
    while os.read(0, 1):
        continue
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
