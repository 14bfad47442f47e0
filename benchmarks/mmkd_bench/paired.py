"""Ratios and differences that hold on a noisy machine: two things called in turn, in several processes.

Owns what `mmkd-bench pair` and `mmkd-bench overhead` do. How calls alternate is in `alternate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mmkd_bench.machine.facts import MachineFacts, read_machine
from mmkd_bench.measuring.jobs import OverheadJob, PairJob, PairOutcome
from mmkd_bench.measuring.process import Launched, Progress, run_launches, unheard
from mmkd_bench.run import START_LIMIT_S
from mmkd_edge.errors import UsageError

FORMAT_VERSION = 1
MAX_LAUNCHES = 100
REPEATS = 5
"""Stretches of time per process that get a ratio of their own."""


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure over all repeats of all processes.

    Attributes:
        median: over the repeats.
        min: the smallest.
        max: the largest.
        std: standard deviation over the repeats.
        repeats: how many there are.
    """

    median: float
    min: float
    max: float
    std: float
    repeats: int


class PairReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two models through ONNX Runtime, called in turn.

    Attributes:
        format_version: of this document.
        complete: False where Ctrl-C ended the measurement.
        first: path of one model.
        second: path of the other.
        threads: of each session.
        count: calls of each.
        first_p50_us: median latency of the bare session.
        second_p50_us: of the other.
        first_p90_us: 90th percentile of the bare session.
        second_p90_us: of the other.
        first_p99_us: 99th percentile of the bare session.
        second_p99_us: of the other.
        ratio: first over second: how many times faster the second is.
        machine: what it ran on.
    """

    format_version: int = FORMAT_VERSION
    complete: bool = True
    first: str
    second: str
    threads: int
    count: int
    first_p50_us: Spread
    second_p50_us: Spread
    first_p90_us: Spread
    second_p90_us: Spread
    first_p99_us: Spread
    second_p99_us: Spread
    ratio: Spread
    machine: MachineFacts


class OverheadReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`EdgePredictor.predict` and the bare engine on the same feeds, called in turn.

    Attributes:
        format_version: of this document.
        complete: False where Ctrl-C ended the measurement.
        bundle: its path.
        count: calls of each.
        predict_p50_us: median latency of `predict`.
        bare: what the bare call is.
        checks: whether every sensor check was on.
        bare_p50_us: median latency of the bare call.
        overhead_us: median over pairs of neighbouring calls of the difference.
        machine: what it ran on.
    """

    format_version: int = FORMAT_VERSION
    complete: bool = True
    bundle: str
    count: int
    bare: str
    checks: bool
    predict_p50_us: Spread
    bare_p50_us: Spread
    overhead_us: Spread
    machine: MachineFacts


def measure_pair(
    first: Path,
    second: Path,
    *,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 6.0,
    progress: Progress = unheard,
) -> PairReport:
    """How many times faster one model is than another, through ONNX Runtime with the same threads.

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
    launched = _launched(job, launches=launches, progress=progress)
    found = launched.outcomes
    first_us, second_us = _flat([one.first_p50_us for one in found]), _flat([one.second_p50_us for one in found])
    report = PairReport(
        complete=not launched.interrupted,
        first=job.first,
        second=job.second,
        threads=threads,
        count=sum(one.count for one in found),
        first_p50_us=spread_of(first_us),
        second_p50_us=spread_of(second_us),
        first_p90_us=spread_of([tails[0] for one in found for tails in one.first_tails_us]),
        second_p90_us=spread_of([tails[0] for one in found for tails in one.second_tails_us]),
        first_p99_us=spread_of([tails[1] for one in found for tails in one.first_tails_us]),
        second_p99_us=spread_of([tails[1] for one in found for tails in one.second_tails_us]),
        ratio=spread_of([one / other for one, other in zip(first_us, second_us, strict=True)]),
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
    launched = _launched(job, launches=launches, progress=progress)
    found = launched.outcomes
    report = OverheadReport(
        complete=not launched.interrupted,
        bundle=job.bundle,
        count=sum(one.count for one in found),
        predict_p50_us=spread_of(_flat([one.first_p50_us for one in found])),
        bare="session.run" if backend is None else f"{backend} backend.run",
        checks=checks,
        bare_p50_us=spread_of(_flat([one.second_p50_us for one in found])),
        overhead_us=spread_of(_flat([one.difference_p50_us for one in found])),
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


def _launched(job: PairJob | OverheadJob, *, launches: int, progress: Progress) -> Launched[PairOutcome]:
    return run_launches(
        job,
        PairOutcome,
        launches=launches,
        limit_s=START_LIMIT_S + 10 * job.duration_s,
        doing=f"calls in turn for {job.duration_s:.3g} s",
        progress=progress,
    )


def _flat(groups: Sequence[tuple[float, ...]]) -> list[float]:
    return [value for group in groups for value in group]


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(
        median=float(np.median(values)),
        min=min(values),
        max=max(values),
        std=float(np.std(values)),
        repeats=len(values),
    )
