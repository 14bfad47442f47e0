"""Ratios and differences that hold on a noisy machine: calls take turns in several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter, truediv
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.jobs import InTurnOutcome, OverheadJob, PairJob, RivalsJob, RivalsOutcome
from mmkd_bench.measuring.process import START_LIMIT_S, Launched, Progress, ignore_progress, run_launches
from mmkd_bench.measuring.turns import FIRST, SECOND
from mmkd_documents.bench import OverheadReport, PairReport, RepeatSpread, RivalEngine, RivalsReport
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError

MAX_LAUNCHES = 100
REPEATS = 5  # parts of a process, each with a ratio

# Extra time of a rivals launch: torch.compile takes a minute on a small processor
_RIVALS_START_LIMIT_S = 900.0

OutcomeT = TypeVar("OutcomeT", bound=msgspec.Struct)


def measure_pair(
    first: Path,
    second: Path,
    *,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 6.0,
    progress: Progress = ignore_progress,
) -> PairReport:
    """Compare two models, ONNX of static shape or a bundle's fp32, through ONNX Runtime. Raises MmkdError."""
    _check(threads=threads, launches=launches, duration_s=duration_s)
    machine = read_machine()
    job = PairJob(
        first=str(first), second=str(second), threads=threads, repeats=REPEATS, duration_s=duration_s / launches
    )
    launched = _launch(job, InTurnOutcome, launches=launches, progress=progress)
    outcomes = launched.outcomes
    spreads: dict[str, Any] = {
        f"{name}_{figure}": summarise_repeats(_repeats(outcomes, name, figure))
        for name in (FIRST, SECOND)
        for figure in ("p50_us", "p90_us", "p99_us")
    }
    return PairReport(
        first=job.first,
        second=job.second,
        threads=threads,
        count=sum(outcome.count for outcome in outcomes),
        **spreads,
        ratio=_ratio(outcomes, FIRST, SECOND),
        machine=machine,
    )


def measure_overhead(
    bundle: Path,
    *,
    backend: str | None = None,
    launches: int = 3,
    duration_s: float = 6.0,
    reference: Path | None = None,
    progress: Progress = ignore_progress,
) -> OverheadReport:
    """Measure what `predict` adds to a backend's `run`, or to onnxruntime's; errors as `measure_pair`."""
    _check(threads=1, launches=launches, duration_s=duration_s)
    machine = read_machine()
    job = OverheadJob(
        bundle=str(bundle),
        backend=backend,
        threads=1,
        repeats=REPEATS,
        duration_s=duration_s / launches,
        reference=None if reference is None else str(reference),
    )
    launched = _launch(job, InTurnOutcome, launches=launches, progress=progress)
    outcomes = launched.outcomes
    return OverheadReport(
        bundle=job.bundle,
        count=sum(outcome.count for outcome in outcomes),
        predict_p50_us=summarise_repeats(_repeats(outcomes, FIRST)),
        bare="session.run" if backend is None else f"{backend} backend.run",
        bare_p50_us=summarise_repeats(_repeats(outcomes, SECOND)),
        overhead_us=summarise_repeats([value for outcome in outcomes for value in outcome.difference_us]),
        machine=machine,
    )


def measure_rivals(
    bundle: Path,
    *,
    checkpoint: Path | None = None,
    reference: Path | None = None,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 9.0,
    progress: Progress = ignore_progress,
    worker: str | None = None,
) -> RivalsReport:
    """Time the student's weights in every installed engine; errors as `measure_pair`.

    `worker` is the module of the measuring process; one that reads checkpoints adds torch to the rivals.
    """
    _check(threads=threads, launches=launches, duration_s=duration_s)
    if checkpoint is not None and not checkpoint.is_file():
        raise UsageError(f"--checkpoint {checkpoint}: expected a checkpoint, found no such file; check the path")
    with Bundle.open(bundle):
        pass  # verified before the first process starts
    machine = read_machine()
    job = RivalsJob(
        bundle=str(bundle),
        checkpoint=None if checkpoint is None else str(checkpoint),
        reference=None if reference is None else str(reference),
        threads=threads,
        repeats=REPEATS,
        duration_s=duration_s / launches,
    )
    launched = _launch(
        job, RivalsOutcome, launches=launches, progress=progress, start_limit_s=_RIVALS_START_LIMIT_S, worker=worker
    )
    first, turns = launched.outcomes[0], [outcome.turns for outcome in launched.outcomes]

    def joined(number: int, rival: RivalEngine) -> RivalEngine:
        reasons = [outcome.rivals[number].reason for outcome in launched.outcomes]
        if reason := next(filter(None, reasons), ""):
            return msgspec.structs.replace(rival, reason=reason)
        return msgspec.structs.replace(
            rival,
            p50_us=summarise_repeats(_repeats(turns, rival.name)),
            p99_us=summarise_repeats(_repeats(turns, rival.name, "p99_us")),
            ratio=_ratio(turns, rival.name, first.rivals[0].name),
        )

    return RivalsReport(
        subject=first.subject,
        threads=threads,
        tolerance=first.tolerance,
        rivals=tuple(joined(number, rival) for number, rival in enumerate(first.rivals)),
        machine=machine,
    )


def summarise_repeats(values: Sequence[float]) -> RepeatSpread:
    """Return the spread of at least one value."""
    return RepeatSpread(median=float(np.median(values)), min=min(values), max=max(values), repeats=len(values))


def _check(*, threads: int, launches: int, duration_s: float) -> None:
    if threads < 1:
        raise UsageError(f"--threads: expected a whole number from 1, got {threads}")
    if not 1 <= launches <= MAX_LAUNCHES:
        raise UsageError(f"--launches: expected a whole number from 1 to {MAX_LAUNCHES}, got {launches}")
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise UsageError(f"--duration-s: expected a number above 0, got {duration_s:g}")


def _launch(
    job: PairJob | OverheadJob | RivalsJob,
    outcome_type: type[OutcomeT],
    *,
    launches: int,
    progress: Progress,
    start_limit_s: float = START_LIMIT_S,
    worker: str | None = None,
) -> Launched[OutcomeT]:
    return run_launches(
        job,
        outcome_type,
        launches=launches,
        limit_s=start_limit_s + 10 * job.duration_s,
        doing=f"calls in turn for {job.duration_s:.3g} s",
        progress=progress,
        worker=worker,
    )


def _repeats(outcomes: Sequence[InTurnOutcome], name: str, figure: str = "p50_us") -> list[float]:
    return [value for outcome in outcomes for value in attrgetter(figure)(outcome.find(name))]


def _ratio(outcomes: Sequence[InTurnOutcome], first: str, second: str) -> RepeatSpread:
    return summarise_repeats(list(map(truediv, _repeats(outcomes, first), _repeats(outcomes, second))))
