"""The document of `mmkd-bench run --json` as typed, frozen data: what the benchmark page is made of.

Owns the reading and checking of that document. Unknown keys are left alone, so that the document may grow. Every number
carries its unit in its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mmkd_report.documents.reading import typed
from mmkd_report.errors import DocumentError

FORMAT_VERSION = 1


class PercentileFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile; None where there were fewer samples than `floor`."""

    quantile: float
    value_us: float | None
    upper_us: float | None
    floor: int


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All samples of one kind."""

    count: int
    mean_us: float
    max_us: float
    percentiles: tuple[PercentileFigure, ...]

    def percentile(self, quantile: float) -> PercentileFigure | None:
        """One of them; None where the document has it not."""
        return next((one for one in self.percentiles if one.quantile == quantile), None)

    def value_us(self, quantile: float) -> float | None:
        """The value of one of them."""
        found = self.percentile(quantile)
        return None if found is None else found.value_us


class StageFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a call."""

    name: str
    p50_us: float
    p90_us: float


class PaceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule was kept."""

    response: LatencyFigures
    lateness: LatencyFigures
    missed: int


class HistogramFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Bins that grow by one factor and the samples in each."""

    edges_us: tuple[float, ...]
    counts: tuple[int, ...]


class ResultFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run."""

    latency: LatencyFigures
    stages: tuple[StageFigures, ...]
    pace: PaceFigures | None
    import_ms: float
    load_ms: float
    first_call_ms: float
    throughput_hz: float
    cpu_share: float
    rss_mb: float
    rss_peak_mb: float
    gpu_memory_mb: float | None = None
    gpu_note: str = ""
    histogram: HistogramFigures | None = None


class WindowFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time of one launch."""

    count: int
    p50_us: float
    p90_us: float


class InterferenceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What happened beside a launch: the hottest zone of the device at both ends; None where it shows none."""

    celsius_before: float | None = None
    celsius_after: float | None = None


class LaunchFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One process."""

    latency: LatencyFigures
    windows: tuple[WindowFigures, ...]
    interference: InterferenceFigures = InterferenceFigures()


class SubjectFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

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


class HowMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """How it was measured."""

    backend: str
    precision: str
    threads: int
    clients: int
    rate_hz: float | None
    deadline_ms: float | None
    launches: int
    duration_s: float
    batch: int = 1
    hop: int | None = None
    jitter: float | None = None


class ClockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks that may move."""

    source: str
    moving: tuple[str, ...]


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What it was measured on."""

    cpu: str
    board: str | None
    architecture: str
    cores: int
    usable_cores: int
    memory_mb: float
    cpu_quota: float | None = None
    memory_limit_mb: float | None = None
    governors: tuple[str, ...]
    virtual: bool
    container: bool
    power_mode: str | None
    os: str
    python: str
    versions: dict[str, Any]
    clocks: ClockFacts | None = None
    gpus: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The board, else the processor."""
        return self.board or self.cpu


class SteadyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the figures held still."""

    stable: bool
    findings: tuple[str, ...]
    disturbances: tuple[str, ...]


class EnergyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Power and energy."""

    sensor: str
    idle_mw: float
    load_mw: float
    above_idle_mj: float
    readings: int


class BenchDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format_version: int
    created_utc: str
    complete: bool
    subject: SubjectFacts
    configuration: HowMeasured
    machine: DeviceFacts
    result: ResultFigures
    stability: SteadyFacts
    energy: EnergyFigures | None
    energy_note: str
    launches: tuple[LaunchFigures, ...]


def read_bench(document: Mapping[str, Any]) -> BenchDocument:
    """The typed form of one document.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
    """
    found = typed(document, BenchDocument, name="benchmark", version=FORMAT_VERSION)
    histogram = found.result.histogram
    if histogram is not None and len(histogram.edges_us) != len(histogram.counts) + 1:
        raise DocumentError(
            f"benchmark document: result.histogram: expected {len(histogram.counts) + 1} edges_us for "
            f"{len(histogram.counts)} counts, got {len(histogram.edges_us)}; correct it"
        )
    return found
