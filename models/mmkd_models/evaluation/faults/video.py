"""Faults of cameras: frames (T, H, W, C) from 0 to 255, whole frames NaN where missing.

How far they reach is chosen here, in shares of the light, the picture and the frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_models.evaluation.faults.series import FaultedChannels

Frames = NDArray[Any]

_LEAST_LIGHT = 0.1
_WIDEST_BLUR = 0.1  # of the shorter side, the standard deviation
_FARTHEST = 0.25  # of a side
_MOST_DROPPED = 0.5  # of the frames, as a gap of a series


def dark(x: Frames, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Frames:
    """Down to a tenth of the light."""
    return np.asarray(x * (1 - (1 - _LEAST_LIGHT) * severity))


def blur(x: Frames, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Frames:
    """Out of focus: a Gaussian of up to a tenth of the shorter side; beyond an edge the picture goes on as there."""
    spread = severity * _WIDEST_BLUR * min(x.shape[1:3])
    reach = max(1, int(np.ceil(3 * spread)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    for axis in (1, 2):
        x = _smoothed(x, weights / weights.sum(), axis)
    return x


def dropped_frames(x: Frames, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Frames:
    """Up to half of the frames are missing, here and there; one at least."""
    count = max(1, round(_MOST_DROPPED * severity * len(x)))
    found: Frames = x.copy()
    found[rng.permutation(len(x))[:count]] = np.nan
    return found


def shifted_camera(x: Frames, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Frames:
    """The camera was knocked: the picture is off by up to a quarter of its sides, any way; edges go on."""
    angle = rng.uniform(0, 2 * np.pi)
    for axis, way in ((1, np.sin(angle)), (2, np.cos(angle))):
        pixels = x.shape[axis]
        from_ = np.arange(pixels) + round(severity * _FARTHEST * pixels * way)
        x = x.take(np.clip(from_, 0, pixels - 1), axis=axis)
    return x


def _smoothed(x: Frames, weights: NDArray[np.float64], axis: int) -> Frames:
    reach, pixels = len(weights) // 2, x.shape[axis]
    padded = x.take(np.clip(np.arange(-reach, pixels + reach), 0, pixels - 1), axis=axis)
    parts = (padded.take(np.arange(n, n + pixels), axis=axis) * float(weights[n]) for n in range(len(weights)))
    return np.asarray(sum(parts), dtype=x.dtype)
