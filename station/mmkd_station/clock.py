"""Times of samples: assignment, plausibility, silent sources."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_station.intake import Delivery

TimeFrom = Literal["source", "arrival"]
TimeFault = Literal["ahead", "back", "still", "late", "silent", "old"]

TIME_FAULTS: dict[TimeFault, str] = {
    "ahead": "the times of samples run ahead of their arrival",
    "back": "the times of samples go back",
    "still": "the times of samples stand still",
    "late": "most samples come late, or faster than the bundle's rate",
    "silent": "no sample comes for longer than --stale",
    "old": "the times of samples are older than --stale",
}
"""How the log and `/healthz` describe a fault."""

# Largest difference between counted times and arrivals.
_MAX_APART_S = 0.5
# Fraction of it that each delivery corrects, so that jitter does not reach sample times.
_CORRECTED = 0.02
# A source is silent after this multiple of its longest recent interval, at least a second.
_SILENT_TIMES, _SILENT_FROM_S, _INTERVALS = 3.0, 1.0, 16
# After sleep, not every sample is filled in.
_MAX_MISSING = 1_000_000
# Times further from UTC are on another clock, such as seconds since power-on.
_OWN_CLOCK_S = 86_400.0
# A device's clock before 2026-01-01, older than this release, was never set.
_FIRST_UTC_S = 1_767_225_600.0
# How far times may run ahead: without `--stale`, and at least.
_AHEAD_S, _MIN_AHEAD_S = 10.0, 1.0
# Smaller steps are rounding of float64 seconds since 1970.
_MIN_STEP_S = 1e-6
# Largest clock drift per second; a source that catches up gains more than a crystal.
_GAINS, _LOSES = 0.05, 0.001
# Rounding of float64 seconds since 1970 at 1 MHz, in sampling periods.
_ROUNDING = 0.25


class SensorRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How samples become results; other attributes are those of `EdgePredictor.stream`."""

    modality: str | None = None
    hop: int | None = None  # None is a second, or a window if that is shorter
    time: TimeFrom = "source"
    gap_s: float | None = None
    single_answers: bool = False
    stale_s: float | None = None  # results are stale if the newest sample is older
    # Time without samples that makes a live source silent; None derives it from recent intervals
    silence_s: float | None = None


class TimeWatch:
    """Compares a live source's times with their arrival.

    A delivery is refused if its times run ahead, go back, or stand still. A clock that was set is trusted again after
    keeping pace for `limit_s`. Times are UTC if they are near the device's clock at the first delivery, or the first
    one after the device's clock is set; a source's clock that was set is judged anew.
    """

    def __init__(self, *, limit_s: float, back_s: float) -> None:
        self._limit_s = limit_s  # how far times may run ahead of UTC, or of their pace so far without UTC
        self._back_s = back_s  # how far times may go back; samples within are late
        self._offset_s = 0.0  # from arrival to the source's time, without delays
        self._other_line: tuple[float, float] | None = None
        self._was_utc: bool | None = None
        self._fault: tuple[TimeFault, float] | None = None
        self.newest: tuple[float, float] | None = None
        self.reason = ""
        self.refused = 0

    def accept(
        self, times: NDArray[np.float64], *, arrived_s: float, utc_s: float, still_s: float, waited: bool
    ) -> bool:
        """Return whether a delivery's times (n,) can be trusted.

        Args:
            utc_s: `arrived_s` (monotonic) in UTC; NaN if the times are not UTC.
            still_s: how long times may stand still.
            waited: as in `Delivery`; then only UTC times are compared with the arrival.
        """
        time_s = float(times.max())
        if self._was_utc is None:
            self._was_utc = _is_near(time_s, utc_s)
        is_utc = self.is_utc(time_s, utc_s)
        last_s, last_arrived_s = (-math.inf, arrived_s) if self.newest is None else self.newest
        own_ahead_s = 0.0 if self.newest is None else time_s - arrived_s - self._offset_s
        ahead_s, back_s = time_s - utc_s if is_utc else own_ahead_s, last_s + _MIN_STEP_S - time_s
        is_paced = is_utc or not waited
        fault: tuple[TimeFault, str] | None = None
        if is_paced and ahead_s > self._limit_s:
            fault = "ahead", f"the times of samples are {ahead_s:,.1f} s ahead of their arrival"
        elif is_paced and back_s > self._back_s:
            fault = "back", f"the times of samples went back {back_s:,.1f} s"
        elif 0 <= back_s <= self._back_s and arrived_s - last_arrived_s > still_s:
            fault = "still", f"the times of samples have stood still for {arrived_s - last_arrived_s:,.1f} s"
        is_set = fault is not None and not (is_utc and fault[0] == "ahead") and self._keeps_pace(time_s, arrived_s)
        if fault is not None and not is_set:
            self.reason = fault[1]
            self.refused += len(times)
            self.note(fault[0])
            return False
        if is_set:
            self._was_utc = _is_near(time_s, utc_s)
        if is_set or self.newest is None:
            self._offset_s = time_s - arrived_s
        elif not 0 <= back_s <= self._back_s:
            elapsed_s = arrived_s - last_arrived_s
            self._offset_s += min(max(own_ahead_s, -_LOSES * elapsed_s), _GAINS * elapsed_s)
        else:
            return True  # late
        self.newest, self.reason, self._other_line = (time_s, arrived_s), "", None
        return True

    def is_utc(self, time_s: float, utc_s: float) -> bool:
        """Return whether a time of this source is UTC; never while the device's clock is not set."""
        return bool(self._was_utc) and bool(_is_near(time_s, utc_s))

    def _keeps_pace(self, time_s: float, arrived_s: float) -> bool:
        if self._other_line is not None:
            elapsed_s = arrived_s - self._other_line[1]
            if abs(time_s - self._other_line[0] - elapsed_s) <= 0.5 * self._limit_s:
                return elapsed_s >= self._limit_s
        self._other_line = time_s, arrived_s
        return False

    def note(self, fault: TimeFault) -> None:
        """Set the current fault."""
        self._fault = fault, time.monotonic()

    @property
    def fault(self) -> TimeFault | None:
        """The last fault, for `limit_s`."""
        if self._fault is None or (not self.reason and time.monotonic() - self._fault[1] > self._limit_s):
            return None
        return self._fault[0]


def _is_near(time_s: float, utc_s: float) -> bool | None:
    """Return whether a time is near UTC; None if UTC is not known."""
    return abs(time_s - utc_s) <= _OWN_CLOCK_S if utc_s >= _FIRST_UTC_S else None


class SampleClock:
    """Times of a sensor's samples in seconds; recorded samples without times count from 0."""

    def __init__(
        self,
        *,
        rate_hz: float,
        time_from: TimeFrom,
        live: bool,
        silence_s: float | None = None,
        stale_s: float | None = None,
        back_s: float = math.inf,
    ) -> None:
        self._rate_hz = rate_hz
        self._time_from = time_from
        self._live = live
        self._silence_s = silence_s
        self._stale_s = math.inf if stale_s is None else stale_s
        limit_s = _AHEAD_S if stale_s is None else max(stale_s, _MIN_AHEAD_S)
        self.watch = TimeWatch(limit_s=limit_s, back_s=back_s)
        # UTC at the start, then monotonic: a set clock does not move samples.
        self._utc_s = time.time() - time.monotonic()
        self._last_s: float | None = None
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._is_source_time = False

    def sample_times(self, delivery: Delivery) -> NDArray[np.float64] | None:
        """Return times (n,); None if they cannot be trusted."""
        self._is_source_time = self._time_from == "source" and delivery.times is not None
        times = delivery.times if self._is_source_time and delivery.times is not None else self._compute_times(delivery)
        if self._live:
            if self._is_source_time:
                utc_s = time.time() - time.monotonic()
            else:  # waiting lines are counted from the first
                utc_s = math.nan if delivery.waited else self._utc_s
            before, was_refused, arrived_s = self.watch.newest, bool(self.watch.reason), delivery.arrived_s
            is_trusted = self.watch.accept(
                times,
                arrived_s=arrived_s,
                utc_s=utc_s + arrived_s,
                still_s=min(self._usual_silence_s, self._stale_s),
                waited=delivery.waited,
            )
            if not is_trusted:
                return None
            if self.watch.newest is before:  # no newer sample
                return times
            if before is not None and not was_refused:
                self._intervals.append(arrived_s - before[1])
        self._last_s = float(times[-1])
        return times

    def _compute_times(self, delivery: Delivery) -> NDArray[np.float64]:
        count, period_s = len(delivery.rows), 1 / self._rate_hz
        steps: NDArray[np.float64] = np.arange(count, dtype=np.float64) * period_s
        if not self._live:
            return steps + (0.0 if self._last_s is None else self._last_s + period_s)
        arrived_s = self._utc_s + delivery.arrived_s - (count - 1) * period_s
        if self._last_s is None:
            return steps + arrived_s
        first_s = self._last_s + period_s
        late_s = arrived_s - first_s
        if late_s > _MAX_APART_S:
            first_s = arrived_s
        else:  # counted times approach the arrivals slowly
            first_s += min(max(_CORRECTED * late_s, -0.5 * period_s), 0.5 * period_s)
        return steps + first_s

    def now_s(self) -> float | None:
        """Return the time on the samples' clock; None before the first sample, and if not live."""
        if not self._live or self.watch.newest is None:
            return None
        if not self._is_source_time:
            return self._utc_s + time.monotonic()
        time_s, arrived_s = self.watch.newest
        # The source's clock is synchronised, or not UTC.
        own_s, utc_s = time_s + time.monotonic() - arrived_s, time.time()
        return utc_s if self.watch.is_utc(own_s, utc_s) else own_s

    @property
    def _usual_silence_s(self) -> float:
        if self._silence_s is not None:
            return self._silence_s
        return max([_SILENT_FROM_S, *(_SILENT_TIMES * interval_s for interval_s in self._intervals)])

    def missing_times(self, monotonic_s: float) -> NDArray[np.float64]:
        """Return, once each, times (n,) of samples that a silent live source owes.

        They lag behind now by the allowed silence, so that delayed samples still find their place.
        """
        if not self._live or self._last_s is None or self.watch.newest is None:
            return np.empty(0)
        time_s, arrived_s = self.watch.newest
        behind_s = min(self._usual_silence_s, self._stale_s) if self.watch.reason else self._usual_silence_s
        until_s = time_s + (monotonic_s - arrived_s) - behind_s
        count = int((until_s - self._last_s) * self._rate_hz + _ROUNDING)
        if count <= 0:
            return np.empty(0)
        steps = np.arange(max(1, count - _MAX_MISSING + 1), count + 1, dtype=np.float64)
        times: NDArray[np.float64] = self._last_s + steps / self._rate_hz
        self._last_s = float(times[-1])
        return times

    def silent_s(self) -> float:
        """Return the newest sample's age."""
        now_s = self.now_s()
        return 0.0 if now_s is None or self.watch.newest is None else now_s - self.watch.newest[0]
