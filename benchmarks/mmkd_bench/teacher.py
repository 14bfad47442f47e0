"""Teacher against student from samples to answer, with what the sensors cost that the student no longer needs.

Owns what `mmkd-bench teacher` does; what is called and timed is in `turns.from_samples`. What a sensor itself draws is
no measurement of this machine: it is taken from the caller, who has its data sheet, and marked so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.jobs import InTurnOutcome, TeacherJob, TeacherOutcome
from mmkd_bench.measuring.process import Progress, unheard
from mmkd_bench.pair import REPEATS, check_pairing, launch_in_turn, over_repeats, ratio_of, spread_of
from mmkd_bench.turns.from_samples import STUDENT, STUDENT_ENGINE, TEACHER, TEACHER_ENGINE, front_end, gathering
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_report.schema.bench_others import SensorCost, TeacherReport

BYTES_PER_VALUE = 4


def measure_teacher(
    graph: Path,
    bundle: Path,
    *,
    teacher: str,
    hop_s: float = 1.0,
    power_mw: Mapping[str, float] | None = None,
    threads: int = 1,
    launches: int = 3,
    duration_s: float = 9.0,
    progress: Progress = unheard,
) -> TeacherReport:
    """Time teacher and student end to end, called in turn.

    Args:
        graph: the teacher as ONNX, with its modalities in its metadata.
        bundle: the student.
        teacher: what the report calls the teacher.
        hop_s: time from one prediction to the next.
        power_mw: what sensors draw, by modality, from their data sheets.
        threads: of each graph.
        launches: processes, one after another.
        duration_s: measured time over all launches.
        progress: gets one line when a launch begins.

    Raises:
        UsageError: an argument makes no sense, or the two do not belong together.
        MmkdError: a file cannot be opened or run.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where something was measured.
    """
    check_pairing(threads=threads, launches=launches, duration_s=duration_s)
    if not (math.isfinite(hop_s) and hop_s > 0):
        raise UsageError(f"hop-s: expected a number above 0, got {hop_s:g}")
    with Bundle.open(bundle):
        pass  # verified before the first process starts
    machine = read_machine()
    job = TeacherJob(
        teacher=str(graph),
        student=str(bundle),
        hop_s=hop_s,
        named=tuple(power_mw or ()),
        threads=threads,
        repeats=REPEATS,
        duration_s=duration_s / launches,
    )
    launched = launch_in_turn(job, TeacherOutcome, launches=launches, progress=progress, called="teacher and student")
    first, turns = launched.outcomes[0], [outcome.turns for outcome in launched.outcomes]
    report = TeacherReport(
        complete=not launched.interrupted,
        teacher=teacher,
        subject=first.subject,
        threads=threads,
        hop_s=hop_s,
        teacher_us=spread_of(over_repeats(turns, TEACHER)),
        student_us=spread_of(over_repeats(turns, STUDENT)),
        ratio=ratio_of(turns, TEACHER, STUDENT),
        teacher_engine_us=spread_of(over_repeats(turns, TEACHER_ENGINE)),
        student_engine_us=spread_of(over_repeats(turns, STUDENT_ENGINE)),
        sensors=tuple(
            _sensor_cost(modality, turns, needed=modality.name == first.subject.modality, power_mw=power_mw or {})
            for modality in first.sensors
        ),
        machine=machine,
    )
    return launched.finish(report)


def _sensor_cost(
    modality: ModalitySpec, turns: Sequence[InTurnOutcome], *, needed: bool, power_mw: Mapping[str, float]
) -> SensorCost:
    return SensorCost(
        modality=modality.name,
        needed=needed,
        rate_hz=modality.rate_hz,
        channels=len(modality.channels),
        bytes_per_s=modality.rate_hz * len(modality.channels) * BYTES_PER_VALUE,
        window_bytes=modality.samples * len(modality.channels) * BYTES_PER_VALUE,
        gather_us=spread_of(over_repeats(turns, gathering(modality.name))),
        front_end_us=spread_of(over_repeats(turns, front_end(modality.name))),
        power_mw=power_mw.get(modality.name),
    )
