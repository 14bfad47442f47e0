"""The student against its rivals: several processes, in each all engines called in turn. What `mmkd-bench rivals` does.

Which rivals there are, and how each is opened, is in `turns.rival_engines`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.machine.peak import sgemm_peak_gflops
from mmkd_bench.measuring.jobs import RivalsJob, RivalsOutcome
from mmkd_bench.measuring.process import Progress, unheard
from mmkd_bench.pair import REPEATS, check_pairing, launch_in_turn, over_repeats, ratio_of, spread_of
from mmkd_bench.turns.rival_tflite import make_tflite
from mmkd_edge.bundle.bundle import Bundle
from mmkd_report.schema.bench_others import RivalEngine, RivalsReport

START_LIMIT_S = 900.0
"""How long a launch may take beyond its measured time: torch.compile alone takes a minute on a small processor."""


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
            if not has_tflite:
                make_tflite(checkpoint, files, progress=progress)
        job = RivalsJob(
            bundle=str(bundle),
            checkpoint=None if checkpoint is None else str(checkpoint),
            files=None if files is None else str(files),
            reference=None if reference is None else str(reference),
            threads=threads,
            repeats=REPEATS,
            duration_s=duration_s / launches,
        )
        launched = launch_in_turn(
            job, RivalsOutcome, launches=launches, progress=progress, called="all engines", start_limit_s=START_LIMIT_S
        )
    outcomes = launched.outcomes
    report = RivalsReport(
        complete=not launched.interrupted,
        subject=msgspec.structs.replace(outcomes[0].subject, bundle=student or str(bundle)),
        threads=threads,
        mflops=outcomes[0].mflops,
        peak_gflops=peak_gflops,
        tolerance=outcomes[0].tolerance,
        rivals=tuple(_rival(number, outcomes) for number in range(len(outcomes[0].rivals))),
        machine=machine,
    )
    return launched.finish(report)


def _rival(number: int, outcomes: Sequence[RivalsOutcome]) -> RivalEngine:
    first, turns = outcomes[0].rivals[number], [outcome.turns for outcome in outcomes]
    # An engine that one of the processes could not time has no figure: half a figure would be another.
    reason = next((one.rivals[number].reason for one in outcomes if one.rivals[number].reason), "")
    if reason:
        return msgspec.structs.replace(first, reason=reason)
    return msgspec.structs.replace(
        first,
        p50_us=spread_of(over_repeats(turns, first.name)),
        p99_us=spread_of(over_repeats(turns, first.name, "p99_us")),
        ratio=ratio_of(turns, first.name, outcomes[0].rivals[0].name),
    )
