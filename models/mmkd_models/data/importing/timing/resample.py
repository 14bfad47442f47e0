"""From samples at any times to samples at a fixed rate: nearest, linear, polyphase or held; missing stays missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_models.data.importing.recorded import (
    SECOND_NS,
    CameraFrames,
    Floats,
    ImportedSensor,
    Resample,
    Samples,
    SampleSeries,
    Times,
)
from mmkd_models.data.kinds import Values, with_present

_BLOCK_VALUES = 1 << 19
# A time this share of a period off a sample is that sample: times are written with few digits, and rates are rounded.
_SNAP = 1e-3


def sensor_blocks(given: Sequence[Samples], sensor: ImportedSensor, *, origin_ns: int, count: int) -> Iterator[Values]:
    """Yield the grid of a sensor in blocks (B, C), of a camera (B, H, W, C); one that was absent is missing throughout.

    Args:
        given: the series that hold the sensor's channels in order, or its frames.
    """
    if sensor.kind == "video":
        yield from _frame_blocks(given, sensor, origin_ns=origin_ns, count=count)
        return
    series = [one for one in given if isinstance(one, SampleSeries)]
    if not series:
        for first, last in _blocks(count, len(sensor.channels)):
            yield np.full((last - first, len(sensor.channels)), np.nan, dtype=np.float32)
        return
    parts = [
        grid_blocks(
            one,
            origin_ns=origin_ns,
            rate_hz=sensor.rate_hz,
            count=count,
            how=sensor.resample,
            native_hz=sensor.own_hz,
            max_gap_s=sensor.gap_s,
            hold_s=sensor.hold_s,
            width=sum(one.values.shape[1] for one in series),
        )
        for one in series
    ]
    for blocks in zip(*parts, strict=True):
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        # What a filter adds at the edge of full scale is no sound.
        yield np.clip(values, -1, 1) if sensor.kind == "audio" else values


def _blocks(count: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) of rows of this width that fit a block."""
    rows = max(1, _BLOCK_VALUES // max(1, width))
    return ((first, min(first + rows, count)) for first in range(0, count, rows))


def _frame_blocks(given: Sequence[Samples], sensor: ImportedSensor, *, origin_ns: int, count: int) -> Iterator[Values]:
    frames = [one for one in given if isinstance(one, CameraFrames) and len(one)]
    shape = sensor.modality(1.0).shape[1:]
    for first, last in _blocks(count, int(np.prod(shape))):
        if not frames:
            yield with_present(np.zeros((last - first, *shape), np.uint8), np.zeros(last - first, np.uint8))
            continue
        times = grid_times(origin_ns, sensor.rate_hz, first, last - first)
        chosen, near = _nearest_rows(frames[0], times, reach_ns=sensor.gap_s * SECOND_NS / 2)
        values = np.asarray(frames[0].values[chosen])
        values[~near] = 0
        let_go(frames[0].values)
        yield with_present(values, near)


def grid_times(origin_ns: int, rate_hz: float, first: int, count: int) -> Times:
    """Return int64 (count,): the times of the samples `first`... of a grid, to the nanosecond."""
    steps = np.arange(first, first + count, dtype=np.float64)
    return origin_ns + np.rint(steps * (SECOND_NS / rate_hz)).astype(np.int64)


def grid_blocks(
    series: SampleSeries,
    *,
    origin_ns: int,
    rate_hz: float,
    count: int,
    how: Resample,
    native_hz: float,
    max_gap_s: float,
    hold_s: float | None = None,
    width: int | None = None,
) -> Iterator[Floats]:
    """Yield float32 blocks (B, C), one behind the other: the series at `origin_ns + k / rate_hz`, k from 0 to `count`.

    Args:
        max_gap_s: between samples farther apart than this everything is NaN; `nearest` reaches half as far.
        width: how many channels lie in a block with those of other series; None is those of this one.
    """
    channels = series.values.shape[1]
    snap_ns = _SNAP * SECOND_NS / native_hz

    def linear(first: int, last: int, *, at_hz: float) -> Floats:
        block = np.full((last - first, channels), np.nan, dtype=np.float32)
        times = grid_times(origin_ns, at_hz, first, last - first)
        _linear(series, times, block, gap_ns=max_gap_s * SECOND_NS, snap_ns=snap_ns)
        return block

    filtered = None
    if how == "polyphase" and len(series):
        filtered = Polyphase(
            lambda first, last: linear(first, last, at_hz=native_hz),
            channels=channels,
            count=count,
            native_hz=native_hz,
            rate_hz=rate_hz,
        )
    # A filter reads more samples than it gives.
    read = max(1, math.ceil(native_hz / rate_hz)) if filtered is not None else 1
    for first, last in _blocks(count, (width or channels) * read):
        block = np.full((last - first, channels), np.nan, dtype=np.float32)
        times = grid_times(origin_ns, rate_hz, first, last - first)
        if filtered is not None:
            block = filtered.block(first, last)
        elif how == "hold" and len(series):
            assert hold_s is not None  # the recipe's check
            _hold(series, times, block, reach_ns=hold_s * SECOND_NS, snap_ns=snap_ns)
        elif how == "nearest" and len(series):
            _nearest(series, times, block, reach_ns=max_gap_s * SECOND_NS / 2)
        elif len(series):
            block = linear(first, last, at_hz=rate_hz)
        let_go(series.times)
        let_go(series.values)
        yield block


def _around(series: Samples, times: Times) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The sample at or before each time and the one after it, both inside the series."""
    last = len(series) - 1
    # Searching the whole series would read it from end to end, for a block of it.
    low, high = np.searchsorted(series.times, times[[0, -1]], side="right").tolist() if len(times) else (0, 0)
    after = low + np.searchsorted(series.times[low:high], times, side="right")
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _nearest(series: SampleSeries, times: Times, block: Floats, *, reach_ns: float) -> None:
    chosen, near = _nearest_rows(series, times, reach_ns=reach_ns)
    block[near] = series.values[chosen[near]]


def _nearest_rows(
    series: Samples, times: Times, *, reach_ns: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The sample nearest to each time, and whether it is within reach."""
    before, after = _around(series, times)
    to_before, to_after = np.abs(times - series.times[before]), np.abs(series.times[after] - times)
    return np.where(to_after < to_before, after, before), np.minimum(to_before, to_after) <= reach_ns


def _hold(series: SampleSeries, times: Times, block: Floats, *, reach_ns: float, snap_ns: float) -> None:
    before, _ = _around(series, times + int(np.ceil(snap_ns)))
    age = times - series.times[before]
    fresh = (age >= -np.ceil(snap_ns)) & (age <= reach_ns)
    block[fresh] = series.values[before[fresh]]


def _linear(series: SampleSeries, times: Times, block: Floats, *, gap_ns: float, snap_ns: float) -> None:
    before, after = _around(series, times)
    start, end = series.times[before], series.times[after]
    inside = (start <= times) & (times <= end) & (end - start <= gap_ns) & (end > start)
    share = np.where(inside, (times - start) / np.maximum(end - start, 1), 0.0)[:, None]
    low, high = series.values[before], series.values[after]
    mixed = (low + share * (high.astype(np.float64) - low)).astype(np.float32)
    block[inside] = mixed[inside]
    for place, at in ((low, start), (high, end)):
        exact = np.abs(times - at) <= snap_ns
        block[exact] = place[exact]


_LARGEST_FACTOR = 1000  # of up- and downsampling
_REACH = 10  # periods of the lower rate, as `resample_poly` designs its filter
_SCAN = 1 << 18

_Known = tuple[int, float]
"""The number of a sample and its value."""


class Polyphase:
    """A resampling whose blocks are asked for from first to last."""

    def __init__(
        self, native: Callable[[int, int], Floats], *, channels: int, count: int, native_hz: float, rate_hz: float
    ) -> None:
        """Look for the first and the last value of each channel.

        Args:
            native: gives the samples of these numbers (B, C) at `native_hz`, NaN for missing.
            count: samples that there will be at `rate_hz`.
        """
        self._native, self._step = native, native_hz / rate_hz
        ratio = Fraction(rate_hz / native_hz).limit_denominator(_LARGEST_FACTOR)
        self._up, self._down = ratio.numerator, ratio.denominator
        self._length = int(np.ceil(count * native_hz / rate_hz)) + 1
        self._first = [self._known_from(channel, 0) for channel in range(channels)]
        self._last = [self._known_before(channel) for channel in range(channels)]
        self._next = list(self._first)
        nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        self._seen: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = [nothing] * channels

    def block(self, first: int, last: int) -> Floats:
        """Return the samples `first` to `last` (exclusive) at the new rate (B, C)."""
        from scipy.signal import resample_poly

        reach = _REACH * max(self._up, self._down)  # in steps that samples of both rates are whole numbers of
        # A start at a multiple of `down` falls on a sample of the new rate.
        start = (first * self._down - reach) // self._up // self._down * self._down
        end = (last * self._down + reach) // self._up + 2
        native = self._native(max(0, start), min(end, self._length))
        place = np.rint(np.arange(first, last) * self._step).astype(np.int64)
        there = native[np.clip(place - max(0, start), 0, len(native) - 1)]
        skipped = first - start // self._down * self._up
        filtered = np.stack(
            [
                resample_poly(self._extended(native[:, channel], channel, start, end), self._up, self._down)[
                    skipped : skipped + last - first
                ]
                for channel in range(native.shape[1])
            ],
            axis=1,
        )
        return np.where(np.isnan(there), np.nan, filtered).astype(np.float32)

    def _extended(self, values: Floats, channel: int, start: int, end: int) -> npt.NDArray[np.float64]:
        """Samples `start` to `end`; before the first and behind the last one of all on the line through both."""
        bridged = self._bridged(values, channel, max(0, start))
        first, last = self._first[channel], self._last[channel]
        if first is None or last is None:
            return np.zeros(end - start)
        slope = (last[1] - first[1]) / max(1, self._length - 1)
        before, after = np.arange(start, 0), np.arange(self._length, end)
        return np.concatenate([first[1] + slope * before, bridged, first[1] + slope * after])

    def _bridged(self, values: Floats, channel: int, start: int) -> npt.NDArray[np.float64]:
        """Samples from `start` on, those missing on the line from the last value before them to the next one."""
        end = start + len(values)
        here = np.flatnonzero(~np.isnan(values))
        places, numbers = start + here, values[here].astype(np.float64)
        seen_at, seen = self._seen[channel]
        earlier = int(np.searchsorted(seen_at, start))
        if earlier:
            places = np.concatenate([seen_at[earlier - 1 : earlier], places])
            numbers = np.concatenate([seen[earlier - 1 : earlier], numbers])
        if not len(here) or here[-1] < len(values) - 1:
            after = self._next[channel]
            if after is not None and after[0] < end:
                after = self._next[channel] = self._known_from(channel, end)
            if after is not None:
                places, numbers = np.append(places, after[0]), np.append(numbers, after[1])
        self._seen[channel] = places, numbers
        return np.interp(np.arange(start, end), places, numbers) if len(places) else np.zeros(len(values))

    def _known_from(self, channel: int, start: int) -> _Known | None:
        for first in range(start, self._length, _SCAN):
            values = self._native(first, min(first + _SCAN, self._length))[:, channel]
            here = np.flatnonzero(~np.isnan(values))
            if len(here):
                return first + int(here[0]), float(values[here[0]])
        return None

    def _known_before(self, channel: int) -> _Known | None:
        for last in range(self._length, 0, -_SCAN):
            first = max(0, last - _SCAN)
            values = self._native(first, last)[:, channel]
            here = np.flatnonzero(~np.isnan(values))
            if len(here):
                return first + int(here[-1]), float(values[here[-1]])
        return None
