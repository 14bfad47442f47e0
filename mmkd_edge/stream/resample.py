"""Timed samples (of video: frame numbers) become rows at the declared rate, despite jitter, gaps and clock changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec

Sample = tuple[float, NDArray[np.float32]]

# Fraction of a period by which a grid point may follow its sample, so that rounding does not wait for the next.
_SNAP = 0.01
# The measured rate is the median of so many intervals, of at least the second number.
_INTERVALS = 64
_MIN_INTERVALS = 8
_PENDING = 8  # frames that a time line and a grid hold
_NUMBERS = 1 << 23  # exact in float32
_MAX_WINDOWS = 64  # of frames, for a camera that is faster than the student


class RisingSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Times (n,) float64 s that rise by at most `limit_s`, and rows (n, C) float32; perhaps of a new time line."""

    restart: bool
    times: NDArray[np.float64]
    rows: NDArray[np.float32]


class TimeLine:
    """Puts samples into one rising time line; drops duplicates and late samples.

    A jump of more than `limit_s` begins a new line if the next sample follows it; if that follows the old line, the
    jump is dropped.
    """

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: float | None = None
        self._suspect: tuple[float, NDArray[np.float32]] | None = None
        self.duplicates = self.late = self.strays = self.restarts = 0

    def put(self, times: NDArray[np.float64], rows: NDArray[np.float32]) -> Iterator[RisingSamples]:
        """Take samples; yield those whose place is certain, in order."""
        if self._is_plain(times):
            self._last = float(times[-1])
            yield RisingSamples(restart=False, times=times, rows=rows)
        else:
            yield from self._runs(zip(times.tolist(), rows, strict=True))

    def _is_plain(self, times: NDArray[np.float64]) -> bool:
        if self._last is None or self._suspect is not None or times.size == 0:
            return False
        steps = np.diff(times, prepend=self._last)  # NaN fails the comparisons
        return bool((steps > 0).all() and (steps <= self._limit_s).all())

    def _runs(self, samples: Iterable[Sample]) -> Iterator[RisingSamples]:
        times: list[float] = []
        rows: list[NDArray[np.float32]] = []
        restart = False
        for time, row in samples:
            for begins, placed_time, placed_row in self._place(time, row):
                if begins:
                    if times:
                        yield RisingSamples(restart=restart, times=np.array(times), rows=np.stack(rows))
                    times, rows, restart = [], [], True
                times.append(placed_time)
                rows.append(placed_row)
        if times:
            yield RisingSamples(restart=restart, times=np.array(times), rows=np.stack(rows))

    def _place(self, time: float, row: NDArray[np.float32]) -> list[tuple[bool, float, NDArray[np.float32]]]:
        """What a sample adds to the line: nothing, itself, or the suspect before it and itself."""
        if not math.isfinite(time):
            self.strays += 1
            return []
        last, suspect = self._last, self._suspect
        if last is None:
            self._last = time
            return [(True, time, row)]
        if 0 < time - last <= self._limit_s:
            self.strays += suspect is not None
            self._last, self._suspect = time, None
            return [(False, time, row)]
        if suspect is not None and 0 < time - suspect[0] <= self._limit_s:
            self._last, self._suspect = time, None
            self.restarts += 1
            return [(True, *suspect), (False, time, row)]
        if time == last:
            self.duplicates += 1
        elif -self._limit_s <= time - last < 0:
            self.late += 1
        else:
            self.strays += suspect is not None
            self._suspect = (time, row.copy())
        return []


class Grid:
    """Rows at the declared rate between one time line's samples.

    Row k is at `origin_s + k / rate_hz`. Between two present samples at most `gap_s` apart a channel is interpolated
    linearly (frames are not); otherwise it is the sample within half a period, or NaN.
    """

    def __init__(
        self, *, rate_hz: float, gap_s: float, origin_s: float, row: NDArray[np.float32], interpolates: bool = True
    ) -> None:
        self._interpolates = interpolates
        self._rate_hz = rate_hz
        self._gap_s = gap_s
        self._origin_s = origin_s
        self._times = np.array([origin_s])  # of the sample before and of those that were put
        self._rows = np.array(row, dtype=np.float32)[None]
        self._recent = np.empty(0)  # times before, for the measured rate
        self._next = 1  # row 0 is the first sample itself

    def put(self, times: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
        """Take the next samples, after all earlier rows."""
        self._recent = np.concatenate([self._recent, self._times[:-1]])[-_INTERVALS:]
        self._times = np.concatenate([self._times[-1:], times])
        self._rows = np.concatenate([self._rows[-1:], rows])

    def take(self, most: int) -> NDArray[np.float32]:
        """Return the next rows that the samples allow, at most `most`: (m, C)."""
        stop = min(self._next + most, self._ready())
        points = self._origin_s + np.arange(self._next, max(stop, self._next)) / self._rate_hz  # (m,)
        self._next = max(stop, self._next)
        right = self._right(points)
        before, after = self._times[right - 1], self._times[right]
        weight = np.minimum((points - before) / (after - before), 1.0)[:, None]  # (m, 1)
        low, high = self._rows[right - 1], self._rows[right]  # (m, C)
        near = np.where(weight < 0.5, low, high)
        close = np.minimum(points - before, np.abs(after - points))[:, None] <= 0.5 / self._rate_hz * (1 + _SNAP)
        joined = (after - before <= self._gap_s)[:, None] & np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore", over="ignore"):  # one of the two may be missing
            between = (low * (1.0 - weight) + high * weight).astype(np.float32)
        return np.where(joined & self._interpolates, between, np.where(close, near, np.float32(np.nan)))

    def point_s(self, number: int) -> float:
        """Return the time of a row."""
        return self._origin_s + number / self._rate_hz

    def rate_hz(self) -> float | None:
        """Return the samples' rate before the last row; None with too few."""
        end = int(self._right(np.array([self.point_s(self._next - 1)]))[0]) + 1
        times = np.concatenate([self._recent, self._times[:end]])[-_INTERVALS - 1 :]
        if len(times) <= _MIN_INTERVALS:
            return None
        intervals = sorted(np.diff(times).tolist())
        return 1.0 / float(intervals[len(intervals) // 2])

    def _right(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """The sample at or after each point, at least the second."""
        found = np.searchsorted(self._times, points - _SNAP / self._rate_hz, side="left")
        return np.clip(found, 1, max(1, len(self._times) - 1))

    def _ready(self) -> int:
        """One more than the last row that the samples allow."""
        newest = float(self._times[-1]) + _SNAP / self._rate_hz
        number = max(self._next, int((newest - self._origin_s) * self._rate_hz))
        while self.point_s(number) <= newest:
            number += 1
        while number > self._next and self.point_s(number - 1) > newest:
            number -= 1
        return number


class FrameNumbers:
    """A stream's last frames by number, in constant memory."""

    def __init__(self, modality: ModalitySpec) -> None:
        self.most = modality.samples
        self._shape = modality.shape[1:]
        self._bound = _MAX_WINDOWS * modality.samples + _PENDING
        self._frames: dict[int, NDArray[np.uint8]] = {}  # in the order in which they came
        self._next = 0

    def put(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Copy at most `most` frames (n, H, W, C); return their numbers, float32 (n, 1), NaN = missing."""
        numbers = np.full(len(frames), np.nan, dtype=np.float32)
        for row, (frame, is_missing) in enumerate(zip(frame_bytes(frames), missing_frames(frames), strict=True)):
            if not is_missing:
                numbers[row] = self._next
                self._frames[self._next] = frame.copy()
                self._next = (self._next + 1) % _NUMBERS
        self._drop(len(self._frames) - self._bound)
        return numbers[:, None]

    def forget_before(self, numbers: NDArray[np.float32]) -> None:
        """Drop frames older than all these numbers (T, 1), except those that may still wait."""
        needed = {int(number) for number in numbers[:, 0] if not np.isnan(number)}
        first = next((place for place, number in enumerate(self._frames) if number in needed), 0)
        self._drop(first - _PENDING)

    def window(self, numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return a new array (T, H, W, C) of these numbers' frames (T, 1), masked where missing."""
        frames = np.zeros((len(numbers), *self._shape), dtype=np.uint8)
        missing = np.ones(len(numbers), dtype=bool)
        for row, number in enumerate(numbers[:, 0].tolist()):
            frame = None if np.isnan(number) else self._frames.get(int(number))
            if frame is not None:
                frames[row], missing[row] = frame, False
        return mask_missing(frames, missing)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            del self._frames[next(iter(self._frames))]
