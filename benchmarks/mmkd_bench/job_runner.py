"""Inside the measuring process: from a job in JSON to files that the parent reads."""

from __future__ import annotations

import traceback
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_bench.measuring.jobs import (
    FAILURE_FILE,
    OUTCOME_FILE,
    SAMPLES_FILE,
    Failure,
    Job,
    LoadJob,
    LoadOutcome,
    OverheadJob,
    PairJob,
    PairOutcome,
    RivalsJob,
    RivalsOutcome,
    RunJob,
    RunOutcome,
    TeacherJob,
    TeacherOutcome,
    TuneJob,
    TuneOutcome,
)
from mmkd_bench.measuring.launch import measure_launch
from mmkd_bench.measuring.offer_load import serve_load
from mmkd_bench.turns.alternate import alternate_models, alternate_predict
from mmkd_bench.turns.end_to_end import time_end_to_end
from mmkd_bench.turns.rivals import time_rivals
from mmkd_bench.turns.trials import measure_trials
from mmkd_edge.errors import MmkdError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Outcome = RunOutcome | PairOutcome | LoadOutcome | RivalsOutcome | TuneOutcome | TeacherOutcome
    Found = tuple[Outcome, dict[str, NDArray[np.int64]]]


def carry_out(job: bytes, *, folder: Path, import_ms: float, stop: Event) -> None:
    """Do the job and leave its outcome, or why there is none, in `folder`."""
    try:
        found = _find(msgspec.json.decode(job, type=Job), import_ms, stop)
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


def _find(job: Job, import_ms: float, stop: Event) -> Found | None:
    if isinstance(job, RunJob):
        return measure_launch(job, import_ms=import_ms, stop=stop)
    if isinstance(job, LoadJob):
        return serve_load(job, stop=stop)
    found = _without_samples(job, stop)
    return None if found is None else (found, {})


def _without_samples(
    job: PairJob | OverheadJob | RivalsJob | TuneJob | TeacherJob, stop: Event
) -> PairOutcome | RivalsOutcome | TuneOutcome | TeacherOutcome | None:
    if isinstance(job, PairJob):
        return alternate_models(job, stop=stop)
    if isinstance(job, OverheadJob):
        return alternate_predict(job, stop=stop)
    if isinstance(job, TuneJob):
        return measure_trials(job, stop=stop)
    if isinstance(job, TeacherJob):
        return time_end_to_end(job, stop=stop)
    return time_rivals(job, stop=stop)


def _write(path: Path, content: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.encode(content))
