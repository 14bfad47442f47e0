"""Teacher against student from samples to answer, with what the sensors cost that the student no longer needs.

Owns what `mmkd-bench teacher` does. What is called and timed is in `end_to_end`. What a sensor itself draws is no
measurement of this machine: it is taken from the caller, who has its data sheet, and marked so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mmkd_bench.machine.facts import MachineFacts, read_machine
from mmkd_bench.measuring.jobs import TeacherJob, TeacherOutcome
from mmkd_bench.measuring.process import Progress, run_launches, unheard
from mmkd_bench.paired import REPEATS, Spread, check_pairing, spread_of
from mmkd_bench.report import Subject
from mmkd_bench.run import START_LIMIT_S
from mmkd_bench.turns.end_to_end import STUDENT, STUDENT_ENGINE, TEACHER, TEACHER_ENGINE, front_end, gathering
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError

FORMAT_VERSION = 1
BYTES_PER_VALUE = 4


class SensorCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sensor of the teacher costs on this device.

    Attributes:
        modality: its name.
        needed: the student needs it as well.
        rate_hz: samples per second and channel.
        channels: how many.
        bytes_per_s: what it delivers, as float32.
        window_bytes: what one window of it takes.
        gather_us: samples of one hop into windows.
        front_end_us: check and preparation of one window; spectra and the like are part of the graph.
        power_mw: what the sensor draws, as the caller said; None where nobody said it.
    """

    modality: str
    needed: bool
    rate_hz: float
    channels: int
    bytes_per_s: float
    window_bytes: int
    gather_us: Spread
    front_end_us: Spread
    power_mw: float | None


class TeacherReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both beside each other.

    Attributes:
        format_version: of this document.
        complete: False where Ctrl-C ended the measurement.
        teacher: path of its checkpoint or graph.
        subject: the student's bundle.
        threads: of each graph.
        hop_s: time from one prediction to the next.
        teacher_us: from the samples of one hop of every sensor to the answer.
        student_us: the same with the student's sensor alone.
        ratio: teacher over student, repeat by repeat.
        teacher_engine_us: the teacher's graph alone.
        student_engine_us: the student's graph alone.
        sensors: of the teacher.
        machine: what it ran on.
    """

    format_version: int = FORMAT_VERSION
    complete: bool = True
    teacher: str
    subject: Subject
    threads: int
    hop_s: float
    teacher_us: Spread
    student_us: Spread
    ratio: Spread
    teacher_engine_us: Spread
    student_engine_us: Spread
    sensors: tuple[SensorCost, ...]
    machine: MachineFacts

    @property
    def spared(self) -> tuple[SensorCost, ...]:
        """Sensors that the student no longer needs."""
        return tuple(sensor for sensor in self.sensors if not sensor.needed)


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
    launched = run_launches(
        job,
        TeacherOutcome,
        launches=launches,
        limit_s=START_LIMIT_S + 10 * job.duration_s,
        doing=f"teacher and student in turn for {job.duration_s:.3g} s",
        progress=progress,
    )
    outcomes = launched.outcomes
    times = {
        name: [value for outcome in outcomes for timed in outcome.times if timed.name == name for value in timed.p50_us]
        for name in (timed.name for timed in outcomes[0].times)
    }
    ratios = [one / other for one, other in zip(times[TEACHER], times[STUDENT], strict=True)]
    report = TeacherReport(
        complete=not launched.interrupted,
        teacher=teacher,
        subject=outcomes[0].subject,
        threads=threads,
        hop_s=hop_s,
        teacher_us=spread_of(times[TEACHER]),
        student_us=spread_of(times[STUDENT]),
        ratio=spread_of(ratios),
        teacher_engine_us=spread_of(times[TEACHER_ENGINE]),
        student_engine_us=spread_of(times[STUDENT_ENGINE]),
        sensors=_sensors(outcomes[0], times, power_mw or {}),
        machine=machine,
    )
    return launched.finish(report)


def _sensors(
    outcome: TeacherOutcome, times: Mapping[str, list[float]], power_mw: Mapping[str, float]
) -> tuple[SensorCost, ...]:
    return tuple(
        SensorCost(
            modality=modality.name,
            needed=modality.name in outcome.kept,
            rate_hz=modality.rate_hz,
            channels=len(modality.channels),
            bytes_per_s=modality.rate_hz * len(modality.channels) * BYTES_PER_VALUE,
            window_bytes=modality.samples * len(modality.channels) * BYTES_PER_VALUE,
            gather_us=spread_of(times[gathering(modality.name)]),
            front_end_us=spread_of(times[front_end(modality.name)]),
            power_mw=power_mw.get(modality.name),
        )
        for modality in outcome.sensors
    )
