"""Inside the measuring process: from a job in JSON to the function that does it, and its outcome to files."""

from __future__ import annotations

import traceback
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_bench.load.load_job import do_load_job
from mmkd_bench.measuring.jobs import (
    FAILURE_FILE,
    OUTCOME_FILE,
    SAMPLES_FILE,
    Failure,
    Job,
    LoadJob,
    Outcome,
    OverheadJob,
    PairJob,
    RivalsJob,
    RunJob,
    TuneJob,
)
from mmkd_bench.measuring.launch import measure_launch
from mmkd_bench.turns.from_samples import time_from_samples
from mmkd_bench.turns.pairs import time_models, time_predict
from mmkd_bench.turns.rival_engines import time_rivals
from mmkd_bench.turns.ways import time_ways
from mmkd_edge.errors import MmkdError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Found = tuple[Outcome, dict[str, NDArray[np.int64]]]


def do_job(job: bytes, *, folder: Path, import_ms: float, stop: Event) -> None:
    """Do the job and leave its outcome, or why there is none, in `folder`."""
    try:
        found = _found(msgspec.json.decode(job, type=Job), import_ms, stop)
    except MmkdError as error:
        _write(folder / FAILURE_FILE, Failure(error=type(error).__name__, message=str(error), trace=""))
        return
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        _write(folder / FAILURE_FILE, Failure(error="", message=message, trace=traceback.format_exc()))
        return
    if found is None:
        return
    outcome, samples = found
    arrays: dict[str, Any] = {**samples}
    np.savez(folder / SAMPLES_FILE, **arrays)
    _write(folder / OUTCOME_FILE, outcome)


def _found(job: Job, import_ms: float, stop: Event) -> Found | None:
    if isinstance(job, RunJob):
        return measure_launch(job, import_ms=import_ms, stop=stop)
    if isinstance(job, LoadJob):
        return do_load_job(job, stop=stop)
    outcome: Outcome | None
    if isinstance(job, PairJob):
        outcome = time_models(job, stop=stop)
    elif isinstance(job, OverheadJob):
        outcome = time_predict(job, stop=stop)
    elif isinstance(job, TuneJob):
        outcome = time_ways(job, stop=stop)
    elif isinstance(job, RivalsJob):
        outcome = time_rivals(job, stop=stop)
    else:
        outcome = time_from_samples(job, stop=stop)
    return None if outcome is None else (outcome, {})


def _write(path: Path, content: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.encode(content))
