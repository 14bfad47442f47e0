"""The documents of `mmkd-bench`: filled by `mmkd_bench`, read by the benchmark page and `compare`.

Unknown keys are left alone, so that documents may grow. Every number carries its unit in its name, shares run from 0 to
1, and what was not measured is null, never zero. The document of `tune` is the profile (`mmkd_edge.predict.profile`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.errors import DocumentError
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1
STAGES = ("check_window", "prepare", "run", "interpret")
"""The runtime's four steps, in order: what one `predict` consists of."""

GATHER = "gather"
"""Stage of a stream: samples into windows, resampled where they come with times."""


class Percentile(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of one set of samples.

    Attributes:
        quantile: between 0 and 1; 0.99 is p99.
        value_us: by linear interpolation, as numpy; None below the floor.
        upper_us: with 99 % confidence the true percentile is not larger; None below the floor.
        floor: the number of samples below which the percentile is not quoted.
    """

    quantile: float
    value_us: float | None
    upper_us: float | None
    floor: int

    @property
    def name(self) -> str:
        """`p50`, `p99.9`."""
        return f"p{100 * self.quantile:.10g}"


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """One set of latency samples; no sample is left out."""

    count: int
    mean_us: float
    min_us: float
    max_us: float
    percentiles: tuple[Percentile, ...]

    def percentile(self, quantile: float) -> Percentile | None:
        """The entry of that quantile; None where there is none."""
        return next((one for one in self.percentiles if one.quantile == quantile), None)

    def value_us(self, quantile: float) -> float | None:
        """The percentile at `quantile`; None where there were too few samples or there is none."""
        entry = self.percentile(quantile)
        return None if entry is None else entry.value_us


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks that may move, with their limits; none where all are held. The source is `jetson_clocks` or `kernel`."""

    source: str
    moving: tuple[str, ...]


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One machine when a measurement began; nothing in it identifies it.

    Attributes:
        board: from the device tree (Jetson, Raspberry Pi); None on a PC.
        usable_cores: cores that the process may run on.
        cpu_quota: cores' worth of time that the control group allows; None without a limit.
        memory_limit_mb: of the control group; None without a limit.
        governors: frequency governors in use; empty where the kernel shows none.
        power_mode: `nvpmodel` of a Jetson.
        versions: of the installed libraries that matter.
        clocks: None where neither program nor kernel shows them.
        gpus: name, driver and memory of each that `nvidia-smi` shows.
    """

    cpu: str
    board: str | None
    architecture: str
    cores: int
    usable_cores: int
    cpu_quota: float | None = None
    memory_mb: float
    memory_limit_mb: float | None = None
    governors: tuple[str, ...]
    virtual: bool
    container: bool
    power_mode: str | None
    os: str
    python: str
    versions: dict[str, str]
    clocks: Clocks | None = None
    gpus: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The board, else the processor."""
        return self.board or self.cpu


class Interference(msgspec.Struct, frozen=True, kw_only=True):
    """What happened beside a measurement; None where the machine does not show it.

    Attributes:
        others_share: core time of other processes, as a share of one core.
        steal_share: core time taken by the hypervisor, as a share of one core.
        throttled_share: share of the time for which the control group was held back.
        thermal_events: times a core slowed down because of heat.
        frequency_drop: fall of the core frequency as a share of the frequency before.
        celsius_before: the hottest thermal zone before the measurement.
        celsius_after: the hottest thermal zone after it.
    """

    others_share: float | None
    steal_share: float | None
    throttled_share: float | None
    thermal_events: int | None
    frequency_drop: float | None
    celsius_before: float | None = None
    celsius_after: float | None = None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that was measured: hash and size are of the whole file, rate and window of the student's modality."""

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


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are made and for how long.

    Attributes:
        clients: threads that call at the same time; of a stream each has a sensor of its own.
        rate_hz: calls per second of each client; None calls back to back.
        deadline_ms: longest acceptable time from a call's scheduled moment to its answer.
        launches: processes, one after another.
        duration_s: measured time over all launches.
        warm_up_limit_s: longest warm-up of one launch.
        batch: windows per call.
        hop: samples per call of a stream; None asks for windows.
        jitter: samples come with times that stray by up to this fraction of the sampling period and are resampled; None
            gives them no times.
    """

    clients: int = 1
    rate_hz: float | None = None
    deadline_ms: float | None = None
    launches: int = 5
    duration_s: float = 10.0
    warm_up_limit_s: float = 5.0
    batch: int = 1
    hop: int | None = None
    jitter: float | None = None


class Configuration(Settings, frozen=True, kw_only=True):
    """The settings, and what answered; `threads` are the backend's, `paced` calls follow a schedule."""

    backend: str
    precision: str
    threads: int
    mode: Literal["closed", "paced"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One of the runtime's steps, timed from outside."""

    name: str
    p50_us: float
    p90_us: float


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How well a schedule was kept.

    Attributes:
        lateness: from a call's scheduled time to its start (wake-up jitter and backlog).
        response: from a call's scheduled time to its answer.
        missed: calls whose answer came after the deadline.
        overloaded: the backlog grew until the loop gave up.
    """

    lateness: LatencySummary
    response: LatencySummary
    missed: int
    overloaded: bool


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Calls before the measured ones; `stable` is False when the limit ended them."""

    calls: int
    seconds: float
    stable: bool


class TimeWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time of one launch: the calls that began in it."""

    count: int
    p50_us: float
    p90_us: float


class ProcessStart(msgspec.Struct, frozen=True, kw_only=True):
    """One process, from its start to its end.

    Attributes:
        complete: ran its whole time; False when it was interrupted.
        import_ms: importing the runtime, without a backend.
        load_ms: from the path to a predictor that can answer: verification, backend's library, session.
        first_call_ms: the first `predict` after that.
        latency: one call, end to end.
        windows: the same samples cut into parts of equal time.
        thirds_p50_us: medians of its first, middle and last third.
        stages: measured after the end-to-end calls.
        throughput_hz: predictions per second over the measured time.
        cpu_share: core time of this process as a share of one core, over the measured time.
        rss_mb: resident memory when warm.
        rss_peak_mb: largest resident memory, samples of the benchmark included.
        gpu_memory_mb: of this process on all GPUs.
        above_idle_mj: energy of one prediction above idle.
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
    interference: Interference
    gpu_memory_mb: float | None = None
    above_idle_mj: float | None = None


class Stability(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the figures were steady.

    Attributes:
        stable: the thirds of every launch, and the launches among themselves, agree within 10 %.
        findings: what did not agree.
        disturbances: likely causes by the machine's counters; may be there although the figures were steady.
    """

    stable: bool
    findings: tuple[str, ...]
    disturbances: tuple[str, ...]


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Power and energy of the measured time: `idle_mw` is before the run, `above_idle_mj` per prediction."""

    sensor: str
    idle_mw: float
    load_mw: float
    above_idle_mj: float
    readings: int


class LatencyHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of all samples.

    Attributes:
        edges_us: borders of the bins, rising by one factor, (N + 1,).
        counts: samples in each bin, (N,); the last bin includes its upper border.
    """

    edges_us: tuple[float, ...]
    counts: tuple[int, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run.

    Latency, pace and histogram are of the samples of all launches together, the peak of resident and the GPU's memory
    are the largest over launches, and all else are medians over launches.

    Attributes:
        gpu_note: why GPU memory was not measured; empty where it was.
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
    histogram: LatencyHistogram | None = None


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `mmkd-bench run`.

    Attributes:
        created_utc: start of the run, ISO 8601.
        complete: every launch ran its whole time.
        energy_note: why there is no energy; empty where there is.
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
    launches: tuple[ProcessStart, ...]


class QuantityChange(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity in both of two runs.

    Attributes:
        before: None where it was not measured, as is `after`.
        change: after / before - 1; None where the first is not measured, or not clearly above 0.
        low: lower end of the 95 % interval of the change; None for a quantity with one value per run.
        high: upper end of it.
        judged: False where processes competed for cores in one of the runs and this quantity shows them, not the build.
    """

    quantity: str
    unit: str
    before: float | None
    after: float | None
    change: float | None
    low: float | None
    high: float | None
    judged: bool = True


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs side by side, of `mmkd-bench compare`.

    Attributes:
        verdict: from p50 and p90 alone: `slower` or `faster` where the whole interval of either lies beyond 5 %.
        changes: every quantity; those of the verdict first.
        failed: the conditions that hold, in words.
        differences: what else differs between the runs.
        remarks: what weakens the verdict.
    """

    format_version: int = FORMAT_VERSION
    verdict: Literal["equal", "slower", "faster"]
    changes: tuple[QuantityChange, ...]
    failed: tuple[str, ...]
    differences: tuple[str, ...]
    remarks: tuple[str, ...]


class RepeatSpread(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all repeats of all processes."""

    median: float
    min: float
    max: float
    repeats: int


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Common part of the documents below; `complete` is False where Ctrl-C ended the measurement."""

    format_version: int = FORMAT_VERSION
    complete: bool = True
    machine: MachineFacts


class PairReport(Measurement, frozen=True, kw_only=True):
    """Two models through ONNX Runtime, called in turn.

    Attributes:
        threads: of each session.
        count: calls of each.
        ratio: first over second: how many times as fast the second is.
    """

    first: str
    second: str
    threads: int
    count: int
    first_p50_us: RepeatSpread
    second_p50_us: RepeatSpread
    first_p90_us: RepeatSpread
    second_p90_us: RepeatSpread
    first_p99_us: RepeatSpread
    second_p99_us: RepeatSpread
    ratio: RepeatSpread


class OverheadReport(Measurement, frozen=True, kw_only=True):
    """`EdgePredictor.predict` and the bare engine on the same feeds, called in turn.

    Attributes:
        count: calls of each.
        bare: the bare call in words.
        checks: every sensor check was on.
        overhead_us: median over pairs of neighbouring calls of the difference.
    """

    bundle: str
    count: int
    bare: str
    checks: bool
    predict_p50_us: RepeatSpread
    bare_p50_us: RepeatSpread
    overhead_us: RepeatSpread


class RivalEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine over all processes.

    Attributes:
        version: of its library; empty where it is not installed.
        reason: why it was not timed; empty where it was.
        load_ms: from the model's bytes to the first answer in the first process, with compiling and the first import of
            its library; None for the runtime itself.
        max_abs_error: largest difference of an answer from plain ONNX Runtime's; None where there is none to compare.
        ratio: its latency over that of `predict`, repeat by repeat: below 1 it is faster.
    """

    name: str
    version: str = ""
    reason: str = ""
    load_ms: float | None = None
    max_abs_error: float | None = None
    p50_us: RepeatSpread | None = None
    p99_us: RepeatSpread | None = None
    ratio: RepeatSpread | None = None


class RivalsReport(Measurement, frozen=True, kw_only=True):
    """The same weights through several engines, called in turn.

    Attributes:
        threads: of every engine.
        tolerance: the limit of `max_abs_error`.
        rivals: the runtime itself first.
    """

    subject: Subject
    threads: int
    tolerance: float
    rivals: tuple[RivalEngine, ...]


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One load of many streams.

    Attributes:
        due: windows that came due.
        answered: those that were answered before the load was given up.
        response: from the moment a window came due to its answer.
        missed: windows that were answered after the deadline, or not at all.
        cpu_share: core time of the process as a share of one core.
        carried: at most one window in a thousand missed its deadline, and the backlog did not grow.
    """

    streams: int
    due: int
    answered: int
    response: LatencySummary
    missed: int
    cpu_share: float
    carried: bool


class CapacityReport(Measurement, frozen=True, kw_only=True):
    """How many streams a device carries.

    Attributes:
        settled: False where Ctrl-C or the budget ended it: `streams` is then the most that was judged to be carried.
        budget_s: longest time for the answer.
        estimate: streams that the short loads carried with which the search begins; they judge nothing. None where
            streams were asked for.
        threads: of the backend, for one call.
        servers: threads that answered.
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response.
        streams: 0 where not even one is carried, or not those that were asked for.
        at_answer: the load of that many streams, all launches together; None when not even one is carried. Where
            streams were asked for, their load, carried or not.
        launches: each process of that load; most of them carried it.
        p999_us: p99.9 of the response in the median launch, which decides. That of all launches together is larger
            where a pause of the machine fell into one of them. None where samples were too few.
        refused: the smallest load that most launches did not carry; None where all were carried, or streams given.
        idle_cores: cores' worth of time that was left at that load.
        trials: every load that was tried, in order.
        disturbances: likely causes by the machine's counters.
    """

    settled: bool
    budget_s: float
    estimate: int | None
    subject: Subject
    backend: str
    precision: str
    threads: int
    servers: int
    rate_hz: float
    deadline_ms: float
    streams: int
    at_answer: Level | None
    launches: tuple[Level, ...]
    p999_us: float | None
    refused: Level | None
    idle_cores: float | None
    trials: tuple[Level, ...]
    disturbances: tuple[str, ...]


def read_bench(document: Mapping[str, Any]) -> BenchReport:
    """The typed form of a document of `mmkd-bench run --json`.

    Raises:
        DocumentError: An unknown format version, or a missing or mistyped value.
    """
    report = typed(document, BenchReport, name="benchmark", version=FORMAT_VERSION)
    histogram = report.result.histogram
    if histogram is not None and len(histogram.edges_us) != len(histogram.counts) + 1:
        raise DocumentError(
            f"benchmark document: result.histogram: expected {len(histogram.counts) + 1} edges_us for "
            f"{len(histogram.counts)} counts, got {len(histogram.edges_us)}; correct it"
        )
    return report
