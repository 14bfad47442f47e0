"""A sensor's samples, or a camera's frames, with the time of each: collected on disk, put in order, measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalityKind, ModalitySpec, Normalise

Times = npt.NDArray[np.int64]
"""(L,) nanoseconds since 1970 in UTC, or since the start where nobody knows when that was."""
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

SECOND_NS = 1_000_000_000
Resample = Literal["linear", "nearest", "polyphase", "hold"]
Duplicates = Literal["error", "first", "last", "mean"]
_STEP_PERIODS = 3.0  # a step of more than so many usual ones is no step of the clock, whatever the declared rate
SPOOL_SUFFIXES = (".times", ".values")
"""Of the files in which samples are collected."""
_MOST_STEPS = 2_000_000  # that are sorted for a percentile
_BLOCK_STEPS = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSeries:
    """Samples of one sensor: ascending times (L,) and values (L, C), NaN for missing."""

    times: Times
    values: Floats

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, kw_only=True)
class ClockFacts:
    """What the times of one series tell.

    Attributes:
        rate_hz: steps per second where nothing is missing; NaN below two samples.
        jitter_p99_ms: 99 % of the steps are no farther than this from the usual one.
    """

    samples: int
    rate_hz: float
    jitter_p99_ms: float
    gaps: int
    longest_gap_s: float
    repeated: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraFrames:
    """Frames of one camera: ascending times (L,) and values uint8 (L, H, W, C)."""

    times: Times
    values: Pixels

    def __len__(self) -> int:
        return len(self.times)


Samples = SampleSeries | CameraFrames


class Spool:
    """Collects samples of one shape in two files of a scratch folder, so that memory holds one block."""

    def __init__(
        self, folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.float32 | np.uint8], *, count: int = 0
    ) -> None:
        """Open the files.

        Args:
            count: samples that are in them already; what lies behind is cut off.
        """
        self._shape, self._dtype = shape, dtype
        self._times, self._values = (
            opened_at(file, size_bytes) for file, size_bytes in _sizes(folder, name, shape, dtype, count).items()
        )
        self.count = count

    @property
    def size_bytes(self) -> int:
        """Size of both files."""
        return sum(_sizes(Path(), "", self._shape, self._dtype, self.count).values())

    @staticmethod
    def holds(
        folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.float32 | np.uint8], *, count: int
    ) -> bool:
        """Whether so many samples lie in the files of this name."""
        sizes = _sizes(folder, name, shape, dtype, count)
        return all(file.is_file() and file.stat().st_size >= size_bytes for file, size_bytes in sizes.items())

    def append(self, times: Times, values: npt.NDArray[Any]) -> None:
        """Add samples (B, ...) at the end."""
        self._times.write(np.ascontiguousarray(times, dtype=np.int64).data)
        self._values.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self.count += len(times)

    def secure(self) -> None:
        """Return when everything that was added is on the disk."""
        for file in (self._times, self._values):
            file.flush()
            os.fsync(file.fileno())

    def collected(self) -> tuple[Times, npt.NDArray[Any]]:
        """Return times (L,) and values (L, ...) of what was collected, mapped; valid until the files are closed."""
        self._times.flush()
        self._values.flush()
        if not self.count:
            return np.zeros(0, dtype=np.int64), np.zeros((0, *self._shape), dtype=self._dtype)
        times = np.memmap(self._times, dtype=np.int64, mode="r", shape=(self.count,))
        return times, np.memmap(self._values, dtype=self._dtype, mode="r", shape=(self.count, *self._shape))

    def close(self) -> None:
        """Close and removes the files; a map that is still used keeps its content."""
        for file in (self._times, self._values):
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        for file in (self._times, self._values):  # kept with their folder, if that is kept
            file.close()


def _sizes(
    folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.float32 | np.uint8], count: int
) -> dict[Path, int]:
    """The files of a spool and how large they are with so many samples."""
    sample_bytes = (np.dtype(np.int64).itemsize, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return {folder / f"{name}{end}": count * one for end, one in zip(SPOOL_SUFFIXES, sample_bytes, strict=True)}


def opened_at(file: Path, size_bytes: int) -> BinaryIO:
    """Open a file to go on at this size; what lies behind is cut off."""
    opened = file.open("r+b" if size_bytes else "w+b")
    opened.truncate(size_bytes)
    opened.seek(size_bytes)
    return opened


def in_order(series: SampleSeries, *, duplicates: Duplicates, sort: bool) -> SampleSeries:
    """Return the series ascending, each time once.

    Args:
        duplicates: which of several samples of one time is kept; `mean` averages those that are there.
    """
    times, values = series.times, series.values
    if sort and _any_step(times, lambda step: step < 0):
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    if duplicates == "error" or not _any_step(times, lambda step: step == 0):
        return SampleSeries(times=times, values=values)
    first = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1]]))
    last = np.concatenate([first[1:], [len(times)]]) - 1
    match duplicates:
        case "first":
            kept = values[first]
        case "last":
            kept = values[last]
        case "mean":
            present = ~np.isnan(values)
            sums = np.add.reduceat(np.where(present, values, 0).astype(np.float64), first, axis=0)
            counts = np.add.reduceat(present.astype(np.int64), first, axis=0)
            kept = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
    return SampleSeries(times=times[first], values=np.asarray(kept))


def _any_step(times: Times, is_meant: Callable[[Times], npt.NDArray[np.bool_]]) -> bool:
    """Whether any step from one time to the next is meant."""
    starts = range(0, len(times) - 1, _BLOCK_STEPS)
    return any(bool(is_meant(np.diff(times[start : start + _BLOCK_STEPS + 1])).any()) for start in starts)


def clock_facts(series: Samples, *, max_gap_s: float | None) -> ClockFacts:
    """Measure the clock of a series or of frames.

    Args:
        max_gap_s: from which a step is a gap; None is three usual steps.
    """
    count = len(series)
    if count < 2:
        return ClockFacts(samples=count, rate_hz=float("nan"), jitter_p99_ms=0.0, gaps=0, longest_gap_s=0.0)
    # Of more steps than can be sorted in bounded memory each n-th tells what is usual.
    first = np.arange(0, count - 1, -(-(count - 1) // _MOST_STEPS))
    thinned = (series.times[first + 1] - series.times[first]).astype(np.float64) / SECOND_NS
    usual = float(np.median(thinned))
    regular, gaps, longest, total = 0, 0, 0.0, 0.0
    limit = _STEP_PERIODS * usual if max_gap_s is None else max_gap_s
    for start in range(0, count - 1, _BLOCK_STEPS):
        steps = np.diff(series.times[start : start + _BLOCK_STEPS + 1]).astype(np.float64) / SECOND_NS
        kept = steps[steps <= _STEP_PERIODS * usual]
        regular, total = regular + len(kept), total + float(kept.sum())
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


_GAP_PERIODS = 1.5


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A stretch of time and what is true of it."""

    start_ns: int
    end_ns: int
    value: str
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class FileClock:
    """The clock of one recording of one sensor, for the report."""

    recording: str
    sensor: str
    facts: ClockFacts
    drift_ppm: float


class ReadingState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the reading of a source of a recording is, between two files.

    Attributes:
        collected: samples in each scratch file.
        last_ns: the last time in each of them.
        open_runs: by column, start, value and place of the value that lasts.
        runs: by column, the values before it.
    """

    collected: tuple[int, ...]
    last_ns: tuple[int | None, ...]
    origin_ns: int | None
    count: int
    is_utc: bool
    open_runs: dict[str, tuple[int, str, str] | None]
    runs: dict[str, list[Interval]]


@dataclass(frozen=True, kw_only=True)
class ImportedSensor:
    """A sensor as the dataset has it, and how its samples get there.

    Attributes:
        kind: of the modality; a camera has `height` and `width`, the size of its frames in the dataset.
        max_gap_s: nothing is interpolated across more; None is one and a half periods of the samples.
    """

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
        """The rate of the samples themselves."""
        return self.rate_hz if self.native_hz is None else self.native_hz

    @property
    def gap_s(self) -> float:
        """Seconds beyond which nothing is interpolated."""
        return _GAP_PERIODS / self.own_hz if self.max_gap_s is None else self.max_gap_s

    def modality(self, length_s: float) -> ModalitySpec:
        """Return what `dataset.json` says of it, for windows of this length."""
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
        parts: facts of the whole of it by name, such as person or machine.
        series: by sensor; several series of one sensor hold its channels in order, a camera has its frames. One that
            was absent is left out.
    """

    name: str
    series: Mapping[str, Sequence[Samples]]
    parts: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[Interval] = ()
    runs: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    is_utc: bool = True


def series_of(times_s: npt.ArrayLike, values: npt.ArrayLike) -> SampleSeries:
    """Return samples (L, C), or (L,) of one channel, with their times (L,) in seconds, ascending.

    Raise UsageError if shapes do not fit or times do not increase.
    """
    times, samples = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if times.ndim != 1 or samples.ndim != 2 or len(times) != len(samples):
        raise UsageError(
            f"series: expected times (L,) and values (L, C), got {times.shape} and {samples.shape}; fit them"
        )
    if not np.isfinite(times).all() or bool((np.diff(times) <= 0).any()):
        raise UsageError("series: expected times that increase, got others; sort them, each once")
    return SampleSeries(times=np.rint(times * SECOND_NS).astype(np.int64), values=samples)
