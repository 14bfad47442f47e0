"""Clock offsets between sensors, by cross-correlation of their movement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.keys import MAX_ALIGNED_S
from mmkd_models.data.importing.recording import SECOND_NS, SampleSeries

_GRID_HZ = 50.0  # grid of the comparison: a shift is exact to 20 ms
_LARGEST_SHIFT_S = 60.0
_APART_S = 0.5  # a shift farther away is another answer, not the shoulder of the same peak
_MIN_SHARED = 0.5  # fraction of the shorter course that a shift must leave in common
_BLOCK_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One recording's offset, its correlation and that of the next best shift."""

    recording: str
    sensor: str
    reference: str
    offset_s: float
    agreement: float
    next_best: float


def propose_offset(
    recording: str, sensor: str, samples: SampleSeries, reference: str, reference_samples: SampleSeries
) -> Proposal | None:
    """Propose an offset for `sensor`; None if a sensor hardly moves. Raise DatasetError if one is too long."""
    from scipy.signal import correlate, correlation_lags

    for name, series in ((sensor, samples), (reference, reference_samples)):
        length_s = (int(series.times[-1]) - int(series.times[0])) / SECOND_NS if len(series) else 0.0
        if length_s > MAX_ALIGNED_S:
            raise DatasetError(
                f"{recording}: sensor {name!r}: expected at most {MAX_ALIGNED_S:g} s to align, got {length_s:g} s;"
                " remove 'align', or correct the times"
            )
    course, other = _course(samples), _course(reference_samples)
    if course is None or other is None:
        return None
    start_s = (int(samples.times[0]) - int(reference_samples.times[0])) / SECOND_NS
    lags = correlation_lags(len(other), len(course))
    # Where the course is moved to the right by a lag: how many steps the two share.
    shared = np.minimum(len(other), len(course) + lags) - np.maximum(0, lags)
    agreement = correlate(other, course) / np.maximum(shared, 1)
    usable = np.abs(lags / _GRID_HZ - start_s) <= _LARGEST_SHIFT_S
    usable &= shared >= _MIN_SHARED * min(len(course), len(other))
    if not usable.any():
        return None
    best = int(np.where(usable, agreement, -np.inf).argmax())
    others = agreement[usable & (np.abs(lags - lags[best]) > _APART_S * _GRID_HZ)]
    return Proposal(
        recording=recording,
        sensor=sensor,
        reference=reference,
        offset_s=round(float(lags[best]) / _GRID_HZ - start_s, 3) + 0.0,
        agreement=float(agreement[best]),
        next_best=float(others.max()) if len(others) else 0.0,
    )


def _course(samples: SampleSeries) -> npt.NDArray[np.float64] | None:
    """Return the movement (G,) per grid step in standard deviations, or None."""
    if len(samples) < 2:
        return None
    moves = _moves(samples.values)
    step = ((samples.times[1:] - samples.times[0]) * _GRID_HZ / SECOND_NS).astype(np.int64)
    known = np.isfinite(moves)
    count = int(step[-1]) + 1
    sums = np.bincount(step[known], weights=moves[known], minlength=count)
    steps = np.bincount(step[known], minlength=count)
    filled = np.flatnonzero(steps)
    if len(filled) < 2:
        return None
    course = np.log1p(np.interp(np.arange(count), filled, sums[filled] / steps[filled]))
    std = course.std()
    return None if std < 1e-9 else (course - course.mean()) / std


def _moves(values: npt.NDArray[np.float32 | np.uint8]) -> npt.NDArray[np.float64]:
    """Return (L - 1,) the mean step over channels in units of their usual step; for frames that of a pixel."""
    is_video, parts = values.ndim == 4, []
    rows = _BLOCK_FRAMES if is_video else len(values)
    for first in range(0, len(values) - 1, rows):
        block = values[first : first + rows + 1].astype(np.float32)
        steps = np.abs(np.diff(block, axis=0)).reshape(len(block) - 1, -1)
        parts.append(steps.mean(axis=1, keepdims=True) if is_video else steps)
    steps = np.concatenate(parts).astype(np.float64)
    known = np.isfinite(steps)
    usual = np.where(known, steps, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    scaled, counts = np.where(known, steps, 0.0)[:, usual > 0] / usual[usual > 0], known[:, usual > 0].sum(axis=1)
    return np.where(counts > 0, scaled.sum(axis=1) / np.maximum(counts, 1), np.nan)
