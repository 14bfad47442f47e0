"""From samples at any times to samples at a fixed rate: nearest, linear, polyphase or held; missing stays missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_models.data.importing.grids.polyphase import Polyphase
from mmkd_models.data.importing.recipe import Resample
from mmkd_models.data.importing.recorded import ImportedSensor
from mmkd_models.data.importing.series import SECOND_NS, CameraFrames, Floats, Samples, SampleSeries, Times
from mmkd_models.data.kinds import Values, with_present

_BLOCK_VALUES = 1 << 19
# A time this share of a period off a sample is that sample: times are written with few digits, and rates are rounded.
_SNAP = 1e-3


def sensor_blocks(given: Sequence[Samples], sensor: ImportedSensor, *, origin_ns: int, count: int) -> Iterator[Values]:
    """Yield the grid of a sensor in blocks (B, C), of a camera (B, H, W, C); one that was absent is missing throughout.

    Args:
        given: the series that hold the sensor's channels in order, or its frames.
        count: samples of the grid.
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
        native_hz: the rate of the series itself.
        max_gap_s: between samples farther apart than this everything is NaN; `nearest` reaches half as far.
        hold_s: of `hold`, how long a sample stays true.
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
