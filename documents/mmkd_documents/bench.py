"""The documents of `mmkd-bench` (of `tune`: the profile): fractions run from 0 to 1, null is not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_documents.errors import DocumentError

FORMAT_VERSION = 1
STAGES = ("check_window", "prepare", "run", "interpret")
"""The four steps of one `predict`, in order."""

GATHER = "gather"
"""Stage of a stream: samples become windows."""


class Percentile(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of samples."""

    quantile: float
    value_us: float | None  # interpolated linearly; None with fewer samples than `floor`
    upper_us: float | None  # upper end of the one-sided 99 % confidence interval
    floor: int  # fewest samples for which the percentile is given

    @property
    def name(self) -> str:
        """Such as `p99.9`."""
        return f"p{100 * self.quantile:.10g}"


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of all samples."""

    count: int
    mean_us: float
    min_us: float
    max_us: float
    percentiles: tuple[Percentile, ...]

    def percentile(self, quantile: float) -> Percentile | None:
        """Return a quantile's entry, or None."""
        return next((percentile for percentile in self.percentiles if percentile.quantile == quantile), None)

    def value_us(self, quantile: float) -> float | None:
        """Return a quantile's percentile, or None."""
        entry = self.percentile(quantile)
        return None if entry is None else entry.value_us


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A machine when measuring began, without identifying facts."""

    cpu: str
    board: str | None  # from the device tree (Jetson, Raspberry Pi); None on a PC
    architecture: str
    cores: int
    usable_cores: int
    cpu_quota: float | None = None  # cores' worth of time of the control group; None without a limit
    memory_mb: float
    governors: tuple[str, ...]
    virtual: bool
    power_mode: str | None  # `nvpmodel` of a Jetson
    os: str
    python: str
    versions: dict[str, str]
    moving_clocks: tuple[str, ...] | None = None  # clocks that may move, with limits; None if the kernel shows none
    gpus: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Board or processor."""
        return self.board or self.cpu


class Interference(msgspec.Struct, frozen=True, kw_only=True):
    """Disturbances of a measurement."""

    others_cores: float | None  # other processes, as a fraction of one core
    steal_cores: float | None  # taken by the hypervisor, as a fraction of one core
    throttled_fraction: float | None  # fraction of the time with the control group throttled
    thermal_events: int | None  # slowdowns of a core by heat
    frequency_drop: float | None  # relative
    celsius_before: float | None = None  # hottest thermal zone
    celsius_after: float | None = None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The measured bundle, with its modality's rate and window."""

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
    """What is called, and how long; calls follow each other at once."""

    launches: int = 5  # processes, one after another
    duration_s: float = 10.0  # measured time over all launches
    hop: int | None = None  # samples per call of a stream; None predicts windows


class Configuration(Settings, frozen=True, kw_only=True):
    """Settings, and the config that answered."""

    backend: str
    precision: str
    threads: int


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the runtime, timed from outside."""

    name: str
    p50_us: float
    p90_us: float


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Calls before the measured ones; not `stable` if the limit ended them."""

    calls: int
    seconds: float
    stable: bool


class TimeWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that began in a stretch of one launch."""

    count: int
    p50_us: float
    p90_us: float


class ProcessStart(msgspec.Struct, frozen=True, kw_only=True):
    """One process."""

    complete: bool  # False if it was interrupted
    import_ms: float  # the runtime, without a backend
    load_ms: float  # from path to ready predictor
    first_call_ms: float
    warm_up: WarmUp
    latency: LatencySummary  # end to end
    windows: tuple[TimeWindow, ...]  # the same samples in parts of equal time
    thirds_p50_us: tuple[float, ...]  # medians of the first, middle and last third
    stages: tuple[Stage, ...]  # measured after the end-to-end calls
    throughput_hz: float  # predictions per second
    cpu_cores: float  # of this process, as a fraction of one core
    rss_mb: float  # resident memory when warm
    rss_peak_mb: float  # samples of the benchmark included
    interference: Interference
    above_idle_mj: float | None = None  # of one prediction


class Stability(msgspec.Struct, frozen=True, kw_only=True):
    """Steadiness of the figures."""

    stable: bool  # the thirds of every launch, and the launches, agree within 10 %
    findings: tuple[str, ...]  # what does not agree
    disturbances: tuple[str, ...]  # likely causes by the machine's counters


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Power and energy; `idle_mw` precedes the run, `above_idle_mj` is per prediction."""

    sensor: str
    idle_mw: float
    load_mw: float
    above_idle_mj: float
    readings: int


class LatencyHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution over N bins: `edges_us` (N + 1,) grow by one factor, `counts` is (N,)."""

    edges_us: tuple[float, ...]
    counts: tuple[int, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a run: latency and histogram over all samples, the largest peak memory, other medians."""

    latency: LatencySummary
    stages: tuple[Stage, ...]
    import_ms: float
    load_ms: float
    first_call_ms: float
    throughput_hz: float
    cpu_cores: float
    rss_mb: float
    rss_peak_mb: float
    histogram: LatencyHistogram | None = None


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `mmkd-bench run`; `energy_note` is why energy was not measured."""

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
    """One quantity in two runs."""

    quantity: str
    unit: str
    before: float | None
    after: float | None
    change: float | None  # after / before - 1; None if `before` is not clearly above 0
    low: float | None  # lower end of the 95 % interval; None with one value per run
    high: float | None
    judged: bool = True  # False if competition for cores distorts this quantity


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs of `mmkd-bench compare`."""

    format_version: int = FORMAT_VERSION
    verdict: Literal["equal", "slower", "faster"]  # of p50 and p90, beyond 5 %
    changes: tuple[QuantityChange, ...]
    failed: tuple[str, ...]  # conditions of `--fail-if` that hold, in words
    differences: tuple[str, ...]  # what else differs between the runs
    remarks: tuple[str, ...]  # what weakens the verdict


class RepeatSpread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over repeats of all processes."""

    median: float
    min: float
    max: float
    repeats: int


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Common part of the documents below."""

    format_version: int = FORMAT_VERSION
    machine: MachineFacts


class PairReport(Measurement, frozen=True, kw_only=True):
    """Two models in ONNX Runtime, in turn, `count` times each; `ratio` is first over second."""

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
    """`EdgePredictor.predict` and the bare engine, in turn, `count` times each."""

    bundle: str
    count: int
    bare: str
    predict_p50_us: RepeatSpread
    bare_p50_us: RepeatSpread
    overhead_us: RepeatSpread  # median difference of neighbouring calls


class RivalEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine over all processes."""

    name: str
    version: str = ""
    reason: str = ""  # why it was not timed
    load_ms: float | None = None  # from bytes to first answer; None for the runtime
    max_abs_error: float | None = None  # largest difference from plain ONNX Runtime
    p50_us: RepeatSpread | None = None
    p99_us: RepeatSpread | None = None
    ratio: RepeatSpread | None = None  # its latency over that of `predict`: below 1 it is faster


class RivalsReport(Measurement, frozen=True, kw_only=True):
    """The same weights in several engines, called in turn, the runtime first."""

    subject: Subject
    threads: int
    tolerance: float  # limit of `max_abs_error`
    rivals: tuple[RivalEngine, ...]


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One load of many streams."""

    streams: int
    due: int  # windows
    answered: int  # answered before the load was given up
    response: LatencySummary  # from due to answered
    missed: int  # answered after the deadline, or never
    cpu_cores: float  # of this process, as a fraction of one core
    carried: bool  # at most one window in 1,000 missed, and the backlog did not grow


class CapacityReport(Measurement, frozen=True, kw_only=True):
    """How many streams a device carries."""

    subject: Subject
    backend: str
    precision: str
    threads: int  # backend threads per call
    servers: int  # threads that answered, one per usable core
    rate_hz: float  # of one stream
    deadline_ms: float  # longest acceptable response
    streams: int  # 0 if not even one, or the given number, is carried
    at_answer: Level | None  # that many streams, or the given ones, over all launches
    launches: tuple[Level, ...]  # each process of that load
    p999_us: float | None  # p99.9 of the response in the median launch, which decides
    refused: Level | None  # smallest load that most launches did not carry
    idle_cores: float | None  # cores' worth of time left at that load
    disturbances: tuple[str, ...]  # likely causes by the machine's counters


def read_bench(document: Mapping[str, Any]) -> BenchReport:
    """Read a report of `run`; raise DocumentError for another version or a wrong value."""
    if (version := document.get("format_version")) != FORMAT_VERSION:
        raise DocumentError(
            f"benchmark document: expected format_version {FORMAT_VERSION}, got {version!r}; "
            "make the page with the release that made the document"
        )
    try:
        report = msgspec.convert(dict(document), BenchReport)
    except msgspec.ValidationError as error:
        raise DocumentError(
            f"benchmark document: {error}; correct the value, or leave it out where it is optional"
        ) from error
    histogram = report.result.histogram
    if histogram is not None and len(histogram.edges_us) != len(histogram.counts) + 1:
        raise DocumentError(
            f"benchmark document: result.histogram: expected {len(histogram.counts) + 1} edges_us for "
            f"{len(histogram.counts)} counts, got {len(histogram.edges_us)}; correct it"
        )
    return report
