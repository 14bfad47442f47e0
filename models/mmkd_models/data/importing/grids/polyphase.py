"""Low-pass filtering and thinning of samples at a fixed rate, in blocks: equal to scipy's `resample_poly` of the whole.

A filter reaches ten samples of the lower rate to either side (scipy's default: a Kaiser window, beta 5), so that each
block is filtered with that much around it. What is missing is bridged by straight lines for the filter, and missing
after it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mmkd_models.data.importing.series import Floats

_LARGEST_FACTOR = 1000  # of up- and downsampling
_REACH = 10  # periods of the lower rate, as `resample_poly` designs its filter
_SCAN = 1 << 18

_Known = tuple[int, float]
"""The number of a sample and its value."""


class Polyphase:
    """A resampling whose blocks are asked for from first to last."""

    def __init__(
        self, native: Callable[[int, int], Floats], *, channels: int, count: int, native_hz: float, rate_hz: float
    ) -> None:
        """Look for the first and the last value of each channel.

        Args:
            native: gives the samples of these numbers (B, C) at `native_hz`, NaN for missing.
            count: samples that there will be at `rate_hz`.
        """
        self._native, self._step = native, native_hz / rate_hz
        ratio = Fraction(rate_hz / native_hz).limit_denominator(_LARGEST_FACTOR)
        self._up, self._down = ratio.numerator, ratio.denominator
        self._length = int(np.ceil(count * native_hz / rate_hz)) + 1
        self._first = [self._known_from(channel, 0) for channel in range(channels)]
        self._last = [self._known_before(channel) for channel in range(channels)]
        self._next = list(self._first)
        nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        self._seen: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = [nothing] * channels

    def block(self, first: int, last: int) -> Floats:
        """Return the samples `first` to `last` (exclusive) at the new rate (B, C)."""
        from scipy.signal import resample_poly

        reach = _REACH * max(self._up, self._down)  # in steps that samples of both rates are whole numbers of
        # A start at a multiple of `down` falls on a sample of the new rate.
        start = (first * self._down - reach) // self._up // self._down * self._down
        end = (last * self._down + reach) // self._up + 2
        native = self._native(max(0, start), min(end, self._length))
        place = np.rint(np.arange(first, last) * self._step).astype(np.int64)
        there = native[np.clip(place - max(0, start), 0, len(native) - 1)]
        skipped = first - start // self._down * self._up
        filtered = np.stack(
            [
                resample_poly(self._extended(native[:, channel], channel, start, end), self._up, self._down)[
                    skipped : skipped + last - first
                ]
                for channel in range(native.shape[1])
            ],
            axis=1,
        )
        return np.where(np.isnan(there), np.nan, filtered).astype(np.float32)

    def _extended(self, values: Floats, channel: int, start: int, end: int) -> npt.NDArray[np.float64]:
        """Samples `start` to `end`; before the first and behind the last one of all on the line through both."""
        bridged = self._bridged(values, channel, max(0, start))
        first, last = self._first[channel], self._last[channel]
        if first is None or last is None:
            return np.zeros(end - start)
        slope = (last[1] - first[1]) / max(1, self._length - 1)
        before, after = np.arange(start, 0), np.arange(self._length, end)
        return np.concatenate([first[1] + slope * before, bridged, first[1] + slope * after])

    def _bridged(self, values: Floats, channel: int, start: int) -> npt.NDArray[np.float64]:
        """Samples from `start` on, those missing on the line from the last value before them to the next one."""
        end = start + len(values)
        here = np.flatnonzero(~np.isnan(values))
        places, numbers = start + here, values[here].astype(np.float64)
        seen_at, seen = self._seen[channel]
        earlier = int(np.searchsorted(seen_at, start))
        if earlier:
            places = np.concatenate([seen_at[earlier - 1 : earlier], places])
            numbers = np.concatenate([seen[earlier - 1 : earlier], numbers])
        if not len(here) or here[-1] < len(values) - 1:
            after = self._next[channel]
            if after is not None and after[0] < end:
                after = self._next[channel] = self._known_from(channel, end)
            if after is not None:
                places, numbers = np.append(places, after[0]), np.append(numbers, after[1])
        self._seen[channel] = places, numbers
        return np.interp(np.arange(start, end), places, numbers) if len(places) else np.zeros(len(values))

    def _known_from(self, channel: int, start: int) -> _Known | None:
        for first in range(start, self._length, _SCAN):
            values = self._native(first, min(first + _SCAN, self._length))[:, channel]
            here = np.flatnonzero(~np.isnan(values))
            if len(here):
                return first + int(here[0]), float(values[here[0]])
        return None

    def _known_before(self, channel: int) -> _Known | None:
        for last in range(self._length, 0, -_SCAN):
            first = max(0, last - _SCAN)
            values = self._native(first, last)[:, channel]
            here = np.flatnonzero(~np.isnan(values))
            if len(here):
                return first + int(here[-1]), float(values[here[-1]])
        return None
