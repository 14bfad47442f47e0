"""The signal of one sensor as a page draws it.

Owns the reduction: samples become at most a few hundred bins with their lowest and highest value, so that a page costs
the same at 10 Hz and at 100 kHz.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

SPAN_S = 60.0
"""Of the signal and the timeline."""
_BINS = 600
_BIN_S = SPAN_S / _BINS
# So many deliveries in a row that end before the newest bin are another time line; fewer are late.
_STEPS_BACK = 5


class Bin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A tenth of a second of the signal.

    Attributes:
        number: counts the bins; a later value of the same number replaces the earlier one.
        time_s: its beginning, on the clock of the samples.
        lowest: of each channel; NaN where all its samples are missing.
        highest: of each channel.
    """

    number: int
    time_s: float
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


class Signal:
    """The last minute of one sensor, in bounded memory."""

    def __init__(self) -> None:
        self._bins: deque[Bin] = deque(maxlen=_BINS)
        self._behind = 0

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
        """Samples that go into the stream: (n,) seconds and float32 (n, C)."""
        numbers = np.floor(times / _BIN_S).astype(np.int64)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1])
        present = np.isfinite(rows)
        lowest = np.minimum.reduceat(np.where(present, rows, np.inf), starts)  # (bins, C)
        highest = np.maximum.reduceat(np.where(present, rows, -np.inf), starts)
        gone = ~np.isfinite(lowest) | ~np.isfinite(highest)
        lowest[gone] = highest[gone] = np.nan
        found = zip(numbers[starts].tolist(), lowest.tolist(), highest.tolist(), strict=True)
        is_behind = bool(self._bins) and int(numbers[-1]) < self._bins[-1].number
        self._behind = self._behind + 1 if is_behind else 0
        if self._behind >= _STEPS_BACK:
            self._bins.clear()
        for number, low, high in list(found)[-_BINS:]:
            self._put(number, low, high)

    def _put(self, number: int, low: Sequence[float], high: Sequence[float]) -> None:
        time_s = round(number * _BIN_S, 3)
        if self._bins and number <= self._bins[-1].number:
            place = next((place for place, one in enumerate(self._bins) if one.number == number), None)
            if place is not None:  # else it is late, and of a gap
                self._bins[place] = _wider(self._bins[place], low, high)
            return
        if self._bins and time_s - self._bins[-1].time_s > SPAN_S:
            self._bins.clear()  # another time line
        self._bins.append(Bin(number, time_s, tuple(low), tuple(high)))

    def after(self, number: int) -> tuple[Bin, ...]:
        """Bins from a number on, for that one grows; all of them where the time line is another."""
        restarted = bool(self._bins) and self._bins[-1].number < number
        return tuple(one for one in self._bins if restarted or one.number >= number)


def _wider(one: Bin, low: Sequence[float], high: Sequence[float]) -> Bin:
    """A bin with more samples in it."""
    lowest = tuple(_least(old, new) for old, new in zip(one.lowest, low, strict=True))
    highest = tuple(-_least(-old, -new) for old, new in zip(one.highest, high, strict=True))
    return Bin(one.number, one.time_s, lowest, highest)


def _least(one: float, other: float) -> float:
    """The lower of two, where both are there."""
    return other if math.isnan(one) else one if math.isnan(other) else min(one, other)
