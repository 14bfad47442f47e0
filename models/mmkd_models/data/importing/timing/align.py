"""Proposes by how much one sensor's clock is off, from what both sensors saw; applies nothing.

Both are told by how much they move, moment by moment. `xcorr` takes the shift at which the two courses agree most
(normalised cross-correlation); `event` the distance of the two strongest bursts, such as a clap or a knock before the
work begins. How far ahead the best shift is of the next best tells how sure it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.limits import MOST_ALIGNED_S
from mmkd_models.data.importing.recipe import AlignOn
from mmkd_models.data.importing.recorded import SECOND_NS, CameraFrames, Samples

GRID_HZ = 50.0
"""Of the courses that are compared: a shift is told to 20 ms."""

REACH_S = 60.0
"""Largest shift that is looked for."""

_APART_S = 0.5  # from which another shift is another answer, not the shoulder of the same
_LEAST_SHARED = 0.5  # of the shorter course, that a shift must leave in common
_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What one recording suggests.

    Attributes:
        agreement: of `xcorr` the correlation; of `event` the burst over the sensor's next one.
    """

    recording: str
    sensor: str
    beside: str
    offset_s: float
    agreement: float
    next_best: float


def propose_offset(
    recording: str, sensor: str, ours: Samples, beside: str, theirs: Samples, how: AlignOn
) -> Proposal | None:
    """Return what a recording suggests for `sensor`; None if one of the two never moves or is too short.

    Raise DatasetError if a recording is too long to compare.
    """
    for name, samples in ((sensor, ours), (beside, theirs)):
        lasts_s = (int(samples.times[-1]) - int(samples.times[0])) / SECOND_NS if len(samples) else 0.0
        if lasts_s > MOST_ALIGNED_S:
            raise DatasetError(
                f"{recording}: sensor {name!r}: expected at most {MOST_ALIGNED_S:g} s to align, got {lasts_s:g} s;"
                " remove 'align_on', or correct the times"
            )
    mine, other = _course(ours), _course(theirs)
    if mine is None or other is None:
        return None
    start_s = (int(ours.times[0]) - int(theirs.times[0])) / SECOND_NS
    found = _by_event(mine, other) if how == "event" else _by_correlation(mine, other, start_s)
    if found is None:
        return None
    shift_s, agreement, next_best = found
    # A shift counts grid steps from the two beginnings, which may lie apart.
    offset_s = round(shift_s - start_s, 3) + 0.0
    return Proposal(
        recording=recording, sensor=sensor, beside=beside, offset_s=offset_s, agreement=agreement, next_best=next_best
    )


def _course(samples: Samples) -> npt.NDArray[np.float64] | None:
    """(G,) how much a sensor moves in each step of the grid, in standard deviations; None if it never does."""
    if len(samples) < 2:
        return None
    moved = _moved_frames(samples) if isinstance(samples, CameraFrames) else _moved(np.asarray(samples.values))
    step = ((samples.times[1:] - samples.times[0]) * GRID_HZ / SECOND_NS).astype(np.int64)
    known = np.isfinite(moved)
    count = int(step[-1]) + 1
    sums = np.bincount(step[known], weights=moved[known], minlength=count)
    times = np.bincount(step[known], minlength=count)
    filled = np.flatnonzero(times)
    if len(filled) < 2:
        return None
    course = np.log1p(np.interp(np.arange(count), filled, sums[filled] / times[filled]))
    spread = course.std()
    return None if spread < 1e-9 else (course - course.mean()) / spread


def _moved(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(L - 1,) the mean step over channels, each in units of its usual step."""
    steps = np.abs(np.diff(values.astype(np.float64), axis=0))
    known = np.isfinite(steps)
    filled = np.where(known, steps, 0.0)
    usual = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    moves = usual > 0
    sums = (filled[:, moves] / usual[moves]).sum(axis=1)
    count = known[:, moves].sum(axis=1)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)


def _moved_frames(frames: CameraFrames) -> npt.NDArray[np.float64]:
    """(L - 1,) the mean change of a pixel, a few frames at a time."""
    parts = []
    for first in range(0, len(frames) - 1, _FRAMES):
        block = frames.values[first : first + _FRAMES + 1].astype(np.int16)
        parts.append(np.abs(np.diff(block, axis=0)).reshape(len(block) - 1, -1).mean(axis=1))
    found = np.concatenate(parts)
    return np.asarray(found / max(float(found.mean()), 1e-9))


def _by_event(mine: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[float, float, float] | None:
    places, strengths = [], []
    for course in (mine, other):
        top = int(course.argmax())
        level = course - course.min()
        near = np.abs(np.arange(len(course)) - top) <= _APART_S * GRID_HZ
        if near.all():
            return None
        places.append(top)
        strengths.append(float(level[top] / max(level[~near].max(), 1e-9)))
    return (places[1] - places[0]) / GRID_HZ, min(strengths), 1.0


def _by_correlation(
    mine: npt.NDArray[np.float64], other: npt.NDArray[np.float64], start_s: float
) -> tuple[float, float, float] | None:
    from scipy.signal import correlate, correlation_lags

    lags = correlation_lags(len(other), len(mine))
    # Where `mine` is moved to the right by a lag: how many steps the two share.
    shared = np.minimum(len(other), len(mine) + lags) - np.maximum(0, lags)
    agreement = correlate(other, mine) / np.maximum(shared, 1)
    within = np.abs(lags / GRID_HZ - start_s) <= REACH_S
    usable = within & (shared >= _LEAST_SHARED * min(len(mine), len(other)))
    if not usable.any():
        return None
    agreement = np.where(usable, agreement, -np.inf)
    best = int(agreement.argmax())
    apart = np.abs(lags - lags[best]) > _APART_S * GRID_HZ
    rest = agreement[apart & usable]
    return float(lags[best]) / GRID_HZ, float(agreement[best]), float(rest.max()) if len(rest) else 0.0
