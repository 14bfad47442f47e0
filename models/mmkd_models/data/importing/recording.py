"""Timed samples or frames of a sensor, their clock, and labelled intervals."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go

Times = npt.NDArray[np.int64]
"""(L,) nanoseconds since 1970 in UTC, or since the start if its time is unknown."""

SECOND_NS = 1_000_000_000
Resample = Literal["linear", "polyphase", "hold"]
Duplicates = Literal["error", "first", "last", "mean"]
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
