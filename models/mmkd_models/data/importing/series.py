"""A sensor's samples, or a camera's frames, with the time of each: collected on disk, put in order, measured.

Owns the order of times and what is said of a clock. Nothing is resampled here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_models.data.importing.recipe import Duplicates

Times = npt.NDArray[np.int64]
"""(L,) nanoseconds since 1970 in UTC, or since the start where nobody knows when that was."""
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

SECOND_NS = 1_000_000_000
_GAP_PERIODS = 3.0  # a step of more than so many usual ones is no step of the clock, whatever the declared rate
_MOST_STEPS = 2_000_000  # that are sorted for a percentile


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
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
class Frames:
    """Frames of one camera: ascending times (L,) and values uint8 (L, H, W, C)."""

    times: Times
    values: Pixels

    def __len__(self) -> int:
        return len(self.times)


Samples = Series | Frames


class Spool:
    """Collects samples of one shape in two files of a scratch folder, so that memory holds one block."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.float32 | np.uint8]) -> None:
        self._times = (folder / f"{name}.times").open("w+b")
        self._values = (folder / f"{name}.values").open("w+b")
        self._shape, self._dtype = shape, dtype
        self._count = 0

    def append(self, times: Times, values: npt.NDArray[Any]) -> None:
        """Adds samples (B, ...) at the end."""
        self._times.write(np.ascontiguousarray(times, dtype=np.int64).data)
        self._values.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._count += len(times)

    def collected(self) -> tuple[Times, npt.NDArray[Any]]:
        """Gives times (L,) and values (L, ...) of what was collected, mapped; valid until the files are closed."""
        self._times.flush()
        self._values.flush()
        if not self._count:
            return np.zeros(0, dtype=np.int64), np.zeros((0, *self._shape), dtype=self._dtype)
        times = np.memmap(self._times, dtype=np.int64, mode="r", shape=(self._count,))
        return times, np.memmap(self._values, dtype=self._dtype, mode="r", shape=(self._count, *self._shape))

    def close(self) -> None:
        """Closes and removes the files; a map that is still used keeps its content."""
        for file in (self._times, self._values):
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def in_order(series: Series, *, duplicates: Duplicates, sort: bool) -> Series:
    """Gives the series ascending, each time once.

    Args:
        duplicates: which of several samples of one time is kept; `mean` averages those that are there.
        sort: put them in order of time; those of one time keep their order.
    """
    times, values = series.times, series.values
    if sort and len(times) > 1 and bool((times[1:] < times[:-1]).any()):
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    if duplicates == "error" or len(times) < 2 or not bool((times[1:] == times[:-1]).any()):
        return Series(times=times, values=values)
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
    return Series(times=times[first], values=np.asarray(kept))


def clock_facts(series: Samples, *, max_gap_s: float | None) -> ClockFacts:
    """Measures the clock of a series or of frames.

    Args:
        max_gap_s: from which a step is a gap; None is three usual steps.
    """
    if len(series) < 2:
        return ClockFacts(samples=len(series), rate_hz=float("nan"), jitter_p99_ms=0.0, gaps=0, longest_gap_s=0.0)
    steps = np.diff(series.times).astype(np.float64) / SECOND_NS
    usual = float(np.median(steps))
    regular = steps[steps <= _GAP_PERIODS * usual]
    mean = float(regular.mean()) if len(regular) else usual
    thinned = regular[:: max(1, len(regular) // _MOST_STEPS)]
    limit = _GAP_PERIODS * usual if max_gap_s is None else max_gap_s
    return ClockFacts(
        samples=len(series),
        rate_hz=1.0 / mean if mean > 0 else float("nan"),
        jitter_p99_ms=1e3 * float(np.quantile(np.abs(thinned - mean), 0.99)) if len(thinned) else 0.0,
        gaps=int((steps > limit).sum()),
        longest_gap_s=float(steps.max()) if bool((steps > limit).any()) else 0.0,
    )
