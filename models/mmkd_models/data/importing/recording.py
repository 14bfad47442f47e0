"""Recordings: timed samples or frames of each sensor, and labelled intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalityKind, ModalitySpec, Normalise

Times = npt.NDArray[np.int64]
"""(L,) nanoseconds since 1970 in UTC, or since the start if its time is unknown."""

SECOND_NS = 1_000_000_000
Resample = Literal["linear", "nearest", "polyphase", "hold"]
Duplicates = Literal["error", "first", "last", "mean"]
_GAP_PERIODS = 1.5
_STEP_PERIODS = 3.0  # a step of more usual ones is no step of the clock, whatever the declared rate
_MAX_STEPS = 2_000_000  # that are sorted for a percentile
_BLOCK_STEPS = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSeries:
    """Samples of one sensor: ascending times (L,) and float32 (L, C), NaN for missing, or frames uint8 (L, H, W, C)."""

    times: Times
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.times)


class Spool:
    """Samples of one shape in two temporary files, to bound memory."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: type[np.float32 | np.uint8]) -> None:
        self._shape, self._dtype, self.count = shape, np.dtype(dtype), 0
        self._times, self._values = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115

    @property
    def size_bytes(self) -> int:
        """Size of both files."""
        return self.count * (8 + int(np.prod(self._shape)) * self._dtype.itemsize)

    def append(self, times: Times, values: npt.NDArray[Any]) -> None:
        """Append samples (B, ...)."""
        self._times.write(np.ascontiguousarray(times, dtype=np.int64).data)
        self._values.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self.count += len(times)

    def series(self) -> SampleSeries:
        """Return the collected samples, mapped."""
        if not self.count:
            return SampleSeries(times=np.zeros(0, dtype=np.int64), values=np.zeros((0, *self._shape), self._dtype))
        times: Times = np.memmap(self._times, dtype=np.int64, mode="r", shape=(self.count,))
        values = np.memmap(self._values, dtype=self._dtype, mode="r", shape=(self.count, *self._shape))
        return SampleSeries(times=times, values=values)

    def close(self) -> None:
        """Remove the files; open maps stay valid."""
        self._times.close()
        self._values.close()


def in_order(series: SampleSeries, *, duplicates: Duplicates, sort: bool) -> SampleSeries:
    """Return the series ascending, each time once; `mean` averages the present samples."""
    times, values = series.times, series.values
    if sort and (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    if duplicates == "error" or not (np.diff(times) == 0).any():
        return SampleSeries(times=times, values=values)
    first = np.flatnonzero(np.diff(times, prepend=times[0] - 1))
    if duplicates == "mean":
        is_present = ~np.isnan(values)
        sums = np.add.reduceat(np.where(is_present, values, 0).astype(np.float64), first, axis=0)
        counts = np.add.reduceat(is_present.astype(np.int64), first, axis=0)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
        return SampleSeries(times=times[first], values=means)
    chosen = first if duplicates == "first" else np.append(first[1:], len(times)) - 1
    return SampleSeries(times=times[first], values=values[chosen])


@dataclass(frozen=True, kw_only=True)
class ClockFacts:
    """The clock of one series.

    Attributes:
        rate_hz: steps per second without gaps; NaN below two samples.
        jitter_p99_ms: 99 % of the steps differ from the usual one by at most this.
        repeated: frames equal to the one before.
    """

    samples: int
    rate_hz: float
    jitter_p99_ms: float
    gaps: int
    longest_gap_s: float
    recording: str = ""
    sensor: str = ""
    drift_ppm: float = 0.0
    repeated: int = 0


def clock_facts(series: SampleSeries, *, max_gap_s: float | None) -> ClockFacts:
    """Measure a clock; a gap is a step above `max_gap_s` or three usual steps."""
    count = len(series)
    if count < 2:
        return ClockFacts(samples=count, rate_hz=float("nan"), jitter_p99_ms=0.0, gaps=0, longest_gap_s=0.0)
    # Of more steps than can be sorted in bounded memory each n-th is measured.
    first = np.arange(0, count - 1, -(-(count - 1) // _MAX_STEPS))
    thinned = (series.times[first + 1] - series.times[first]).astype(np.float64) / SECOND_NS
    usual = float(np.median(thinned))
    regular, gaps, longest, total = 0, 0, 0.0, 0.0
    limit = _STEP_PERIODS * usual if max_gap_s is None else max_gap_s
    for start in range(0, count - 1, _BLOCK_STEPS):
        steps = np.diff(series.times[start : start + _BLOCK_STEPS + 1]).astype(np.float64) / SECOND_NS
        even = steps[steps <= _STEP_PERIODS * usual]
        regular, total = regular + len(even), total + float(even.sum())
        gaps, longest = gaps + int((steps > limit).sum()), max(longest, float(steps.max()))
        let_go(series.times)
    mean = total / regular if regular else usual
    thinned = thinned[thinned <= _STEP_PERIODS * usual]
    return ClockFacts(
        samples=count,
        rate_hz=1.0 / mean if mean > 0 else float("nan"),
        jitter_p99_ms=1e3 * float(np.quantile(np.abs(thinned - mean), 0.99)) if len(thinned) else 0.0,
        gaps=gaps,
        longest_gap_s=longest if gaps else 0.0,
    )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A stretch of time and its value."""

    start_ns: int
    end_ns: int
    value: str
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportedSensor:
    """A sensor of the dataset, and how to resample it; `max_gap_s` is by default one and a half periods."""

    name: str
    channels: tuple[str, ...]
    rate_hz: float
    kind: ModalityKind = "series"
    height: int | None = None
    width: int | None = None
    unit: str = ""
    range: tuple[float, float] | None = None
    normalise: Normalise = "none"
    native_hz: float | None = None
    max_gap_s: float | None = None
    resample: Resample = "linear"
    hold_s: float | None = None

    @property
    def own_hz(self) -> float:
        """Rate of the samples themselves."""
        return self.rate_hz if self.native_hz is None else self.native_hz

    @property
    def gap_s(self) -> float:
        """Longest gap that is interpolated."""
        return _GAP_PERIODS / self.own_hz if self.max_gap_s is None else self.max_gap_s

    def modality(self, length_s: float) -> ModalitySpec:
        """Return its `dataset.json` entry for windows of this length."""
        return ModalitySpec(
            name=self.name,
            kind=self.kind,
            channels=self.channels,
            unit=self.unit,
            rate_hz=self.rate_hz,
            samples=max(1, round(length_s * self.rate_hz)),
            height=msgspec.UNSET if self.height is None else self.height,
            width=msgspec.UNSET if self.width is None else self.width,
            range=self.range,
            normalise=self.normalise,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedRecording:
    """One recording.

    Attributes:
        series: by sensor; several series hold its channels in order.
        parts: facts of the whole recording, such as person or machine.
        runs: by column, intervals of constant value.
    """

    name: str
    series: Mapping[str, Sequence[SampleSeries]]
    parts: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[Interval] = ()
    runs: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    is_utc: bool = True


def make_series(times_s: npt.ArrayLike, values: npt.ArrayLike) -> SampleSeries:
    """Return samples (L, C) or (L,) with times (L,) in seconds. Raise UsageError if they do not fit."""
    times, samples = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if times.ndim != 1 or samples.ndim != 2 or len(times) != len(samples):
        raise UsageError(
            f"series: expected times (L,) and values (L, C), got {times.shape} and {samples.shape}; fit them"
        )
    if not np.isfinite(times).all() or bool((np.diff(times) <= 0).any()):
        raise UsageError("series: expected times that increase, got others; sort them, each once")
    return SampleSeries(times=np.rint(times * SECOND_NS).astype(np.int64), values=samples)
