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
    from mmkd_bench.measuring.jobs import Job, Outcome
    from mmkd_bench.measuring.rivals import OpenTorch
    from mmkd_bench.measuring.timing import Arrays


def main(folder: Path, *, open_torch: OpenTorch | None = None) -> None:
    """Do the job on stdin; `open_torch` opens a checkpoint among rivals."""
    stop = Event()
    signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
    job = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    begin = time.perf_counter_ns()
    importlib.import_module("mmkd_edge.predictor")
    import_ms = (time.perf_counter_ns() - begin) / 1e6
    _do_job(job, folder=folder, import_ms=import_ms, stop=stop, open_torch=open_torch)


def _do_job(job: bytes, *, folder: Path, import_ms: float, stop: Event, open_torch: OpenTorch | None = None) -> None:
    # Only now: these import the runtime, whose import is timed.
    import msgspec
    import numpy as np

    from mmkd_bench.measuring.jobs import FAILURE_FILE, OUTCOME_FILE, SAMPLES_FILE, Failure, Job
    from mmkd_edge.errors import MmkdError

    try:
        measured = _measure(msgspec.json.decode(job, type=Job), import_ms, stop, open_torch)
    except Exception as error:
        name, is_ours = type(error).__name__, isinstance(error, MmkdError)
        message, trace = (str(error), "") if is_ours else (f"{name}: {error}", traceback.format_exc())
        failure = Failure(error=name if is_ours else "", message=message, trace=trace)
        (folder / FAILURE_FILE).write_bytes(msgspec.json.encode(failure))
        return
    if measured is not None:
        outcome, arrays = measured
        samples: dict[str, Any] = {**arrays}
        np.savez(folder / SAMPLES_FILE, **samples)
        (folder / OUTCOME_FILE).write_bytes(msgspec.json.encode(outcome))


def _measure(job: Job, import_ms: float, stop: Event, open_torch: OpenTorch | None) -> tuple[Outcome, Arrays] | None:
    from mmkd_bench.measuring.configs import time_configs
    from mmkd_bench.measuring.jobs import LoadJob, OverheadJob, PairJob, RunJob, TuneJob
    from mmkd_bench.measuring.launch import measure_launch
    from mmkd_bench.measuring.load import do_load_job
    from mmkd_bench.measuring.rivals import time_rivals
    from mmkd_bench.measuring.turns import time_models, time_predict

    match job:
        case RunJob():
            return measure_launch(job, import_ms=import_ms, stop=stop)
        case LoadJob():
            return do_load_job(job)
        case PairJob():
            return time_models(job), {}
        case OverheadJob():
            return time_predict(job), {}
        case TuneJob():
            return time_configs(job), {}
        case _:
            return time_rivals(job, open_torch=open_torch), {}


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread holding its lock would keep the interpreter alive.
    while os.read(0, 1):
        continue
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
