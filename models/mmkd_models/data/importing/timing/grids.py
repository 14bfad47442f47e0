"""Recordings at the dataset's rates, end to end, one scratch file a sensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.keys import refuse_more
from mmkd_models.data.importing.recording import (
    SECOND_NS,
    ImportedRecording,
    ImportedSensor,
    Interval,
    SampleSeries,
    Times,
)
from mmkd_models.data.spec import Values, frame_presence, with_present
from mmkd_models.data.windows import Floats, Rows

_BLOCK_VALUES = 1 << 19
# A time this fraction of a period off a sample is that sample: times have few digits, and rates are rounded.
_SNAP = 1e-3
_LARGEST_FACTOR = 1000  # of up- and downsampling
_REACH = 10  # periods of the lower rate, as `resample_poly` designs its filter


def sensor_blocks(
    series: Sequence[SampleSeries], sensor: ImportedSensor, *, origin_ns: int, count: int
) -> Iterator[Values]:
    """Yield a sensor's grid in blocks (B, C), of a camera (B, H, W, C), all missing if it is absent."""
    if sensor.kind == "video":
        yield from _frame_blocks(series, sensor, origin_ns=origin_ns, count=count)
        return
    nothing = np.zeros((0, len(sensor.channels)), dtype=np.float32)
    parts = series or [SampleSeries(times=np.zeros(0, dtype=np.int64), values=nothing)]
    for blocks in zip(*(grid_blocks(part, sensor, origin_ns=origin_ns, count=count) for part in parts), strict=True):
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        # A filter may add a little at the edge of full scale.
        yield np.clip(values, -1, 1) if sensor.kind == "audio" else values


def _block_rows(count: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _BLOCK_VALUES // max(1, width))
    return ((first, min(first + rows, count)) for first in range(0, count, rows))


def _frame_blocks(
    series: Sequence[SampleSeries], sensor: ImportedSensor, *, origin_ns: int, count: int
) -> Iterator[Values]:
    shape = sensor.modality(1.0).shape[1:]
    for first, last in _block_rows(count, math.prod(shape)):
        values, is_near = np.zeros((last - first, *shape), np.uint8), np.zeros(last - first, dtype=bool)
        if series and len(series[0]):
            times = _grid_times(origin_ns, sensor.rate_hz, first, last)
            nearest, is_near = _nearest_rows(series[0], times, reach_ns=sensor.gap_s * SECOND_NS / 2)
            values[is_near] = series[0].values[nearest[is_near]]
            let_go(series[0].values)
        yield with_present(values, is_near.astype(np.uint8))


def _grid_times(origin_ns: int, rate_hz: float, first: int, last: int) -> Times:
    times: Times = np.rint(np.arange(first, last) * (SECOND_NS / rate_hz)).astype(np.int64)
    return origin_ns + times


def grid_blocks(series: SampleSeries, sensor: ImportedSensor, *, origin_ns: int, count: int) -> Iterator[Floats]:
    """Yield the series at `origin_ns + k / rate_hz`, k from 0 to `count`, in blocks float32 (B, C).

    Between samples farther apart than the longest gap everything is NaN; `nearest` reaches half as far.
    """
    channels, gap_ns = series.values.shape[1], sensor.gap_s * SECOND_NS
    snap_ns = _SNAP * SECOND_NS / sensor.own_hz

    def linear(first: int, last: int, rate_hz: float) -> Floats:
        block = np.full((last - first, channels), np.nan, dtype=np.float32)
        times = _grid_times(origin_ns, rate_hz, first, last)
        if len(series) and len(times):
            _linear(series, times, block, gap_ns=gap_ns, snap_ns=snap_ns)
        return block

    # A filter reads more samples than it returns.
    read = max(1, math.ceil(sensor.own_hz / sensor.rate_hz)) if sensor.resample == "polyphase" else 1
    for first, last in _block_rows(count, len(sensor.channels) * read):
        times = _grid_times(origin_ns, sensor.rate_hz, first, last)
        block = np.full((last - first, channels), np.nan, dtype=np.float32)
        if sensor.resample == "polyphase":
            block = _polyphase(lambda start, end: linear(start, end, sensor.own_hz), first, last, count, sensor)
        elif sensor.resample == "linear":
            block = linear(first, last, sensor.rate_hz)
        elif sensor.resample == "nearest" and len(series):
            chosen, is_near = _nearest_rows(series, times, reach_ns=gap_ns / 2)
            block[is_near] = series.values[chosen[is_near]]
        elif len(series):
            assert sensor.hold_s is not None  # the recipe's check
            _hold(series, times, block, reach_ns=sensor.hold_s * SECOND_NS, snap_ns=snap_ns)
        let_go(series.times)
        let_go(series.values)
        yield block


def _around(series: SampleSeries, times: Times) -> tuple[Rows, Rows]:
    last = len(series) - 1
    # Searching the whole series would read it from end to end, for a block of it.
    low, high = np.searchsorted(series.times, times[[0, -1]], side="right").tolist()
    after = low + np.searchsorted(series.times[low:high], times, side="right")
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _nearest_rows(series: SampleSeries, times: Times, *, reach_ns: float) -> tuple[Rows, npt.NDArray[np.bool_]]:
    before, after = _around(series, times)
    to_before, to_after = np.abs(times - series.times[before]), np.abs(series.times[after] - times)
    return np.where(to_after < to_before, after, before), np.minimum(to_before, to_after) <= reach_ns


def _hold(series: SampleSeries, times: Times, block: Floats, *, reach_ns: float, snap_ns: float) -> None:
    before, _ = _around(series, times + int(np.ceil(snap_ns)))
    age = times - series.times[before]
    is_fresh = (age >= -np.ceil(snap_ns)) & (age <= reach_ns)
    block[is_fresh] = series.values[before[is_fresh]]


def _linear(series: SampleSeries, times: Times, block: Floats, *, gap_ns: float, snap_ns: float) -> None:
    before, after = _around(series, times)
    start, end = series.times[before], series.times[after]
    inside = (start <= times) & (times <= end) & (end - start <= gap_ns) & (end > start)
    fraction = np.where(inside, (times - start) / np.maximum(end - start, 1), 0.0)[:, None]
    low, high = series.values[before], series.values[after]
    mixed = (low + fraction * (high.astype(np.float64) - low)).astype(np.float32)
    block[inside] = mixed[inside]
    for values, at in ((low, start), (high, end)):
        exact = np.abs(times - at) <= snap_ns
        block[exact] = values[exact]


def _polyphase(
    native: Callable[[int, int], Floats], first: int, last: int, count: int, sensor: ImportedSensor
) -> Floats:
    """Return filtered samples `first` to `last` of `count` (B, C); `native` reads those at the sensor's own rate."""
    from scipy.signal import resample_poly

    step = sensor.own_hz / sensor.rate_hz
    ratio = Fraction(1 / step).limit_denominator(_LARGEST_FACTOR)
    up, down, length = ratio.numerator, ratio.denominator, math.ceil(count * step) + 1
    # Twice the filter's reach, so that blocks agree where missing samples are filled; from a multiple of `down` on,
    # which falls on a sample of the new rate.
    reach = 2 * _REACH * max(up, down)
    start, end = (first * down - reach) // up // down * down, (last * down + reach) // up + 2
    inside = max(0, start), min(end, length)
    samples = native(*inside)
    samples = np.pad(samples, ((inside[0] - start, end - inside[1]), (0, 0)), constant_values=np.nan)
    skipped = first - start // down * up
    filtered = resample_poly(_fill_missing(samples), up, down, axis=0)[skipped : skipped + last - first]
    place = np.rint(np.arange(first, last) * step).astype(np.int64)
    return np.where(np.isnan(samples[place - start]), np.nan, filtered).astype(np.float32)


def _fill_missing(samples: Floats) -> npt.NDArray[np.float64]:
    filled = np.zeros(samples.shape)
    for channel, values in enumerate(samples.T):
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            middles = (known[1:] + known[:-1]) / 2
            filled[:, channel] = values[known[np.searchsorted(middles, np.arange(len(values)))]]
    return filled


_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class GridRecording:
    """A recording in the grids; `first` is its first sample by sensor."""

    name: str
    parts: Mapping[str, str]
    labels: Sequence[Interval]
    runs: Mapping[str, Sequence[Interval]]
    is_utc: bool
    origin_ns: int
    first: Mapping[str, int]
    lengths: Mapping[str, int]
    absent: tuple[str, ...]


class Grids:
    """Grids of all recordings, in files of a folder."""

    def __init__(
        self,
        folder: Path,
        sensors: Sequence[ImportedSensor],
        *,
        cover: Literal["all", "any"],
        filled: Mapping[str, int] = {},
        most_bytes: int | None = None,
    ) -> None:
        """Open the files to add behind the `filled` samples."""
        self.sensors, self.most_bytes = sensors, most_bytes
        self._cover, self._folder = cover, folder
        self.filled = {sensor.name: filled.get(sensor.name, 0) for sensor in sensors}
        self._files: dict[str, BinaryIO] = {}
        for sensor in sensors:
            count = self.filled[sensor.name]
            self._open(sensor.name, count * _sample_bytes(sensor))
            if sensor.kind == "video":
                self._open(f"{sensor.name}.present", count)

    def _open(self, name: str, size_bytes: int) -> None:
        file = self._file(name).open("r+b" if size_bytes else "w+b")
        file.truncate(size_bytes)
        file.seek(size_bytes)
        self._files[name] = file

    def add(self, recording: ImportedRecording) -> GridRecording:
        """Append a recording. Raise DatasetError or UsageError if its samples do not fit."""
        for name in recording.series:
            if name not in self._files:
                raise UsageError(
                    f"{recording.name}: sensor {name!r}: expected one of 'sensors', got another; describe it there"
                )
        first_ns, last_ns = self._span_ns(recording)
        first, seconds = dict(self.filled), max(0, last_ns - first_ns) / SECOND_NS
        lengths = {sensor.name: int(np.floor(seconds * sensor.rate_hz + 1e-3)) + 1 for sensor in self.sensors}
        for sensor in self.sensors:
            # A filter first needs a grid at the native rate.
            factor = max(1.0, sensor.own_hz / sensor.rate_hz) if sensor.resample == "polyphase" else 1.0
            refuse_more(
                round((self.filled[sensor.name] + factor * lengths[sensor.name]) * _sample_bytes(sensor)),
                self.most_bytes,
                where=f"{recording.name}: sensor {sensor.name!r}",
                what=f"{seconds:g} s at {factor * sensor.rate_hz:g} Hz",
                cure="correct the times or 'resample_hz'",
            )
        for sensor in self.sensors:
            self._append(recording, sensor, origin_ns=first_ns, count=lengths[sensor.name])
        self.filled = {name: first[name] + lengths[name] for name in first}
        return GridRecording(
            name=recording.name,
            parts=recording.parts,
            labels=recording.labels,
            runs=recording.runs,
            is_utc=recording.is_utc,
            origin_ns=first_ns,
            first=first,
            lengths=lengths,
            absent=tuple(sensor.name for sensor in self.sensors if not recording.series.get(sensor.name)),
        )

    def _append(self, recording: ImportedRecording, sensor: ImportedSensor, *, origin_ns: int, count: int) -> None:
        shape = sensor.modality(1.0).shape[1:]
        for block in sensor_blocks(recording.series.get(sensor.name, ()), sensor, origin_ns=origin_ns, count=count):
            if block.shape[1:] != shape:
                raise UsageError(
                    f"{recording.name}: sensor {sensor.name!r}: expected samples of shape {shape}, got"
                    f" {block.shape[1:]}; give one column for each channel"
                )
            self._files[sensor.name].write(np.ascontiguousarray(block.view(np.ndarray)).data)
            if sensor.kind == "video":
                present = frame_presence(block)
                here = np.ones(len(block), dtype=np.uint8) if present is None else present
                self._files[f"{sensor.name}.present"].write(here.data)

    def _span_ns(self, recording: ImportedRecording) -> tuple[int, int]:
        # Channels that report on change begin at any time: one present channel makes a sensor present.
        times = [[series.times for series in parts if len(series)] for parts in recording.series.values()]
        firsts = [min(int(channel[0]) for channel in channels) for channels in times if channels]
        lasts = [max(int(channel[-1]) for channel in channels) for channels in times if channels]
        if not firsts:
            raise DatasetError(f"{recording.name}: expected samples, got none; remove the recording")
        return (max(firsts), min(lasts)) if self._cover == "all" else (min(firsts), max(lasts))

    def secure(self) -> None:
        """Wait until everything added is on disk."""
        for file in self._files.values():
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())

    def map_arrays(self) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
        """Map each sensor's samples (L, ...), and for cameras which frames are present (L,)."""
        samples: dict[str, AnyArray] = {}
        present: dict[str, AnyArray] = {}
        for file in self._files.values():
            file.flush()
        for sensor in self.sensors:
            modality = sensor.modality(1.0)
            if not self.filled[sensor.name]:
                samples[sensor.name] = np.zeros((0, *modality.shape[1:]), dtype=modality.dtype)
                continue
            flat = np.memmap(self._file(sensor.name), dtype=modality.dtype, mode="r")
            samples[sensor.name] = flat.reshape(-1, *modality.shape[1:])
            if sensor.kind == "video":
                present[sensor.name] = np.memmap(self._file(f"{sensor.name}.present"), dtype=np.uint8, mode="r")
        return samples, present

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.grid"

    def __enter__(self) -> Grids:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def _sample_bytes(sensor: ImportedSensor) -> int:
    modality = sensor.modality(1.0)
    return math.prod(modality.shape[1:]) * np.dtype(modality.dtype).itemsize


def sums_before(grid: AnyArray, rows: Rows, measure: Callable[[AnyArray], npt.ArrayLike]) -> npt.NDArray[np.float64]:
    """Return the sum of `measure` (B,) over all grid rows before each of `rows`."""
    rows = np.minimum(rows, len(grid))
    sums, total = np.zeros(rows.shape), 0.0
    for start in range(0, len(grid), _BLOCK_ROWS):
        block = np.asarray(grid[start : start + _BLOCK_ROWS])
        running = np.concatenate([[total], total + np.cumsum(measure(block), dtype=np.float64)])
        here = (rows > start) & (rows <= start + len(block))
        sums[here] = running[rows[here] - start]
        total = float(running[-1])
        let_go(grid)
    return sums
