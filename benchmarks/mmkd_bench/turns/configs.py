"""Inside the process of `mmkd-bench tune`: every config of a student, checked first, then called in turn.

A config is judged by its median over that of the first one. Each turn is a short burst whose first call does not
count: it finds the caches as the other engines left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.measuring.jobs import Candidate, TuneJob, TuneOutcome
from mmkd_bench.turns.rounds import take_turns, turning
from mmkd_edge.bundle.bundle import Bundle, Golden
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import GateError, MmkdError
from mmkd_edge.install.keys import check_signed
from mmkd_edge.opening.load import open_student
from mmkd_edge.opening.profile import MeasuredConfig, RejectedConfig
from mmkd_edge.opening.selftest import run_selftest
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.predict.student import OpenStudent, answer_windows

WARM_UP_S = 0.5
BURST = 8
"""Counted calls in a row."""

MIN_ROUNDS = 2
TIMED_WINDOWS = 64


@dataclass(frozen=True, kw_only=True)
class _TimedConfig:
    candidate: Candidate
    student: OpenStudent
    times: NDArray[np.int64]
    ratio: float = 1.0

    def trial(self) -> MeasuredConfig:
        config = self.candidate.config
        p50_us, p99_us = (float(value) / 1e3 for value in np.quantile(self.times, (0.5, 0.99)))
        return MeasuredConfig(
            model=self.candidate.model,
            backend=config.backend,
            precision=config.precision,
            threads=config.threads,
            options=config.options,
            p50_us=p50_us,
            p99_us=p99_us,
            ratio=self.ratio,
            calls=len(self.times),
        )


def time_configs(job: TuneJob, *, stop: Event) -> TuneOutcome | None:
    """Carry out one job in this process until `stop`; None if nothing was measured."""
    trials: list[MeasuredConfig] = []
    left_out: list[RejectedConfig] = []
    with Bundle.open(job.bundle) as bundle:
        check_signed(bundle)
        entries = bundle.manifest.models
        for entry in entries:
            candidates = [candidate for candidate in job.candidates if candidate.model == entry.name]
            timed, refused = _open_all(bundle, entry, candidates, max_drop_points=job.max_drop_points)
            left_out += refused
            try:
                if stop.is_set():
                    break
                windows = bundle.golden(entry.name).windows[:TIMED_WINDOWS]
                measured = _measure(timed, windows, duration_s=job.duration_s / len(entries), stop=stop)
            finally:
                for config in timed:
                    config.student.backend.close()
            trials += [config.trial() for config in measured]
    return TuneOutcome(trials=tuple(trials), left_out=tuple(left_out)) if trials or not stop.is_set() else None


def _open_all(
    bundle: Bundle, entry: ModelEntry, candidates: Sequence[Candidate], *, max_drop_points: float
) -> tuple[list[_TimedConfig], list[RejectedConfig]]:
    golden = bundle.golden(entry.name)
    passed: list[_TimedConfig] = []
    refused: dict[tuple[str, str], RejectedConfig] = {}
    for candidate in candidates:
        config = candidate.config
        if (config.backend, config.precision) in refused:
            continue
        try:
            student = open_student(bundle, entry, config)
            try:
                run_selftest(student, bundle)
                if config.precision != "fp32":
                    require_score(student, golden, max_drop_points=max_drop_points)
            except BaseException:
                student.backend.close()
                raise
        except MmkdError as error:
            # What one number of threads cannot do, others cannot either.
            refused[config.backend, config.precision] = RejectedConfig(
                model=entry.name, backend=config.backend, precision=config.precision, reason=str(error)
            )
            continue
        passed.append(_TimedConfig(candidate=candidate, student=student, times=np.empty(0, dtype=np.int64)))
    return passed, list(refused.values())


def require_score(student: OpenStudent, golden: Golden, *, max_drop_points: float) -> None:
    """Raise GateError if a student loses more than `max_drop_points` of its metric on the judging golden windows.

    One window may always be lost.
    """
    if student.task.kind != "classification":
        return  # the export's gate knows the metrics of other tasks; here the self-test judges
    known = np.flatnonzero(golden.judge & (golden.labels >= 0))
    if len(known) == 0:
        return  # the self-test judged it; the export's own gate had no more than that either
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
    """Return the % of labels (N,) that the answers (N,) hit; balanced: the mean over classes."""
    hits = answers == labels
    if not balanced:
        return 100 * float(hits.mean())
    return 100 * float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))


def _measure(
    timed: Sequence[_TimedConfig], windows: NDArray[np.float32], *, duration_s: float, stop: Event
) -> list[_TimedConfig]:
    if not timed:
        return []
    student = timed[0].student
    feeds = [student.feeds(*prepare(window, student.modality)) for window in windows]
    calls = [turning(config.student.backend.run, feeds) for config in timed]
    for seconds in (min(WARM_UP_S, duration_s / 10), duration_s):
        times = take_turns(calls, duration_s=seconds, stop=stop, twice=True, burst=BURST, min_rounds=MIN_ROUNDS)
    first = float(np.median(times[0]))
    return [
        replace(config, times=lengths, ratio=float(np.median(lengths)) / first)
        for config, lengths in zip(timed, times, strict=True)
    ]
