"""Which way to run a bundle is best on this machine: what `mmkd-bench tune` does.

Owns which ways are tried. How they are measured is in `trials`; what is kept, and what `EdgePredictor.open` takes from
it, is in `mmkd_edge.predict.profile`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from mmkd_bench.measuring.jobs import BenchmarkedWay, TuneJob, TuneOutcome
from mmkd_bench.measuring.process import START_LIMIT_S, Interrupted, Progress, run_job, unheard
from mmkd_edge.backends.base import (
    BACKENDS,
    DEFAULT_OPTIONS,
    BackendName,
    SessionOptions,
    choose_artifact,
    why_absent,
)
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.machine import this_machine, usable_cores
from mmkd_edge.predict.config import Config
from mmkd_edge.predict.profile import MAX_THREADS, ExecutionProfile, RejectedConfig, library_versions

MOST_THREADS = 8
OPEN_LIMIT_S = 10.0
"""How long one way may take to open and to pass its gates."""


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How to look.

    Attributes:
        duration_s: measured time, over all ways.
        threads: numbers of threads to try; None is 1, 2, 4, 8 up to the usable cores.
        max_drop_points: percentage points of the task's metric that a lower precision may lose.
        owns_cores: also try threads that spin or stay on one core, which only pays where nothing else runs.
    """

    duration_s: float = 40.0
    threads: tuple[int, ...] | None = None
    max_drop_points: float = 0.5
    owns_cores: bool = False


def tune_bundle(path: Path, settings: TuneSettings, *, progress: Progress = unheard) -> ExecutionProfile:
    """Measure every way to run the students of a bundle here. Writes nothing.

    Raises:
        UsageError: a setting makes no sense.
        BackendError: a student cannot be run in any way; the message has the reasons.
        MmkdError: the bundle cannot be opened.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with what there is, which is no profile to use.
    """
    _check(settings)
    with Bundle.open(path) as bundle:
        sha256, entries = bundle.sha256, bundle.manifest.models
    ways: list[BenchmarkedWay] = []
    left_out: list[RejectedConfig] = []
    for entry in entries:
        left_out += [
            RejectedConfig(model=entry.name, backend=backend, precision="fp32", reason=reason)
            for backend in BACKENDS
            if (reason := why_absent(backend))
        ]
        ways += ways_to_try(entry, settings)
    progress(f"{len(ways)} ways to run it, in turn for {settings.duration_s:.3g} s")
    job = TuneJob(
        bundle=str(path),
        ways=tuple(ways),
        duration_s=settings.duration_s,
        max_drop_points=settings.max_drop_points,
    )
    limit_s = START_LIMIT_S + OPEN_LIMIT_S * len(ways) + 10 * settings.duration_s
    ended = run_job(job, TuneOutcome, limit_s=limit_s)
    if ended.outcome is None or (ended.interrupted and not ended.outcome.trials):
        raise KeyboardInterrupt
    outcome = ended.outcome
    left_out += outcome.left_out
    if not ended.interrupted:
        _require_trials(path, entries, outcome, left_out)
    used = sorted({trial.backend for trial in outcome.trials})
    profile = ExecutionProfile(
        bundle_sha256=sha256,
        machine=this_machine(),
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        libraries=library_versions(used),
        trials=outcome.trials,
        left_out=tuple(left_out),
    )
    if ended.interrupted:
        raise Interrupted(profile)
    return profile


def ways_to_try(entry: ModelEntry, settings: TuneSettings) -> list[BenchmarkedWay]:
    """Every way to run a student with what is installed; the first is what the others are compared with."""
    threads = settings.threads or _thread_counts()
    return [
        BenchmarkedWay(model=entry.name, setup=setup)
        for backend in BACKENDS
        if not why_absent(backend)
        for setup in _setups(entry, backend, threads, owns_cores=settings.owns_cores)
    ]


def _setups(entry: ModelEntry, backend: BackendName, threads: Sequence[int], *, owns_cores: bool) -> Iterator[Config]:
    row = BACKENDS[backend]
    for precision in row.precisions:
        if precision in row.without_gain:
            continue
        try:
            choose_artifact(entry, precision, backend)
        except UsageError:
            continue
        for count in (1,) if row.on_gpu else threads:  # the GPU's threads are its own
            for options in _options(backend, count, owns_cores=owns_cores):
                yield Config(backend=backend, precision=precision, threads=count, options=options, reason="tried")


def _options(backend: BackendName, threads: int, *, owns_cores: bool) -> Iterator[SessionOptions]:
    yield DEFAULT_OPTIONS
    row = BACKENDS[backend]
    if row.has_graph_option and threads == 1:
        yield SessionOptions(graph="basic")
    if owns_cores and row.owns_cores_from is not None and threads >= row.owns_cores_from:
        yield SessionOptions(owns_cores=True)


def _thread_counts() -> tuple[int, ...]:
    most = min(usable_cores(), MOST_THREADS)
    return tuple(count for count in (1, 2, 4, 8) if count <= most)


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
            reasons = "; ".join(
                f"{one.backend} {one.precision}: {one.reason}" for one in left_out if one.model == entry.name
            )
            raise BackendError(f"{path}: model {entry.name!r} cannot be run in any way here: {reasons}")
