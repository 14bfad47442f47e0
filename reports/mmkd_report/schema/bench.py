"""The documents of `mmkd-bench`; that of `tune` is the profile (`mmkd_edge.predict.profile`).

Units are in the names, fractions run from 0 to 1, and what was not measured is null, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.errors import DocumentError
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1
STAGES = ("check_window", "prepare", "run", "interpret")
"""The four steps of one `predict`, in order."""

GATHER = "gather"
"""Stage of a stream: samples become windows, resampled if they have times."""


class Percentile(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of a set of samples.

    Attributes:
        value_us: Interpolated linearly; None with fewer samples than `floor`.
        upper_us: Upper end of the one-sided 99 % confidence interval.
        floor: Fewest samples from which the percentile is quoted.
    """

    quantile: float
    value_us: float | None
    upper_us: float | None
    floor: int

    @property
    def name(self) -> str:
        """Name, such as `p99.9`."""
        return f"p{100 * self.quantile:.10g}"


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """A set of latency samples; none is left out."""

    count: int
    mean_us: float
    min_us: float
    max_us: float
    percentiles: tuple[Percentile, ...]

    def percentile(self, quantile: float) -> Percentile | None:
        """Return the entry of a quantile, or None."""
        return next((percentile for percentile in self.percentiles if percentile.quantile == quantile), None)

    def value_us(self, quantile: float) -> float | None:
        """Return the percentile at `quantile`, or None."""
        entry = self.percentile(quantile)
        return None if entry is None else entry.value_us


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks that may move, with their limits; the source is `jetson_clocks` or `kernel`."""

    source: str
    moving: tuple[str, ...]


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A machine when a measurement began, without anything that identifies it.

    Attributes:
        board: From the device tree (Jetson, Raspberry Pi); None on a PC.
        cpu_quota: Cores' worth of time that the control group allows; None without a limit.
        memory_limit_mb: Limit of the control group; None without a limit.
        governors: Frequency governors in use.
        power_mode: `nvpmodel` of a Jetson.
        gpus: Name, driver and memory of each.
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
        """Board, or processor."""
        return self.board or self.cpu


class Interference(msgspec.Struct, frozen=True, kw_only=True):
    """Disturbances of a measurement.

    Attributes:
        others_share: Core time of other processes, as a fraction of one core.
        steal_share: Core time taken by the hypervisor, as a fraction of one core.
        throttled_share: Fraction of the time in which the control group was throttled.
        thermal_events: Times a core slowed down because of heat.
        frequency_drop: Fall of the core frequency as a fraction of the frequency before.
        celsius_before: Hottest thermal zone before the measurement.
    """

    others_share: float | None
    steal_share: float | None
    throttled_share: float | None
    thermal_events: int | None
    frequency_drop: float | None
    celsius_before: float | None = None
    celsius_after: float | None = None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that was measured, with the rate and window of its student's modality."""

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
        clients: Threads that call at the same time; in a stream each has a sensor of its own.
        rate_hz: Calls per second of each client; None calls back to back.
        deadline_ms: Longest acceptable time from a call's scheduled moment to its answer.
        launches: Processes, one after another.
        duration_s: Measured time over all launches.
        hop: Samples per call of a stream; None predicts windows.
    """

    clients: int = 1
    rate_hz: float | None = None
    deadline_ms: float | None = None
    launches: int = 5
    duration_s: float = 10.0
    warm_up_limit_s: float = 5.0
    batch: int = 1
    hop: int | None = None


class Configuration(Settings, frozen=True, kw_only=True):
    """The settings, and the config that answered; `paced` calls follow a schedule."""

    backend: str
    precision: str
    threads: int
    mode: Literal["closed", "paced"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the runtime, timed from outside."""

    name: str
    p50_us: float
    p90_us: float


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How well a schedule was kept.

    Attributes:
        lateness: From a call's scheduled time to its start (wake-up jitter and backlog).
        response: From a call's scheduled time to its answer.
        missed: Answers after the deadline.
        overloaded: Whether the backlog grew until the loop gave up.
    """

    lateness: LatencySummary
    response: LatencySummary
    missed: int
    overloaded: bool


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Calls before the measured ones; not `stable` if the limit ended them."""

    calls: int
    seconds: float
    stable: bool


class TimeWindow(msgspec.Struct, frozen=True, kw_only=True):
    """The calls that began in a stretch of time of one launch."""

    count: int
    p50_us: float
    p90_us: float


class ProcessStart(msgspec.Struct, frozen=True, kw_only=True):
    """One process, from its start to its end.

    Attributes:
        complete: False if it was interrupted.
        import_ms: Importing the runtime, without a backend.
        load_ms: From the path to a predictor that can answer: verification, backend's library, session.
        latency: Calls, end to end.
        windows: The same samples in parts of equal time.
        thirds_p50_us: Medians of its first, middle and last third.
        stages: Measured after the end-to-end calls.
        throughput_hz: Predictions per second.
        cpu_share: Core time of this process as a fraction of one core.
        rss_mb: Resident memory when warm.
        rss_peak_mb: Largest resident memory, samples of the benchmark included.
        above_idle_mj: Energy of one prediction above idle.
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
    """Whether the figures are steady.

    Attributes:
        stable: The thirds of every launch, and the launches, agree within 10 %.
        findings: What does not agree.
        disturbances: Likely causes by the machine's counters.
    """

    stable: bool
    findings: tuple[str, ...]
    disturbances: tuple[str, ...]


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Power and energy; `idle_mw` is measured before the run, `above_idle_mj` is per prediction."""

    sensor: str
    idle_mw: float
    load_mw: float
    above_idle_mj: float
    readings: int


class LatencyHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of all samples over N bins: `edges_us` (N + 1,) grow by one factor, `counts` is (N,)."""

    edges_us: tuple[float, ...]
    counts: tuple[int, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run.

    Latency, pace and histogram are of all samples together, peak and GPU memory are the largest over launches, all else
    are medians over launches. `gpu_note` is the reason if GPU memory was not measured.
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
    """One run of `mmkd-bench run`; `energy_note` is the reason if energy was not measured."""

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
    """One quantity in two runs.

    Attributes:
        change: after / before - 1; None if `before` is not clearly above 0.
        low: Lower end of the 95 % interval of the change; None for a quantity with one value per run.
        judged: False if processes competed for cores in one of the runs and this quantity shows them, not the build.
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
        verdict: `slower` or `faster` if the whole interval of p50 or p90 lies beyond 5 %.
        failed: Conditions of `--fail-if` that hold, in words.
        differences: What else differs between the runs.
        remarks: What weakens the verdict.
    """

    format_version: int = FORMAT_VERSION
    verdict: Literal["equal", "slower", "faster"]
    changes: tuple[QuantityChange, ...]
    failed: tuple[str, ...]
    differences: tuple[str, ...]
    remarks: tuple[str, ...]


class RepeatSpread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over all repeats of all processes."""

    median: float
    min: float
    max: float
    repeats: int


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Common part of the documents below; not `complete` if Ctrl-C ended the measurement."""

    format_version: int = FORMAT_VERSION
    complete: bool = True
    machine: MachineFacts


class PairReport(Measurement, frozen=True, kw_only=True):
    """Two models through ONNX Runtime, called in turn, `count` times each; `ratio` is first over second."""

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
    """`EdgePredictor.predict` and the bare engine on the same feeds, called in turn, `count` times each.

    Attributes:
        bare: The bare call in words.
        checks: Whether every sensor check was on.
        overhead_us: Median difference of neighbouring calls.
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
        reason: Why it was not timed.
        load_ms: From the model's bytes to the first answer in the first process; None for the runtime itself.
        max_abs_error: Largest difference of an answer from plain ONNX Runtime's.
        ratio: Its latency over that of `predict`: below 1 it is faster.
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
    """The same weights through several engines, called in turn, the runtime itself first.

    Attributes:
        tolerance: Limit of `max_abs_error`.
    """

    subject: Subject
    threads: int
    tolerance: float
    rivals: tuple[RivalEngine, ...]


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One load of many streams.

    Attributes:
        due: Windows that came due.
        answered: Windows that were answered before the load was given up.
        response: From the moment a window came due to its answer.
        missed: Windows that were answered after the deadline, or not at all.
        cpu_share: Core time of the process as a fraction of one core.
        carried: At most one window in a thousand missed its deadline, and the backlog did not grow.
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
        settled: False if Ctrl-C or the budget ended the search: `streams` is then the most that was judged as carried.
        budget_s: Longest time for the answer.
        estimate: Streams that short loads carried, where the search began; None if `--streams` was given.
        threads: Threads of the backend for one call.
        servers: Threads that answered.
        rate_hz: Windows per second of one stream.
        deadline_ms: Longest acceptable response.
        streams: 0 if not even one is carried, or not those that were given.
        at_answer: The load of that many streams (or of those given), all launches together.
        launches: Each process of that load.
        p999_us: p99.9 of the response in the median launch, which decides; None with too few samples.
        refused: The smallest load that most launches did not carry.
        idle_cores: Cores' worth of time that was left at that load.
        trials: Every load that was tried, in order.
        disturbances: Likely causes by the machine's counters.
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
    """Return the typed form of a document of `mmkd-bench run --json`; raise DocumentError as `typed`."""
    report = typed(document, BenchReport, name="benchmark", version=FORMAT_VERSION)
    histogram = report.result.histogram
    if histogram is not None and len(histogram.edges_us) != len(histogram.counts) + 1:
        raise DocumentError(
            f"benchmark document: result.histogram: expected {len(histogram.counts) + 1} edges_us for "
            f"{len(histogram.counts)} counts, got {len(histogram.edges_us)}; correct it"
        )
    return report
