"""The configs that are tried for a bundle on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from mmkd_bench.measuring.jobs import Candidate, TuneJob, TuneOutcome
from mmkd_bench.measuring.process import START_LIMIT_S, Progress, ignore_progress, run_launches
from mmkd_edge.backends.base import BACKENDS, DEFAULT_OPTIONS, BackendName, SessionOptions, choose_artifact, why_absent
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.machine import this_machine, usable_cores
from mmkd_edge.opening.profile import MAX_THREADS, ExecutionProfile, RejectedConfig, library_versions
from mmkd_edge.predict.student import Config

THREAD_COUNTS = (1, 2, 4, 8)
OPEN_LIMIT_S = 10.0
"""Time for one config to open and to pass its gates."""


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The options of `mmkd-bench tune`; without `threads` 1, 2, 4, 8 up to the usable cores are tried."""

    duration_s: float = 40.0
    threads: tuple[int, ...] | None = None
    max_drop_points: float = 0.5
    owns_cores: bool = False


def tune_bundle(path: Path, settings: TuneSettings, *, progress: Progress = ignore_progress) -> ExecutionProfile:
    """Measure every config for the students of a bundle on this machine. Writes nothing.

    Raises:
        MmkdError: a setting makes no sense, the bundle cannot be opened, or no config runs a student.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with an incomplete profile.
    """
    _check(settings)
    with Bundle.open(path) as bundle:
        sha256, entries = bundle.sha256, bundle.manifest.models
    candidates = [one for entry in entries for one in candidates_for(entry, settings)]
    left_out = [
        RejectedConfig(model=entry.name, backend=backend, precision="fp32", reason=reason)
        for entry in entries
        for backend in BACKENDS
        if (reason := why_absent(backend))
    ]
    progress(f"{len(candidates)} configs, in turn for {settings.duration_s:.3g} s")
    job = TuneJob(
        bundle=str(path),
        candidates=tuple(candidates),
        duration_s=settings.duration_s,
        max_drop_points=settings.max_drop_points,
    )
    limit_s = START_LIMIT_S + OPEN_LIMIT_S * len(candidates) + 10 * settings.duration_s
    launched = run_launches(job, TuneOutcome, limit_s=limit_s)
    (outcome,) = launched.outcomes
    if launched.interrupted and not outcome.trials:
        raise KeyboardInterrupt
    left_out += outcome.left_out
    if not launched.interrupted:
        _require_trials(path, entries, outcome, left_out)
    profile = ExecutionProfile(
        bundle_sha256=sha256,
        machine=this_machine(),
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        libraries=library_versions(sorted({trial.backend for trial in outcome.trials})),
        trials=outcome.trials,
        left_out=tuple(left_out),
    )
    return launched.finish(profile)


def candidates_for(entry: ModelEntry, settings: TuneSettings) -> list[Candidate]:
    """Return every config for a student with the installed backends; the first is the reference."""
    threads = settings.threads or tuple(count for count in THREAD_COUNTS if count <= usable_cores())
    return [
        Candidate(model=entry.name, config=config)
        for backend in BACKENDS
        if not why_absent(backend)
        for config in _configs(entry, backend, threads, owns_cores=settings.owns_cores)
    ]


def _configs(entry: ModelEntry, backend: BackendName, threads: Sequence[int], *, owns_cores: bool) -> Iterator[Config]:
    row = BACKENDS[backend]
    for precision in row.precisions:
        if precision in row.without_gain:
            continue
        try:
            choose_artifact(entry, precision, backend)
        except UsageError:
            continue
        for count in (1,) if row.on_gpu else threads:  # the GPU's threads are its own
            options = [DEFAULT_OPTIONS]
            if row.has_graph_option and count == 1:
                options.append(SessionOptions(graph="basic"))
            if owns_cores and row.owns_cores_from is not None and count >= row.owns_cores_from:
                options.append(SessionOptions(owns_cores=True))
            for option in options:
                yield Config(backend=backend, precision=precision, threads=count, options=option, reason="tried")


def _check(settings: TuneSettings) -> None:
    if not 0 < settings.duration_s <= 3600:
        raise UsageError(f"duration-s: expected seconds above 0 and up to 3600, got {settings.duration_s:g}")
    if not 0 <= settings.max_drop_points <= 100:
        raise UsageError(f"max-drop-points: expected 0 to 100, got {settings.max_drop_points:g}")
    if settings.threads is not None and not all(1 <= count <= MAX_THREADS for count in settings.threads):
        listed = ", ".join(map(str, settings.threads))
        raise UsageError(f"threads: expected whole numbers from 1 to {MAX_THREADS}, got {listed}")


def _require_trials(
    path: Path, entries: Sequence[ModelEntry], outcome: TuneOutcome, left_out: Sequence[RejectedConfig]
) -> None:
    for entry in entries:
        if not any(trial.model == entry.name for trial in outcome.trials):
            refused = [rejected for rejected in left_out if rejected.model == entry.name]
            reasons = "; ".join(f"{one.backend} {one.precision}: {one.reason}" for one in refused)
            raise BackendError(f"{path}: no config runs model {entry.name!r} here: {reasons}")
