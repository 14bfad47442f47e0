"""Which part of a frame is kept, and how large it becomes: a fixed box, or the one where things move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_models.data.importing.recipe import Region
from mmkd_models.data.importing.series import Pixels

_MOST_CELLS = 64  # of a map of motion, along its longer side
_LEAST_SHARE = 0.3  # of the liveliest cell's motion: what moves less is a shadow, a collar, a swaying head
_INSIDE = 0.9  # the share of the rest, along each side, that lies in the box


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """How much moves where: the mean change from frame to frame in each cell of a grid (rows, columns)."""

    cells: npt.NDArray[np.float64]
    height: int
    width: int


class MotionMeter:
    """Measures the motion of one recording, frame by frame."""

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self._before: npt.NDArray[np.float32] | None = None
        self._size = (0, 0)
        self._steps = 0

    def add(self, pixels: Pixels) -> None:
        """Take the next frame (H, W, 3)."""
        import cv2

        height, width = pixels.shape[:2]
        scale = _MOST_CELLS / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        now = small.astype(np.float32)
        if self._before is not None:
            change = np.abs(now - self._before).astype(np.float64)
            self._sum = change if self._sum is None else self._sum + change
            self._steps += 1
        self._before, self._size = now, (height, width)

    def motion(self) -> Motion | None:
        """Return what was measured; None of fewer than two frames."""
        if self._sum is None:
            return None
        return Motion(cells=self._sum / self._steps, height=self._size[0], width=self._size[1])


def moving_box(motions: Sequence[Motion], *, height: int, width: int) -> Region | None:
    """Return the box where things move, of the proportions of the frames in the dataset; None if nothing does.

    The median cell's motion is taken for noise, and cells that move little beside the liveliest do not count. Along
    each side the box holds nine tenths of the rest, and is widened to the proportions, as far as the frame reaches.

    Args:
        motions: of frames of one size.
        height: of the frames in the dataset.
    """
    cells = np.mean([one.cells for one in motions], axis=0)
    above = np.maximum(cells - np.median(cells), 0)
    rest = np.where(above >= _LEAST_SHARE * above.max(), above, 0.0)
    if not rest.any():
        return None
    full_height, full_width = motions[0].height, motions[0].width
    top, bottom = _inner(rest.sum(axis=1), full_height)
    left, right = _inner(rest.sum(axis=0), full_width)
    tall, wide = bottom - top, right - left
    if tall * width < wide * height:
        top, bottom = _widened(top, bottom, wide * height / width, full_height)
    else:
        left, right = _widened(left, right, tall * width / height, full_width)
    x, y = round(left), round(top)
    return x, y, max(1, round(right) - x), max(1, round(bottom) - y)


def _inner(profile: npt.NDArray[np.float64], length: int) -> tuple[float, float]:
    """Between which pixels the middle part of a profile over cells lies."""
    edges = np.linspace(0, length, len(profile) + 1)
    reached = np.concatenate([[0], np.cumsum(profile)]) / profile.sum()
    low, high = np.interp([(1 - _INSIDE) / 2, (1 + _INSIDE) / 2], reached, edges)
    return float(low), float(high)


def _widened(low: float, high: float, wanted: float, length: int) -> tuple[float, float]:
    wanted = min(wanted, length)
    start = min(max(0.0, (low + high - wanted) / 2), length - wanted)
    return start, start + wanted
