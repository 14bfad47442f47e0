"""A load job inside the measuring process: open the bundle, warm up, offer the load or search for the largest."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from mmkd_bench.load.offering import offer_load
from mmkd_bench.load.search import find_capacity
from mmkd_bench.machine.interference import interference, read_counters
from mmkd_bench.measuring.jobs import LoadJob, LoadOutcome
from mmkd_bench.measuring.opening import asked, describe, open_predictor, raw_windows
from mmkd_bench.measuring.timing import warm_up
from mmkd_edge.predictor import EdgePredictor
from mmkd_report.schema.bench_others import Level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.int64]]


def do_load_job(job: LoadJob, *, stop: Event) -> tuple[LoadOutcome, Arrays] | None:
    """Carry out one job in this process; None where `stop` came before the load, or the first of a search, was over.

    Returns:
        The outcome and, of a load that was given, its samples (`response_ns` and `service_ns`, each int64 (N,)).

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    end_s = time.monotonic() + job.search_s
    with open_predictor(job.choice) as predictor:
        before = read_counters()
        found = _found(job, predictor, stop, end_s)
        if found is None:
            return None
        streams, levels, samples = found
        outcome = LoadOutcome(
            opened=describe(predictor, job.choice.bundle),
            streams=streams,
            levels=levels,
            interference=interference(before, read_counters()),
        )
        return outcome, samples


def _found(
    job: LoadJob, predictor: EdgePredictor, stop: Event, end_s: float
) -> tuple[int, tuple[Level, ...], Arrays] | None:
    windows = [asked(predictor, window) for window in raw_windows(predictor)]
    warm_up(predictor.predict, windows, limit_s=job.warm_up_limit_s, stop=stop)
    if stop.is_set():
        return None
    if job.streams is None:
        found, levels = find_capacity(predictor.predict, windows, demand=job.demand, stop=stop, end_s=end_s)
        return (found, levels, {}) if levels else None
    offered = offer_load(
        predictor.predict, windows, streams=job.streams, demand=job.demand, duration_s=job.duration_s, stop=stop
    )
    samples = {"response_ns": offered.response_ns, "service_ns": offered.service_ns}
    return None if stop.is_set() else (job.streams, (offered.level,), samples)
