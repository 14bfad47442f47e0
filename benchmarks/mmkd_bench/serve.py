"""A load job inside the measuring process: open the bundle, warm up, offer the load or search for the largest."""

from __future__ import annotations

from threading import Event

from mmkd_bench.jobs import LoadJob, LoadOutcome
from mmkd_bench.load import Demand, Level, carry_load, find_capacity
from mmkd_bench.subject import Choice, describe, open_predictor, raw_windows
from mmkd_bench.timing import warm_up
from mmkd_edge.predictor import EdgePredictor


def serve_load(job: LoadJob, *, stop: Event) -> LoadOutcome | None:
    """Carry out one job in this process; None where `stop` came before it was done.

    Raises:
        MmkdError: the bundle cannot be opened or run.
    """
    choice = Choice(
        bundle=job.bundle,
        backend=job.backend,
        precision=job.precision,
        threads=job.threads,
        reference=job.reference,
    )
    with open_predictor(choice) as predictor:
        found = _found(job, predictor, stop)
        if found is None:
            return None
        return LoadOutcome(
            subject=describe(predictor, job.bundle),
            backend=predictor.backend.name,
            precision=predictor.info().precision,
            threads=predictor.backend.threads,
            streams=found[0],
            levels=found[1],
        )


def _found(job: LoadJob, predictor: EdgePredictor, stop: Event) -> tuple[int, tuple[Level, ...]] | None:
    windows = raw_windows(predictor)
    warm_up(predictor.predict, windows, limit_s=job.warm_up_limit_s, stop=stop)
    demand = Demand(rate_hz=job.rate_hz, deadline_ms=job.deadline_ms, servers=job.servers)
    if stop.is_set():
        return None
    if job.streams is None:
        return find_capacity(predictor.predict, windows, demand=demand, stop=stop)
    level = carry_load(
        predictor.predict, windows, streams=job.streams, demand=demand, duration_s=job.duration_s, stop=stop
    )
    return None if stop.is_set() else (job.streams, (level,))
