"""From samples at any times to samples at a fixed rate: nearest, linear, polyphase or held; missing stays missing.

Owns the resampling. Nothing is ever interpolated across a gap.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mmkd_models.data.importing.recipe import Resample
from mmkd_models.data.importing.series import SECOND_NS, Floats, Series, Times

_BLOCK = 1 << 18
# A time this share of a period off a sample is that sample: times are written with few digits, and rates are rounded.
_SNAP = 1e-3
_LARGEST_FACTOR = 1000  # of up- and downsampling in the polyphase filter


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


def _around(series: Series, times: Times) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The sample at or before each time and the one after it, both inside the series."""
    after = np.searchsorted(series.times, times, side="right")
    last = len(series) - 1
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _nearest(series: Series, times: Times, block: Floats, *, reach_ns: float) -> None:
    before, after = _around(series, times)
    to_before, to_after = np.abs(times - series.times[before]), np.abs(series.times[after] - times)
    chosen = np.where(to_after < to_before, after, before)
    near = np.minimum(to_before, to_after) <= reach_ns
    block[near] = series.values[chosen[near]]


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
