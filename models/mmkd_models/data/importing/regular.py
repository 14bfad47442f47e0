"""From samples at any times to samples at a fixed rate: nearest, linear, polyphase or held; missing stays missing.

Owns the resampling, and the scratch files of what is at the dataset's rates. Nothing is ever interpolated across a gap,
nor between frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.recipe import Resample, WindowRule
from mmkd_models.data.importing.recorded import Recorded, Sensor
from mmkd_models.data.importing.series import SECOND_NS, Floats, Frames, Samples, Series, Times
from mmkd_models.data.kinds import Values, present_of, with_present

_BLOCK = 1 << 18
# A time this share of a period off a sample is that sample: times are written with few digits, and rates are rounded.
_SNAP = 1e-3
_LARGEST_FACTOR = 1000  # of up- and downsampling in the polyphase filter


class Grids:
    """The samples of all recordings at the dataset's rates, end to end, one scratch file a sensor."""

    def __init__(self, scratch: Path, sensors: Sequence[Sensor], windows: WindowRule) -> None:
        self.sensors = sensors
        self._cover = windows.cover
        self._scratch = scratch
        self._files: dict[str, BinaryIO] = {}
        for sensor in sensors:
            self._files[sensor.name] = (scratch / f"{sensor.name}.grid").open("wb")
            if sensor.kind == "video":
                self._files[f"{sensor.name}.present"] = (scratch / f"{sensor.name}.present").open("wb")

    def span_ns(self, recorded: Recorded) -> tuple[int, int]:
        """The first and the last moment of the grids: while all sensors record, or while any does."""
        there = [series for one in recorded.series.values() for series in one if len(series)]
        if not there:
            raise DatasetError(f"{recorded.name}: expected samples, got none; remove the recording")
        # Channels of one sensor that report on change begin when they like: a sensor is there while any of them is.
        firsts = [min(int(s.times[0]) for s in one if len(s)) for one in recorded.series.values() if any(map(len, one))]
        lasts = [max(int(s.times[-1]) for s in one if len(s)) for one in recorded.series.values() if any(map(len, one))]
        return (max(firsts), min(lasts)) if self._cover == "all" else (min(firsts), max(lasts))

    def place(self, recorded: Recorded, first_ns: int, last_ns: int) -> dict[str, Values]:
        """Gives the grid of each sensor (L, C), of a camera (L, H, W, C); one that was absent is missing throughout."""
        found: dict[str, Values] = {}
        for sensor in self.sensors:
            seconds = max(0, last_ns - first_ns) / SECOND_NS
            count = int(np.floor(seconds * sensor.rate_hz + 1e-3)) + 1
            given = recorded.series.get(sensor.name, ())
            if sensor.kind == "video":
                found[sensor.name] = _frame_grid(given, sensor, origin_ns=first_ns, count=count)
            else:
                found[sensor.name] = _value_grid(given, sensor, origin_ns=first_ns, count=count)
            if found[sensor.name].shape[1:] != sensor.modality(1.0).shape[1:]:
                wanted, got = sensor.modality(1.0).shape[1:], found[sensor.name].shape[1:]
                raise UsageError(
                    f"{recorded.name}: sensor {sensor.name!r}: expected samples of shape {wanted}, got {got};"
                    " give one column for each channel"
                )
        return found

    def append(self, grids: Mapping[str, Values]) -> None:
        """Adds the grids of one recording at the end of the files."""
        for name, grid in grids.items():
            self._files[name].write(np.ascontiguousarray(grid.view(np.ndarray)).data)
            if grid.dtype == np.uint8:
                present = present_of(grid)
                there = np.ones(len(grid), dtype=np.uint8) if present is None else present
                self._files[f"{name}.present"].write(there.data)

    def mapped(self) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
        """Gives the samples of each sensor, and of cameras which frames are there, from the files, which are closed."""
        samples: dict[str, AnyArray] = {}
        present: dict[str, AnyArray] = {}
        for sensor in self.sensors:
            modality = sensor.modality(1.0)
            flat = np.memmap(self._scratch / f"{sensor.name}.grid", dtype=modality.dtype, mode="r")
            samples[sensor.name] = flat.reshape(-1, *modality.shape[1:])
            if sensor.kind == "video":
                present[sensor.name] = np.memmap(self._scratch / f"{sensor.name}.present", dtype=np.uint8, mode="r")
        return samples, present

    def __enter__(self) -> Grids:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def _value_grid(given: Sequence[Samples], sensor: Sensor, *, origin_ns: int, count: int) -> Floats:
    parts = [
        on_grid(
            series,
            origin_ns=origin_ns,
            rate_hz=sensor.rate_hz,
            count=count,
            how=sensor.resample,
            native_hz=sensor.own_hz,
            max_gap_s=sensor.gap_s,
            hold_s=sensor.hold_s,
        )
        for series in given
        if isinstance(series, Series)
    ]
    if not parts:
        return np.full((count, len(sensor.channels)), np.nan, dtype=np.float32)
    values = np.concatenate(parts, axis=1)
    # What a filter adds at the edge of full scale is no sound.
    return np.clip(values, -1, 1) if sensor.kind == "audio" else values


def _frame_grid(given: Sequence[Samples], sensor: Sensor, *, origin_ns: int, count: int) -> Values:
    frames = [one for one in given if isinstance(one, Frames) and len(one)]
    if not frames:
        values = np.zeros((count, *sensor.modality(1.0).shape[1:]), dtype=np.uint8)
        return with_present(values, np.zeros(count, dtype=np.uint8))
    times = grid_times(origin_ns, sensor.rate_hz, 0, count)
    chosen, near = _nearest_rows(frames[0], times, reach_ns=sensor.gap_s * SECOND_NS / 2)
    values = np.asarray(frames[0].values[chosen])
    values[~near] = 0
    return with_present(values, near)


def grid_times(origin_ns: int, rate_hz: float, first: int, count: int) -> Times:
    """Gives int64 (count,): the times of the samples `first`... of a grid, to the nanosecond."""
    steps = np.arange(first, first + count, dtype=np.float64)
    return origin_ns + np.rint(steps * (SECOND_NS / rate_hz)).astype(np.int64)


def on_grid(
    series: Series,
    *,
    origin_ns: int,
    rate_hz: float,
    count: int,
    how: Resample,
    native_hz: float,
    max_gap_s: float,
    hold_s: float | None = None,
) -> Floats:
    """Gives float32 (count, C): the series at `origin_ns + k / rate_hz`.

    Args:
        native_hz: the rate of the series itself.
        max_gap_s: between samples farther apart than this everything is NaN; `nearest` reaches half as far.
        hold_s: of `hold`, how long a sample stays true.
    """
    if how == "polyphase" and len(series):
        return _polyphase(
            series, origin_ns=origin_ns, rate_hz=rate_hz, count=count, native_hz=native_hz, max_gap_s=max_gap_s
        )
    out = np.full((count, series.values.shape[1]), np.nan, dtype=np.float32)
    snap_ns = _SNAP * SECOND_NS / native_hz
    for first in range(0, count if len(series) else 0, _BLOCK):
        times = grid_times(origin_ns, rate_hz, first, min(_BLOCK, count - first))
        block = out[first : first + len(times)]
        match how:
            case "hold":
                assert hold_s is not None  # the recipe's check
                _hold(series, times, block, reach_ns=hold_s * SECOND_NS, snap_ns=snap_ns)
            case "nearest":
                _nearest(series, times, block, reach_ns=max_gap_s * SECOND_NS / 2)
            case _:
                _linear(series, times, block, gap_ns=max_gap_s * SECOND_NS, snap_ns=snap_ns)
    return out


def _around(series: Samples, times: Times) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The sample at or before each time and the one after it, both inside the series."""
    after = np.searchsorted(series.times, times, side="right")
    last = len(series) - 1
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _nearest(series: Series, times: Times, block: Floats, *, reach_ns: float) -> None:
    chosen, near = _nearest_rows(series, times, reach_ns=reach_ns)
    block[near] = series.values[chosen[near]]


def _nearest_rows(
    series: Samples, times: Times, *, reach_ns: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The sample nearest to each time, and whether it is within reach."""
    before, after = _around(series, times)
    to_before, to_after = np.abs(times - series.times[before]), np.abs(series.times[after] - times)
    return np.where(to_after < to_before, after, before), np.minimum(to_before, to_after) <= reach_ns


def _hold(series: Series, times: Times, block: Floats, *, reach_ns: float, snap_ns: float) -> None:
    before, _ = _around(series, times + int(np.ceil(snap_ns)))
    age = times - series.times[before]
    fresh = (age >= -np.ceil(snap_ns)) & (age <= reach_ns)
    block[fresh] = series.values[before[fresh]]


def _linear(series: Series, times: Times, block: Floats, *, gap_ns: float, snap_ns: float) -> None:
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


def _polyphase(
    series: Series, *, origin_ns: int, rate_hz: float, count: int, native_hz: float, max_gap_s: float
) -> Floats:
    """Low-pass filtered, with scipy's resample_poly; what is missing is bridged for the filter, missing after it."""
    from scipy.signal import resample_poly

    ratio = Fraction(rate_hz / native_hz).limit_denominator(_LARGEST_FACTOR)
    length = int(np.ceil(count * native_hz / rate_hz)) + 1
    native = on_grid(
        series,
        origin_ns=origin_ns,
        rate_hz=native_hz,
        count=length,
        how="linear",
        native_hz=native_hz,
        max_gap_s=max_gap_s,
    )
    bridged = np.stack([_bridged(native[:, channel]) for channel in range(native.shape[1])], axis=1)
    filtered = resample_poly(bridged, ratio.numerator, ratio.denominator, axis=0, padtype="line")
    out = np.full((count, native.shape[1]), np.nan, dtype=np.float32)
    known = min(count, len(filtered))
    place = np.minimum(np.rint(np.arange(known) * native_hz / rate_hz).astype(np.int64), length - 1)
    out[:known] = np.where(np.isnan(native[place]), np.nan, filtered[:known])
    return out


def _bridged(values: Floats) -> npt.NDArray[np.float64]:
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return np.zeros(len(values))
    found: npt.NDArray[np.float64] = np.interp(np.arange(len(values)), known, values[known].astype(np.float64))
    return found
