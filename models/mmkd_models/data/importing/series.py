"""A sensor's samples, or a camera's frames, with the time of each: collected on disk, put in order, measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_models.data.importing.recipe import Duplicates

Times = npt.NDArray[np.int64]
"""(L,) nanoseconds since 1970 in UTC, or since the start where nobody knows when that was."""
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

SECOND_NS = 1_000_000_000
_GAP_PERIODS = 3.0  # a step of more than so many usual ones is no step of the clock, whatever the declared rate
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
        gaps: steps of more than `max_gap_s`.
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
        sort: put them in order of time; those of one time keep their order.
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
    limit = _GAP_PERIODS * usual if max_gap_s is None else max_gap_s
    for start in range(0, count - 1, _BLOCK_STEPS):
        steps = np.diff(series.times[start : start + _BLOCK_STEPS + 1]).astype(np.float64) / SECOND_NS
        kept = steps[steps <= _GAP_PERIODS * usual]
        regular, total = regular + len(kept), total + float(kept.sum())
        gaps, longest = gaps + int((steps > limit).sum()), max(longest, float(steps.max()))
        let_go(series.times)
    mean = total / regular if regular else usual
    thinned = thinned[thinned <= _GAP_PERIODS * usual]
    return ClockFacts(
        samples=count,
        rate_hz=1.0 / mean if mean > 0 else float("nan"),
        jitter_p99_ms=1e3 * float(np.quantile(np.abs(thinned - mean), 0.99)) if len(thinned) else 0.0,
        gaps=gaps,
        longest_gap_s=longest if gaps else 0.0,
    )
