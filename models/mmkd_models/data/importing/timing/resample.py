"""From samples at any times to samples at a fixed rate: nearest, linear, polyphase or held; missing stays missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_models.data.importing.recording import SECOND_NS, ImportedSensor, SampleSeries, Times
from mmkd_models.data.kinds import Values, with_present
from mmkd_models.data.sources import Floats, Rows

_BLOCK_VALUES = 1 << 19
# A time this fraction of a period off a sample is that sample: times have few digits, and rates are rounded.
_SNAP = 1e-3
_LARGEST_FACTOR = 1000  # of up- and downsampling
_REACH = 10  # periods of the lower rate, as `resample_poly` designs its filter


def sensor_blocks(
    series: Sequence[SampleSeries], sensor: ImportedSensor, *, origin_ns: int, count: int
) -> Iterator[Values]:
    """Yield the grid of a sensor in blocks (B, C), of a camera (B, H, W, C), missing throughout if it is absent."""
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

    # A filter reads more samples than it gives.
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
    """Return the sample at or before each time and the one after it, both inside the series."""
    last = len(series) - 1
    # Searching the whole series would read it from end to end, for a block of it.
    low, high = np.searchsorted(series.times, times[[0, -1]], side="right").tolist()
    after = low + np.searchsorted(series.times[low:high], times, side="right")
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _nearest_rows(series: SampleSeries, times: Times, *, reach_ns: float) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Return the sample nearest to each time, and whether it is within reach."""
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
    """Return samples `first` to `last` (exclusive) of `count` at the dataset's rate (B, C), filtered.

    `native` returns these samples at the sensor's own rate, NaN for missing.
    """
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
    """Return samples (B, C) with missing values replaced by the nearest value of the channel."""
    filled = np.zeros(samples.shape)
    for channel, values in enumerate(samples.T):
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            middles = (known[1:] + known[:-1]) / 2
            filled[:, channel] = values[known[np.searchsorted(middles, np.arange(len(values)))]]
    return filled
