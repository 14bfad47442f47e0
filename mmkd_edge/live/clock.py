"""When a sample was taken, where its source says so and where it does not, and how long a source has been silent."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.live.intake import Delivery

TimeFrom = Literal["source", "arrival"]

# How far the count of samples may run away from their arrival before the arrival is believed.
_MOST_APART_S = 0.5
# The share of a difference that each delivery corrects: jitter of deliveries stays out of the times of samples.
_CORRECTED = 0.02
# Silence is this many times the longest of the recent intervals between deliveries, and at least a second.
_SILENT_TIMES, _SILENT_FROM_S, _INTERVALS = 3.0, 1.0, 16
# After a machine has slept its sensors need not be made up for every second of it.
_MOST_MISSING = 1_000_000
# A clock of the source further than this from UTC is one of its own, such as seconds since it was switched on.
_OWN_CLOCK_S = 86_400.0
# Of a sampling period, which doubles of seconds since 1970 round by at 1 MHz.
_ROUNDING = 0.25


class SampleClock:
    """Gives every sample of a station a time in seconds.

    Args:
        rate_hz: at which samples are expected.
        time_from: whether the source's times are taken, or the moments of arrival.
        live: whether samples are of now; else those without times are counted from 0.
    """

    def __init__(self, *, rate_hz: float, time_from: TimeFrom, live: bool) -> None:
        self._rate_hz = rate_hz
        self._time_from = time_from
        self._live = live
        # UTC at the start, and monotonic from then on: whoever sets the clock does not move the samples.
        self._utc_s = time.time() - time.monotonic()
        self._last_s: float | None = None
        self._real_s = 0.0
        self._arrived_s = 0.0
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._is_source_time = False
        self._newest: tuple[float, float] | None = None  # a time of the source, and when it arrived
        self._was_odd = False

    def times_of(self, delivery: Delivery) -> NDArray[np.float64]:
        """The time of each sample (n,)."""
        if self._last_s is not None:
            self._intervals.append(delivery.arrived_s - self._arrived_s)
        self._arrived_s = delivery.arrived_s
        self._is_source_time = self._time_from == "source" and delivery.times is not None
        times = delivery.times if self._is_source_time and delivery.times is not None else self._counted(delivery)
        self._last_s = self._real_s = float(times[-1])
        self._see(float(times.max()), delivery.arrived_s)
        return times

    def _see(self, time_s: float, arrived_s: float) -> None:
        """Keep the newest time. A step back, or of more than a day, is believed when the next delivery takes it too."""
        is_odd = self._newest is not None and not 0 <= time_s - self._newest[0] <= _OWN_CLOCK_S
        self._was_odd = is_odd and not self._was_odd
        if not self._was_odd:
            self._newest = time_s, arrived_s

    def _counted(self, delivery: Delivery) -> NDArray[np.float64]:
        count, period_s = len(delivery.rows), 1 / self._rate_hz
        steps: NDArray[np.float64] = np.arange(count, dtype=np.float64) * period_s
        if not self._live:
            return steps + (0.0 if self._last_s is None else self._last_s + period_s)
        arrived_s = self._utc_s + delivery.arrived_s - (count - 1) * period_s
        if self._last_s is None:
            return steps + arrived_s
        first_s = self._last_s + period_s
        late_s = arrived_s - first_s
        if late_s > _MOST_APART_S:
            first_s = arrived_s
        else:  # a backlog is counted on, and the time lines meet again by and by
            first_s += min(max(_CORRECTED * late_s, -0.5 * period_s), 0.5 * period_s)
        return steps + first_s

    def now_s(self) -> float | None:
        """This moment on the clock of the samples; before the first, and where samples are not of now, None."""
        if not self._live or self._newest is None:
            return None
        if not self._is_source_time:
            return self._utc_s + time.monotonic()
        time_s, arrived_s = self._newest
        # The clock of the machine that gave the times is this one's or set by the same server, or it is no UTC at all.
        own_s, utc_s = time_s + time.monotonic() - arrived_s, time.time()
        return own_s if abs(own_s - utc_s) > _OWN_CLOCK_S else utc_s

    def missing_times(self, monotonic_s: float, *, silence_s: float | None) -> NDArray[np.float64]:
        """Times (n,) at which a live source should have given samples and did not; each is given once.

        They stay as far behind this moment as silence takes to be one: samples that are under way find their place.

        Args:
            monotonic_s: this moment.
            silence_s: from when on a source is silent; None is three times the longest of the recent intervals between
                its deliveries, at least a second.
        """
        if not self._live or self._last_s is None:
            return np.empty(0)
        usual_s = max([_SILENT_FROM_S, *(_SILENT_TIMES * one for one in self._intervals)])
        behind_s = usual_s if silence_s is None else silence_s
        until_s = self._real_s + (monotonic_s - self._arrived_s) - behind_s
        count = int((until_s - self._last_s) * self._rate_hz + _ROUNDING)
        if count <= 0:
            return np.empty(0)
        steps = np.arange(max(1, count - _MOST_MISSING + 1), count + 1, dtype=np.float64)
        times: NDArray[np.float64] = self._last_s + steps / self._rate_hz
        self._last_s = float(times[-1])
        return times

    def silent_s(self) -> float:
        """How old the newest sample that came is, on the clock of the samples."""
        now_s = self.now_s()
        return 0.0 if now_s is None else now_s - self._real_s
