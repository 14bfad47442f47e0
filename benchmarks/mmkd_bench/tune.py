"""Configs of a bundle on this machine: each is checked, then called in short turns, each first call uncounted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_bench.in_turn import take_turns, turning
from mmkd_bench.measuring.process import START_LIMIT_S, Progress, ignore_progress, run_launches
from mmkd_edge.backends.base import BACKENDS, MAX_THREADS, has_artifact, why_absent
from mmkd_edge.bundle.bundle import Bundle, Golden
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, GateError, MmkdError, UsageError
from mmkd_edge.install.keys import check_signed
from mmkd_edge.machine import this_machine, usable_cores
from mmkd_edge.opening.choice import ExecutionProfile, MeasuredConfig, RejectedConfig, library_versions
from mmkd_edge.opening.selftest import run_selftest
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.predict.student import Config, OpenStudent, answer_windows, open_student


class TuneJob(msgspec.Struct, frozen=True, kw_only=True):
    """Configs by student, called in turn; the first is the reference."""

    bundle: str
    configs: dict[str, tuple[Config, ...]]
    duration_s: float
    max_drop_points: float


class TuneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Measured configs, and those refused by a gate or an engine."""

    trials: tuple[MeasuredConfig, ...]
    left_out: tuple[RejectedConfig, ...]


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
    (outcome,) = run_launches(time_configs, job, TuneOutcome, limit_s=limit_s).outcomes
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


WARM_UP_S = 0.5
BURST = 8  # counted calls in a row
MIN_ROUNDS = 2
_TIMED_WINDOWS = 64


def time_configs(job: TuneJob, _: object = None) -> TuneOutcome:
    """Do one job in this process."""
    trials: list[MeasuredConfig] = []
    left_out: list[RejectedConfig] = []
    with Bundle.open(job.bundle) as bundle:
        check_signed(bundle)
        for entry in bundle.manifest.models:
            with ExitStack() as stack:
                students, refused = _open_all(bundle, entry, job, stack)
                left_out += refused
                trials += _measure(bundle, students, duration_s=job.duration_s / len(job.configs))
    return TuneOutcome(trials=tuple(trials), left_out=tuple(left_out))


def _open_all(
    bundle: Bundle, entry: ModelEntry, job: TuneJob, stack: ExitStack
) -> tuple[dict[Config, OpenStudent], list[RejectedConfig]]:
    golden = bundle.golden(entry.name)
    students: dict[Config, OpenStudent] = {}
    refused: dict[tuple[str, str], RejectedConfig] = {}
    for config in job.configs[entry.name]:
        if (config.backend, config.precision) in refused:
            continue  # other numbers of threads cannot either
        try:
            student = open_student(bundle, entry, config)
            stack.callback(student.backend.close)
            run_selftest(student, bundle)
            if config.precision != "fp32":
                require_score(student, golden, max_drop_points=job.max_drop_points)
        except MmkdError as error:
            refused[config.backend, config.precision] = RejectedConfig(
                model=entry.name, backend=config.backend, precision=config.precision, reason=str(error)
            )
        else:
            students[config] = student
    return students, list(refused.values())


def _measure(bundle: Bundle, students: Mapping[Config, OpenStudent], *, duration_s: float) -> list[MeasuredConfig]:
    if not students:
        return []
    student = next(iter(students.values()))
    windows = bundle.golden(student.entry.name).windows[:_TIMED_WINDOWS]
    feeds = [student.feeds(*prepare(window, student.modality)) for window in windows]
    calls = [turning(student.backend.run, feeds) for student in students.values()]
    for seconds in (min(WARM_UP_S, duration_s / 10), duration_s):
        times = take_turns(calls, duration_s=seconds, twice=True, burst=BURST, min_rounds=MIN_ROUNDS)
    p50_us, p99_us = np.quantile(times, (0.5, 0.99), axis=1) / 1e3  # each (configs,)
    return [
        MeasuredConfig(
            model=student.entry.name,
            backend=config.backend,
            precision=config.precision,
            threads=config.threads,
            p50_us=float(p50),
            p99_us=float(p99),
            ratio=float(p50 / p50_us[0]),
            calls=len(times[0]),
        )
        for config, p50, p99 in zip(students, p50_us, p99_us, strict=True)
    ]


def require_score(student: OpenStudent, golden: Golden, *, max_drop_points: float) -> None:
    """Raise GateError if a student loses over `max_drop_points` on judging golden windows; one may always be lost."""
    if student.task.kind != "classification":
        return  # for other tasks the self-test judges
    known = np.flatnonzero(golden.judge & (golden.labels >= 0))
    if len(known) == 0:
        return  # the self-test judged it, as at export
    labels = golden.labels[known]
    logits, *_ = answer_windows(student, golden.windows[known])
    balanced = student.entry.validation_metric == "balanced_accuracy"
    before = score(golden.logits[known].argmax(axis=1), labels, balanced=balanced)
    after = score(logits.argmax(axis=1), labels, balanced=balanced)
    counts = np.unique(labels, return_counts=True)[1]
    one_window = 100 / (len(counts) * int(counts.min()) if balanced else len(labels))
    drop, allowed = before - after, max(max_drop_points, one_window)
    if drop > allowed + 1e-9:  # float64 sums of percentages
        raise GateError(
            f"loses {drop:.2f} points of {student.entry.validation_metric} on {len(known)} golden windows, "
            f"more than the {allowed:.2f} that it may"
        )


def score(answers: NDArray[np.int64], labels: NDArray[np.int64], *, balanced: bool) -> float:
    """Return the % of labels (N,) that answers (N,) hit; balanced: the mean over classes."""
    hits = answers == labels
    if not balanced:
        return 100 * float(hits.mean())
    return 100 * float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))
