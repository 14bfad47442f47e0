"""Ratios and differences that hold on a noisy machine: things called in turn, in several processes.

Owns what `mmkd-bench pair` and `mmkd-bench overhead` do, and how launches of calls in turn become spreads, which
`teacher` and `rivals` use as well. How calls alternate is in `turns.rounds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter, truediv
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.jobs import InTurnOutcome, OverheadJob, PairJob, RivalsJob, TeacherJob
from mmkd_bench.measuring.process import START_LIMIT_S, Launched, Progress, run_launches, unheard
from mmkd_bench.turns.pairs import FIRST, SECOND
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench_others import OverheadReport, PairReport, RepeatSpread

MAX_LAUNCHES = 100
REPEATS = 5
"""Stretches of time per process that get a ratio of their own."""

OutcomeT = TypeVar("OutcomeT", bound=msgspec.Struct)


def measure_pair(
    first: Path,
    second: Path,
    *,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 6.0,
    progress: Progress = unheard,
) -> PairReport:
    """How many times as fast one model is as another, through ONNX Runtime with the same threads.

    Args:
        first: an ONNX model of static shape, or a bundle; of a bundle the fp32 artifact of the first student.
        second: the other.
        threads: of each session.
        launches: processes, one after another.
        duration_s: measured time over all launches.
        progress: gets one line when a launch begins.

    Raises:
        UsageError: an argument makes no sense, or a path is neither.
        UnavailableError: onnxruntime is not installed.
        BackendError: ONNX Runtime refuses a model.
        ArtifactError: a bundle is damaged.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where something was measured.
    """
    check_pairing(threads=threads, launches=launches, duration_s=duration_s)
    machine = read_machine()
    job = PairJob(
        first=str(first), second=str(second), threads=threads, repeats=REPEATS, duration_s=duration_s / launches
    )
    launched = launch_in_turn(job, InTurnOutcome, launches=launches, progress=progress)
    found = launched.outcomes
    spreads: dict[str, Any] = {
        f"{name}_{figure}": spread_of(over_repeats(found, name, figure))
        for name in (FIRST, SECOND)
        for figure in ("p50_us", "p90_us", "p99_us")
    }
    report = PairReport(
        complete=not launched.interrupted,
        first=job.first,
        second=job.second,
        threads=threads,
        count=sum(one.count for one in found),
        **spreads,
        ratio=ratio_of(found, FIRST, SECOND),
        machine=machine,
    )
    return launched.finish(report)


def measure_overhead(
    bundle: Path,
    *,
    backend: str | None = None,
    checks: bool = False,
    launches: int = 3,
    duration_s: float = 6.0,
    reference: Path | None = None,
    progress: Progress = unheard,
) -> OverheadReport:
    """What `predict` adds to the bare engine, with one thread.

    Args:
        bundle: what to open.
        backend: whose `run` is the bare call; None is onnxruntime, and its session's own `run`.
        checks: whether every sensor check is on.
        launches: processes, one after another.
        duration_s: measured time over all launches.
        reference: the reference file of a modality that is normalised per group.
        progress: gets one line when a launch begins.

    Raises:
        MmkdError: an argument makes no sense, or the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where something was measured.
    """
    check_pairing(threads=1, launches=launches, duration_s=duration_s)
    machine = read_machine()
    job = OverheadJob(
        bundle=str(bundle),
        backend=backend,
        checks=checks,
        threads=1,
        repeats=REPEATS,
        duration_s=duration_s / launches,
        reference=None if reference is None else str(reference),
    )
    launched = launch_in_turn(job, InTurnOutcome, launches=launches, progress=progress)
    found = launched.outcomes
    report = OverheadReport(
        complete=not launched.interrupted,
        bundle=job.bundle,
        count=sum(one.count for one in found),
        predict_p50_us=spread_of(over_repeats(found, FIRST)),
        bare="session.run" if backend is None else f"{backend} backend.run",
        checks=checks,
        bare_p50_us=spread_of(over_repeats(found, SECOND)),
        overhead_us=spread_of([value for one in found for value in one.difference_us]),
        machine=machine,
    )
    return launched.finish(report)


def check_pairing(*, threads: int, launches: int, duration_s: float) -> None:
    """Refuse settings that make no sense.

    Raises:
        UsageError: names the setting, what it may be and what it was.
    """
    if threads < 1:
        raise UsageError(f"threads: expected a whole number from 1, got {threads}")
    if not 1 <= launches <= MAX_LAUNCHES:
        raise UsageError(f"launches: expected a whole number from 1 to {MAX_LAUNCHES}, got {launches}")
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise UsageError(f"duration-s: expected a number above 0, got {duration_s:g}")


def launch_in_turn(
    job: PairJob | OverheadJob | RivalsJob | TeacherJob,
    outcome_type: type[OutcomeT],
    *,
    launches: int,
    progress: Progress,
    called: str = "calls",
    start_limit_s: float = START_LIMIT_S,
) -> Launched[OutcomeT]:
    """Carry out a job of calls in turn in one process after another; `called` names them in the progress."""
    return run_launches(
        job,
        outcome_type,
        launches=launches,
        limit_s=start_limit_s + 10 * job.duration_s,
        doing=f"{called} in turn for {job.duration_s:.3g} s",
        progress=progress,
    )


def over_repeats(outcomes: Sequence[InTurnOutcome], name: str, figure: str = "p50_us") -> list[float]:
    """One figure of what was called by that name, of all repeats of all processes."""
    return [value for one in outcomes for value in attrgetter(figure)(one.of(name))]


def ratio_of(outcomes: Sequence[InTurnOutcome], first: str, second: str) -> RepeatSpread:
    """The median of one over that of the other, repeat by repeat."""
    return spread_of(list(map(truediv, over_repeats(outcomes, first), over_repeats(outcomes, second))))


def spread_of(values: Sequence[float]) -> RepeatSpread:
    """The spread of at least one value."""
    return RepeatSpread(
        median=float(np.median(values)),
        min=min(values),
        max=max(values),
        std=float(np.std(values)),
        repeats=len(values),
    )
