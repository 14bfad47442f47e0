"""Configs to try for a bundle on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from mmkd_bench.measuring.jobs import TuneJob, TuneOutcome
from mmkd_bench.measuring.process import START_LIMIT_S, Progress, ignore_progress, run_launches
from mmkd_edge.backends.base import BACKENDS, has_artifact, why_absent
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.machine import this_machine, usable_cores
from mmkd_edge.opening.profile import MAX_THREADS, ExecutionProfile, RejectedConfig, library_versions
from mmkd_edge.predict.student import Config

_THREAD_COUNTS = (1, 2, 4, 8)
_OPEN_LIMIT_S = 10.0  # time for one config to open and to pass its gates


def tune_bundle(
    path: Path,
    *,
    duration_s: float = 40.0,
    threads: Sequence[int] | None = None,
    max_drop_points: float = 0.5,
    progress: Progress = ignore_progress,
) -> ExecutionProfile:
    """Measure every config for a bundle's students, and write nothing. Raises MmkdError."""
    if not 0 < duration_s <= 3600:
        raise UsageError(f"--duration-s: expected seconds above 0 and up to 3600, got {duration_s:g}")
    if not 0 <= max_drop_points <= 100:
        raise UsageError(f"--max-drop-points: expected 0 to 100, got {max_drop_points:g}")
    if threads is not None and not all(1 <= count <= MAX_THREADS for count in threads):
        listed = ", ".join(map(str, threads))
        raise UsageError(f"--threads: expected whole numbers from 1 to {MAX_THREADS}, got {listed}")
    with Bundle.open(path) as bundle:
        sha256, entries = bundle.sha256, bundle.manifest.models
    configs = {entry.name: tuple(configs_for(entry, threads)) for entry in entries}
    count = sum(map(len, configs.values()))
    progress(f"{count} configs, in turn for {duration_s:.3g} s")
    job = TuneJob(bundle=str(path), configs=configs, duration_s=duration_s, max_drop_points=max_drop_points)
    limit_s = START_LIMIT_S + _OPEN_LIMIT_S * count + 10 * duration_s
    (outcome,) = run_launches(job, TuneOutcome, limit_s=limit_s).outcomes
    absent = [
        RejectedConfig(model=entry.name, backend=backend, precision="fp32", reason=reason)
        for entry in entries
        for backend in BACKENDS
        if (reason := why_absent(backend))
    ]
    left_out = (*absent, *outcome.left_out)
    for entry in entries:
        if not any(trial.model == entry.name for trial in outcome.trials) and not entry.twin_of:
            refused = [row for row in left_out if row.model == entry.name]
            reasons = "; ".join(f"{row.backend} {row.precision}: {row.reason}" for row in refused)
            raise BackendError(f"{path}: no config runs model {entry.name!r} here: {reasons}")
    return ExecutionProfile(
        bundle_sha256=sha256,
        machine=this_machine(),
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        libraries=library_versions(sorted({trial.backend for trial in outcome.trials})),
        trials=outcome.trials,
        left_out=left_out,
    )


def configs_for(entry: ModelEntry, threads: Sequence[int] | None) -> Iterator[Config]:
    """Yield a student's configs, the reference first; without `threads` 1, 2, 4 and 8, up to the usable cores."""
    threads = threads or [count for count in _THREAD_COUNTS if count <= usable_cores()]
    for backend, row in BACKENDS.items():
        for precision in () if why_absent(backend) else row.precisions:
            if precision in row.without_gain or not has_artifact(entry, precision, backend):
                continue
            for count in (1,) if row.on_gpu else threads:  # the GPU's threads are its own
                yield Config(backend=backend, precision=precision, threads=count, reason="tried")
