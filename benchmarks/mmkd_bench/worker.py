"""The measuring process: `python -m mmkd_bench.worker FOLDER` reads a job from stdin and leaves its outcome in FOLDER.

Writes `outcome.json` and `samples.npz`, or `failure.json`, or, where it was interrupted before it had measured
anything, nothing. SIGINT ends a measurement early and what was measured counts.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from pathlib import Path
from threading import Event


def main(folder: Path) -> None:
    """Carry out the job that stands on stdin."""
    stop = Event()
    signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
    begin = time.perf_counter_ns()
    importlib.import_module("mmkd_edge.predictor")
    import_ms = (time.perf_counter_ns() - begin) / 1e6
    # Only now: this imports the runtime as well.
    from mmkd_bench.carry_out import carry_out

    carry_out(sys.stdin.buffer.read(), folder=folder, import_ms=import_ms, stop=stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
