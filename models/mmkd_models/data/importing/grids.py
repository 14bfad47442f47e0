"""Recordings at the dataset's rates, end to end, one scratch file a sensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.arrays import let_go
from mmkd_models.data.checking.related import time_text
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.clock import SECOND_NS, Interval, SampleSeries, Times
from mmkd_models.data.importing.keys import refuse_more
from mmkd_models.data.importing.source import ImportedSensor
from mmkd_models.data.spec import Values, frame_presence, with_present
from mmkd_models.data.windows import Floats, Rows

_BLOCK_VALUES = 1 << 19
# A time this fraction of a period off a sample is that sample: times have few digits, and rates are rounded.
_SNAP = 1e-3
_LARGEST_FACTOR = 1000  # of up- and downsampling
_REACH = 10  # periods of the lower rate, as `resample_poly` designs its filter
_BLOCK_ROWS = 1 << 16


def sensor_blocks(
    series: Sequence[SampleSeries], sensor: ImportedSensor, *, origin_ns: int, count: int
) -> Iterator[Values]:
    """Yield a sensor's grid in blocks (B, C), of a camera (B, H, W, C), all missing if it is absent."""
    if sensor.source.modality_kind == "video":
        shape = sensor.modality(1.0).shape[1:]
        for first, last in _block_rows(count, math.prod(shape)):
            frames, is_near = np.zeros((last - first, *shape), np.uint8), np.zeros(last - first, dtype=bool)
            if series and len(series[0]):
                times = _grid_times(origin_ns, sensor.rate_hz, first, last)
                before, after = _around(series[0], times)
                to_before, to_after = times - series[0].times[before], series[0].times[after] - times
                to_before, to_after = np.abs(to_before), np.abs(to_after)
                is_near = np.minimum(to_before, to_after) <= sensor.gap_s * SECOND_NS / 2
                frames[is_near] = series[0].values[np.where(to_after < to_before, after, before)[is_near]]
                let_go(series[0].values)
            yield with_present(frames, is_near.astype(np.uint8))
        return
    nothing = np.zeros((0, len(sensor.columns)), dtype=np.float32)
    parts = series or [SampleSeries(times=np.zeros(0, dtype=np.int64), values=nothing)]
    for blocks in zip(*(grid_blocks(part, sensor, origin_ns=origin_ns, count=count) for part in parts), strict=True):
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        # A filter may add a little at the edge of full scale.
        yield np.clip(values, -1, 1) if sensor.source.modality_kind == "audio" else values


def _block_rows(count: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _BLOCK_VALUES // max(1, width))
    return ((first, min(first + rows, count)) for first in range(0, count, rows))


def _grid_times(origin_ns: int, rate_hz: float, first: int, last: int) -> Times:
    times: Times = np.rint(np.arange(first, last) * (SECOND_NS / rate_hz)).astype(np.int64)
    return origin_ns + times


def grid_blocks(series: SampleSeries, sensor: ImportedSensor, *, origin_ns: int, count: int) -> Iterator[Floats]:
    """Yield the series at `origin_ns + k / rate_hz`, k from 0 to `count`, in blocks float32 (B, C).

    Between samples farther apart than the longest gap everything is NaN.
    """
    channels, gap_ns = series.values.shape[1], sensor.gap_s * SECOND_NS
    snap_ns = _SNAP * SECOND_NS / sensor.native_hz

    def linear(first: int, last: int, rate_hz: float) -> Floats:
        block = np.full((last - first, channels), np.nan, dtype=np.float32)
        times = _grid_times(origin_ns, rate_hz, first, last)
        if not (len(series) and len(times)):
            return block
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
        return block

    # A filter reads more samples than it returns.
    read = max(1, math.ceil(sensor.native_hz / sensor.rate_hz)) if sensor.resample == "polyphase" else 1
    for first, last in _block_rows(count, len(sensor.columns) * read):
        times = _grid_times(origin_ns, sensor.rate_hz, first, last)
        block = np.full((last - first, channels), np.nan, dtype=np.float32)
        if sensor.resample == "polyphase":
            block = _polyphase(lambda start, end: linear(start, end, sensor.native_hz), first, last, count, sensor)
        elif sensor.resample == "linear":
            block = linear(first, last, sensor.rate_hz)
        elif len(series):
            assert sensor.source.hold_s is not None
            before, _ = _around(series, times + int(np.ceil(snap_ns)))
            age = times - series.times[before]
            is_fresh = (age >= -np.ceil(snap_ns)) & (age <= sensor.source.hold_s * SECOND_NS)
            block[is_fresh] = series.values[before[is_fresh]]
        let_go(series.times)
        let_go(series.values)
        yield block


def _around(series: SampleSeries, times: Times) -> tuple[Rows, Rows]:
    last = len(series) - 1
    # Searching the whole series would read it from end to end, for a block of it.
    low, high = np.searchsorted(series.times, times[[0, -1]], side="right").tolist()
    after = low + np.searchsorted(series.times[low:high], times, side="right")
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _polyphase(
    native: Callable[[int, int], Floats], first: int, last: int, count: int, sensor: ImportedSensor
) -> Floats:
    """Return filtered samples `first` to `last` of `count` (B, C); `native` reads those at the sensor's own rate."""
    from scipy.signal import resample_poly

    step = sensor.native_hz / sensor.rate_hz
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
    filled = np.zeros(samples.shape)  # what is missing has the value of the nearest sample
    for channel, values in enumerate(samples.T):
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            middles = (known[1:] + known[:-1]) / 2
            filled[:, channel] = values[known[np.searchsorted(middles, np.arange(len(values)))]]
    filtered = resample_poly(filled, up, down, axis=0)[skipped : skipped + last - first]
    place = np.rint(np.arange(first, last) * step).astype(np.int64)
    return np.where(np.isnan(samples[place - start]), np.nan, filtered).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class GridRecording:
    """A recording in the grids: by sensor its first sample and time span, by column its intervals of constant value."""

    name: str
    runs: Mapping[str, Sequence[Interval]]
    is_utc: bool
    origin_ns: int
    first: Mapping[str, int]
    lengths: Mapping[str, int]
    absent: tuple[str, ...]
    empty: Sequence[str] = ()
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[Interval] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def time_text(self, time_ns: int, timespec: str = "seconds") -> str:
        """Return a time as UTC, or as seconds since a start."""
        return time_text(time_ns / SECOND_NS, timespec) if self.is_utc else f"{time_ns / SECOND_NS:g} s"

    @property
    def shares_no_time(self) -> bool:
        """Whether one sensor begins after another ends."""
        return max(first for first, _ in self.spans.values()) > min(last for _, last in self.spans.values())


class Grids:
    """Grids of all recordings, in files of a folder."""

    def __init__(
        self,
        folder: Path,
        sensors: Sequence[ImportedSensor],
        *,
        cover: Literal["all", "any"],
        filled: Mapping[str, int] = {},
        most_bytes: int,
        window_bytes_per_s: float,
    ) -> None:
        self.sensors, self.most_bytes, self._window_bytes_per_s = sensors, most_bytes, window_bytes_per_s
        self._cover, self._folder = cover, folder
        self.filled = {sensor.name: filled.get(sensor.name, 0) for sensor in sensors}
        self._files: dict[str, BinaryIO] = {}
        for sensor in sensors:
            count = self.filled[sensor.name]
            self._open(sensor.name, count * _sample_bytes(sensor))
            if sensor.source.modality_kind == "video":
                self._open(f"{sensor.name}.present", count)

    def _open(self, name: str, size_bytes: int) -> None:
        file = self._file(name).open("r+b" if size_bytes else "w+b")
        file.truncate(size_bytes)
        file.seek(size_bytes)
        self._files[name] = file

    def add(
        self,
        name: str,
        series: Mapping[str, Sequence[SampleSeries]],
        *,
        runs: Mapping[str, Sequence[Interval]],
        is_utc: bool,
        empty: Sequence[str] = (),
    ) -> GridRecording:
        """Append a recording; a sensor's series hold its channels in order. Raise DatasetError if it is empty."""
        # Channels that report on change begin at any time: one present channel makes a sensor present.
        times = {sensor: [channel.times for channel in parts if len(channel)] for sensor, parts in series.items()}
        spans = {
            sensor: (min(int(channel[0]) for channel in channels), max(int(channel[-1]) for channel in channels))
            for sensor, channels in times.items()
            if channels
        }
        if not spans:
            raise DatasetError(f"{name}: expected samples, got none; remove the recording")
        firsts = [first_ns for first_ns, _ in spans.values()]
        covers_all = self._cover == "all"
        origin_ns, first = (max if covers_all else min)(firsts), dict(self.filled)
        # A sensor ends one period after its last sample: a slow one lasts as long as a fast one.
        rates_hz = {sensor.name: sensor.rate_hz for sensor in self.sensors}
        ends_s = [
            sample_count(last_ns - origin_ns, rates_hz[sensor]) / rates_hz[sensor]
            for sensor, (_, last_ns) in spans.items()
        ]
        seconds = min(ends_s) if covers_all else max(ends_s)
        lengths = {sensor: math.ceil(seconds * rate_hz - _SNAP) for sensor, rate_hz in rates_hz.items()}
        for sensor in self.sensors:
            # A filter first needs a grid at the native rate.
            factor = max(1.0, sensor.native_hz / sensor.rate_hz) if sensor.resample == "polyphase" else 1.0
            refuse_more(
                round((self.filled[sensor.name] + factor * lengths[sensor.name]) * _sample_bytes(sensor)),
                self.most_bytes,
                where=f"{name}: sensor {sensor.name!r}",
                what=f"{seconds:g} s at {factor * sensor.rate_hz:g} Hz",
                cure="correct the times or 'resample_hz'",
            )
        more = sum(lengths[sensor.name] * _sample_bytes(sensor) for sensor in self.sensors)
        refuse_more(
            self.size_bytes + more + round(seconds * self._window_bytes_per_s),
            self.most_bytes,
            where=name,
            what=f"samples and windows of {seconds:g} s",
            cure="lengthen 'windows.stride_s'",
        )
        for sensor in self.sensors:
            given, count = series.get(sensor.name, ()), lengths[sensor.name]
            for block in sensor_blocks(given, sensor, origin_ns=origin_ns, count=count):
                self._files[sensor.name].write(np.ascontiguousarray(block.view(np.ndarray)).data)
                if sensor.source.modality_kind == "video":
                    present = frame_presence(block)
                    here = np.ones(len(block), dtype=np.uint8) if present is None else present
                    self._files[f"{sensor.name}.present"].write(here.data)
        self.filled = {sensor: first[sensor] + lengths[sensor] for sensor in first}
        absent = tuple(sensor.name for sensor in self.sensors if not series.get(sensor.name))
        return GridRecording(
            name=name,
            runs=runs,
            is_utc=is_utc,
            origin_ns=origin_ns,
            first=first,
            lengths=lengths,
            absent=absent,
            empty=empty,
            spans=spans,
        )

    @property
    def size_bytes(self) -> int:
        """Size of the samples so far."""
        return sum(self.filled[sensor.name] * _sample_bytes(sensor) for sensor in self.sensors)

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
            if sensor.source.modality_kind == "video":
                present[sensor.name] = np.memmap(self._file(f"{sensor.name}.present"), dtype=np.uint8, mode="r")
        return samples, present

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.grid"

    def __enter__(self) -> Grids:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def sample_count(duration_ns: int, rate_hz: float) -> int:
    """Return the samples of a grid from its first to its last, this time later."""
    return int(np.floor(max(0, duration_ns) / SECOND_NS * rate_hz + _SNAP)) + 1


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
