"""The report of one run: what was measured, on what, how, and every figure of it. Version 1 of its JSON.

Data and its two directions to a file; how figures are made is in `timing`, `percentiles` and `launch`. Every number
carries its unit in its name; a figure that was not measured is null, never zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from mmkd_bench.machine.facts import MachineFacts
from mmkd_bench.machine.interference import Interference
from mmkd_bench.measuring.percentiles import LatencySummary
from mmkd_bench.measuring.timing import TimeWindow, WarmUp
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError

FORMAT_VERSION = 1
STAGES = ("check_window", "prepare", "run", "interpret")
"""The runtime's four steps, in order: what one `predict` consists of."""

GATHER = "gather"
"""Stage of a stream: samples into windows, resampled where they come with times."""

AT_ONCE = "run at once"
"""Stage of a batch: the engine on all its windows together, where the graph takes them so."""

Mode = Literal["closed", "paced"]


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bundle that was measured.

    Attributes:
        bundle: its path as given.
        sha256: of the whole file.
        size_bytes: of the whole file.
        model: the student's name.
        modality: what it takes.
        rate_hz: sampling rate of that modality.
        window_s: length of one window.
        artifact: the member that ran.
        artifact_size_bytes: its size.
        parameters: number of the student's parameters.
    """

    bundle: str
    sha256: str
    size_bytes: int
    model: str
    modality: str
    rate_hz: float
    window_s: float
    artifact: str
    artifact_size_bytes: int
    parameters: int


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it was measured.

    Attributes:
        backend: what executed the artifact.
        precision: of the artifact.
        threads: of the backend, for one call.
        clients: threads that call at the same time; of a stream each has a sensor of its own.
        mode: `closed` calls again at once, `paced` calls at fixed times.
        rate_hz: calls per second of each client, where paced.
        deadline_ms: longest acceptable time from a call's scheduled moment to its answer, where paced.
        launches: processes that were asked for, one after another.
        duration_s: measured time over all launches.
        warm_up_limit_s: longest warm-up of one launch.
        batch: windows of one call.
        hop: samples of one call, where a stream was measured; None where windows were.
        jitter: samples came with times that strayed by up to this share of the sampling period and were resampled; None
            where they came without times.
    """

    backend: str
    precision: str
    threads: int
    clients: int
    mode: Mode
    rate_hz: float | None
    deadline_ms: float | None
    launches: int
    duration_s: float
    warm_up_limit_s: float
    batch: int = 1
    hop: int | None = None
    jitter: float | None = None


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the runtime's steps, timed from outside."""

    name: str
    count: int
    mean_us: float
    p50_us: float
    p90_us: float


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well a schedule was kept.

    Attributes:
        lateness: from a call's scheduled time to its begin (wake-up jitter and backlog).
        response: from a call's scheduled time to its answer.
        interval_std_us: standard deviation of the time between the begins of neighbouring calls of one client.
        missed: calls whose answer came after the deadline.
        overloaded: the backlog grew until the loop was given up.
    """

    lateness: LatencySummary
    response: LatencySummary
    interval_std_us: float | None
    missed: int
    overloaded: bool


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process, from its start to its end.

    Attributes:
        complete: ran its whole time; False when it was interrupted.
        import_ms: importing the runtime, without a backend.
        load_ms: from the path to a predictor that can answer: verification, backend's library, session.
        first_call_ms: the first `predict` after that.
        warm_up: calls before the measured ones.
        latency: one call, end to end.
        windows: the same samples cut into parts of equal time.
        thirds_p50_us: medians of its first, middle and last third.
        stages: the four steps, measured after the end-to-end calls.
        pace: how well the schedule was kept, where paced.
        throughput_hz: predictions per second over the measured time.
        cpu_share: core time of this process as a share of one core, over the measured time.
        rss_mb: resident memory when warm.
        rss_peak_mb: largest resident memory, samples of the benchmark included.
        clock_cost_ns: median of an empty measurement, part of every latency.
        interference: what happened beside it.
        gpu_memory_mb: of this process on all GPUs; None where not measured.
        above_idle_mj: energy of one prediction above idle; None where not measured.
    """

    complete: bool
    import_ms: float
    load_ms: float
    first_call_ms: float
    warm_up: WarmUp
    latency: LatencySummary
    windows: tuple[TimeWindow, ...]
    thirds_p50_us: tuple[float, ...]
    stages: tuple[Stage, ...]
    pace: Pace | None
    throughput_hz: float
    cpu_share: float
    rss_mb: float
    rss_peak_mb: float
    clock_cost_ns: float
    interference: Interference
    gpu_memory_mb: float | None = None
    above_idle_mj: float | None = None


class Stability(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the figures held still.

    Attributes:
        stable: the thirds of every launch, and the launches among themselves, agree within 10 %.
        findings: what did not agree; empty when stable.
        disturbances: what the machine's counters accuse; may be there although the figures held still.
    """

    stable: bool
    findings: tuple[str, ...]
    disturbances: tuple[str, ...]


class Energy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power and energy of the measured time.

    Attributes:
        sensor: what was read.
        idle_mw: mean power before the run.
        load_mw: mean power while calls were measured.
        above_idle_mj: energy of one prediction above idle.
        readings: number of sensor readings under load.
    """

    sensor: str
    idle_mw: float
    load_mw: float
    above_idle_mj: float
    readings: int


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the samples are distributed. Every sample is in it.

    Attributes:
        edges_us: borders of the bins, rising by one factor, (N + 1,).
        counts: samples in each bin, (N,); the last bin holds its upper border too.
    """

    edges_us: tuple[float, ...]
    counts: tuple[int, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The figures of the run: samples of all launches together, else the median over launches.

    Attributes:
        latency: one call, all samples of all launches.
        stages: medians over launches.
        pace: all launches together, where paced.
        import_ms: median over launches, as are the rest.
        gpu_memory_mb: the largest over launches; None where not measured.
        gpu_note: why it was not measured; empty where it was.
        histogram: of all samples of all launches; None in a document of an earlier version.
    """

    latency: LatencySummary
    stages: tuple[Stage, ...]
    pace: Pace | None
    import_ms: float
    load_ms: float
    first_call_ms: float
    throughput_hz: float
    cpu_share: float
    rss_mb: float
    rss_peak_mb: float
    gpu_memory_mb: float | None = None
    gpu_note: str = ""
    histogram: Histogram | None = None


class BenchReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of `mmkd-bench run`.

    Attributes:
        format_version: of this document.
        created_utc: when the run began, ISO 8601.
        complete: every launch ran its whole time.
        subject: the bundle.
        configuration: how it was measured.
        machine: what it ran on.
        result: the figures of the run.
        stability: whether they held still.
        energy: power and energy; None where not measured.
        energy_note: why it was not measured; empty where it was.
        launches: each process by itself.
    """

    format_version: int = FORMAT_VERSION
    created_utc: str
    complete: bool
    subject: Subject
    configuration: Configuration
    machine: MachineFacts
    result: Result
    stability: Stability
    energy: Energy | None
    energy_note: str
    launches: tuple[Launch, ...]


class _Version(msgspec.Struct, frozen=True):
    format_version: int


def encode_report(report: BenchReport) -> bytes:
    """The report as indented JSON with a final line break."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(data: bytes, *, where: str) -> BenchReport:
    """The report in a document.

    Args:
        data: JSON.
        where: what the errors call the document.

    Raises:
        UsageError: not a report of this version; the message has the path of the fault.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: expected a benchmark report, cannot read it: {error}") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{where}: expected a report of format_version {FORMAT_VERSION}, got {version}; "
            "read it with the mmkd-bench that wrote it"
        )
    try:
        return msgspec.json.decode(data, type=BenchReport)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: not a valid benchmark report: {error}") from error


def read_report(path: Path) -> BenchReport:
    """The report in a file.

    Raises:
        UsageError: no such file, or it holds no report of this version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected a report of 'mmkd-bench run --json', cannot open it: {reason}") from error
    return decode_report(data, where=str(path))


def write_report(path: Path, report: BenchReport) -> None:
    """Write the report as JSON, all or nothing.

    Raises:
        UsageError: the file cannot be written.
    """
    write_file(path, encode_report(report))
