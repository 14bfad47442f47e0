"""The student against its rivals: several processes, in each all engines called in turn. What `mmkd-bench rivals` does.

Which rivals there are, and how each is opened, is in `rivals`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_bench.machine.facts import MachineFacts, read_machine
from mmkd_bench.machine.peak import sgemm_peak_gflops
from mmkd_bench.measuring.jobs import RivalsJob, RivalsOutcome, RivalTimes
from mmkd_bench.measuring.process import Progress, run_launches, unheard
from mmkd_bench.paired import REPEATS, Spread, check_pairing, spread_of
from mmkd_bench.report import Subject
from mmkd_bench.turns.rival_files import KINDS, make_rival_files
from mmkd_edge.bundle.bundle import Bundle

FORMAT_VERSION = 1
START_LIMIT_S = 900.0
"""How long a launch may take beyond its measured time: torch.compile alone takes a minute on a small processor."""


class Rival(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine over all processes.

    Attributes:
        name: which.
        version: of its library; empty where it is not installed.
        reason: why it was not timed; empty where it was.
        load_ms: from the model's bytes to the first answer, compiling included, in the first process.
        max_abs_error: largest difference of an answer from plain ONNX Runtime's.
        p50_us: median latency; None where it was not timed.
        p99_us: 99th percentile; None where it was not timed.
        ratio: its latency over that of `predict`, repeat by repeat: below 1 it is faster.
    """

    name: str
    version: str
    reason: str
    load_ms: float | None
    max_abs_error: float | None
    p50_us: Spread | None
    p99_us: Spread | None
    ratio: Spread | None


class RivalsReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All engines beside each other.

    Attributes:
        format_version: of this document.
        complete: False where Ctrl-C ended the measurement.
        subject: the bundle.
        threads: of every engine.
        mflops: floating-point operations of one prediction, in millions; 0 where the bundle does not say.
        peak_gflops: what one core of this machine does in a product of matrices, in billions per second.
        tolerance: what `max_abs_error` had to stay within.
        rivals: the runtime itself first.
        machine: what it ran on.
    """

    format_version: int = FORMAT_VERSION
    complete: bool = True
    subject: Subject
    threads: int
    mflops: float
    peak_gflops: float
    tolerance: float
    rivals: tuple[Rival, ...]
    machine: MachineFacts


def measure_rivals(
    bundle: Path,
    *,
    checkpoint: Path | None = None,
    converted: Path | None = None,
    student: str | None = None,
    reference: Path | None = None,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 9.0,
    progress: Progress = unheard,
) -> RivalsReport:
    """Time the student's weights through every engine that is here, and name those that are not.

    Args:
        bundle: the student.
        checkpoint: the same student's checkpoint, for engines that need it.
        converted: folder that keeps what the checkpoint is converted to, for the next time.
        student: what the report calls the student; None is the bundle's path.
        reference: the reference file of a modality that is normalised per group.
        threads: of every engine.
        launches: processes, one after another.
        duration_s: measured time over all launches.
        progress: gets one line when a launch begins.

    Raises:
        MmkdError: an argument makes no sense, or the bundle cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where something was measured.
    """
    check_pairing(threads=threads, launches=launches, duration_s=duration_s)
    with Bundle.open(bundle) as opened:  # verified before the first process starts
        has_tflite = any(one.format == "tflite" for one in opened.manifest.models[0].artifacts)
    machine = read_machine()
    peak_gflops = sgemm_peak_gflops()
    with tempfile.TemporaryDirectory(prefix="mmkd-rivals-") as temporary:
        files = None
        if checkpoint is not None:
            digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
            files = (converted or Path(temporary)) / digest[:16]
            files.mkdir(parents=True, exist_ok=True)
            kinds = [kind for kind in KINDS if kind != "litert" or not has_tflite]
            make_rival_files(checkpoint, files, progress=progress, kinds=kinds)
        job = RivalsJob(
            bundle=str(bundle),
            checkpoint=None if checkpoint is None else str(checkpoint),
            files=None if files is None else str(files),
            reference=None if reference is None else str(reference),
            threads=threads,
            repeats=REPEATS,
            duration_s=duration_s / launches,
        )
        launched = run_launches(
            job,
            RivalsOutcome,
            launches=launches,
            limit_s=START_LIMIT_S + 10 * job.duration_s,
            doing=f"all engines in turn for {job.duration_s:.3g} s",
            progress=progress,
        )
    outcomes = launched.outcomes
    report = RivalsReport(
        complete=not launched.interrupted,
        subject=msgspec.structs.replace(outcomes[0].subject, bundle=student or str(bundle)),
        threads=threads,
        mflops=outcomes[0].mflops,
        peak_gflops=peak_gflops,
        tolerance=outcomes[0].tolerance,
        rivals=tuple(_rival(times, outcomes) for times in outcomes[0].rivals),
        machine=machine,
    )
    return launched.finish(report)


def _rival(first: RivalTimes, outcomes: Sequence[RivalsOutcome]) -> Rival:
    p50_us = [value for outcome in outcomes for value in _times(outcome, first.name).p50_us]
    p99_us = [value for outcome in outcomes for value in _times(outcome, first.name).p99_us]
    ours_us = [value for outcome in outcomes for value in outcome.rivals[0].p50_us]
    # An engine that one of the processes could not time has no figure: half a figure would be another.
    reasons = [reason for outcome in outcomes if (reason := _times(outcome, first.name).reason)]
    timed = not reasons
    return Rival(
        name=first.name,
        version=first.version,
        reason=reasons[0] if reasons else "",
        load_ms=first.load_ms,
        max_abs_error=first.max_abs_error,
        p50_us=spread_of(p50_us) if timed else None,
        p99_us=spread_of(p99_us) if timed else None,
        ratio=spread_of([one / ours for one, ours in zip(p50_us, ours_us, strict=True)]) if timed else None,
    )


def _times(outcome: RivalsOutcome, name: str) -> RivalTimes:
    return next(times for times in outcome.rivals if times.name == name)
