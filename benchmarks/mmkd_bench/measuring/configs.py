"""The process of `mmkd-bench tune`: every config is checked, then called in short turns, each first call uncounted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.measuring.jobs import TuneJob, TuneOutcome
from mmkd_bench.measuring.turns import take_turns, turning
from mmkd_edge.bundle.bundle import Bundle, Golden
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import GateError, MmkdError
from mmkd_edge.install.keys import check_signed
from mmkd_edge.opening.load import open_student
from mmkd_edge.opening.profile import MeasuredConfig, RejectedConfig
from mmkd_edge.opening.selftest import run_selftest
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.predict.student import Config, OpenStudent, answer_windows

WARM_UP_S = 0.5
BURST = 8  # counted calls in a row
MIN_ROUNDS = 2
_TIMED_WINDOWS = 64


def time_configs(job: TuneJob) -> TuneOutcome:
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
