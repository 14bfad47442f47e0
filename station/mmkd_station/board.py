"""The last minutes of a station for its page: samples become extremes of bins."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import ModalitySpec, TaskSpec
from mmkd_station.records import AlarmRecord, Record, ResultRecord, StateRecord

SPAN_S = 60.0
"""Length of the signal on the page."""
_RESULTS, _EPISODES, _STATES, _BINS = 600, 50, 20, 600
_BIN_S = SPAN_S / _BINS
# After so many late deliveries in a row, time has jumped back.
_STEPS_BACK = 5


class _Bin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A tenth of a second: extremes per channel, NaN if all samples are missing."""

    number: int
    time_s: float
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


class _Signal:
    def __init__(self) -> None:
        self._bins: deque[_Bin] = deque(maxlen=_BINS)
        self._behind = 0

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
        numbers = np.floor(times / _BIN_S).astype(np.int64)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1])
        present = np.isfinite(rows)
        lowest = np.minimum.reduceat(np.where(present, rows, np.inf), starts)  # (bins, C)
        highest = np.maximum.reduceat(np.where(present, rows, -np.inf), starts)
        empty = ~np.isfinite(lowest) | ~np.isfinite(highest)
        lowest[empty] = highest[empty] = np.nan
        is_behind = bool(self._bins) and int(numbers[-1]) < self._bins[-1].number
        self._behind = self._behind + 1 if is_behind else 0
        if self._behind >= _STEPS_BACK:
            self._bins.clear()
        bins = list(zip(numbers[starts].tolist(), lowest.tolist(), highest.tolist(), strict=True))
        for number, low, high in bins[-_BINS:]:
            if self._bins and number < self._bins[-1].number:
                continue
            if self._bins and number == self._bins[-1].number:
                last = self._bins.pop()
                low, high = np.fmin(last.lowest, low).tolist(), np.fmax(last.highest, high).tolist()
            elif self._bins and (number - self._bins[-1].number) * _BIN_S > SPAN_S:
                self._bins.clear()  # another time line
            self._bins.append(_Bin(number, round(number * _BIN_S, 3), tuple(low), tuple(high)))

    def after(self, number: int) -> tuple[_Bin, ...]:
        """Return bins from a number on, the growing last one included; all after a jump in time."""
        restarted = bool(self._bins) and self._bins[-1].number < number
        return tuple(kept for kept in self._bins if restarted or kept.number >= number)


class _Episode(msgspec.Struct, frozen=True, kw_only=True):
    """An episode's last alarm, begin and end (UTC), and answers."""

    alarm: AlarmRecord
    raised_s: float
    cleared_s: float | None = None
    acknowledged: bool = False
    contradicted: bool = False


class BoardNews(msgspec.Struct, frozen=True, kw_only=True):
    """New bins and results; recent episodes and states, newest first."""

    bins: tuple[_Bin, ...]
    results: tuple[ResultRecord, ...]
    episodes: tuple[_Episode, ...]
    states: tuple[StateRecord, ...]


class Board:
    """The last minutes of one station."""

    def __init__(self, modalities: Sequence[ModalitySpec], task: TaskSpec) -> None:
        self.modalities = tuple(modalities)
        self.task = task
        self._signals = [_Signal() for _ in self.modalities]
        self._results: deque[ResultRecord] = deque(maxlen=_RESULTS)
        self._episodes: deque[_Episode] = deque(maxlen=_EPISODES)
        self._states: deque[StateRecord] = deque(maxlen=_STATES)
        self._lock = threading.Lock()

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32], *, sensor: int) -> None:
        """Add (n,) seconds and float32 (n, C); for video the mean brightness of channels."""
        with self._lock:
            self._signals[sensor].samples(times, rows)

    def record(self, record: Record) -> None:
        """Add a record."""
        with self._lock:
            match record:
                case ResultRecord():
                    self._results.append(record)
                case AlarmRecord():
                    self._follow(record)
                case StateRecord():
                    self._states.append(record)

    def _follow(self, alarm: AlarmRecord) -> None:
        if alarm.event in ("raised", "continued"):
            self._episodes.append(_Episode(alarm=alarm, raised_s=alarm.decided_s))
        for place, episode in enumerate(self._episodes):
            if episode.alarm.episode == alarm.episode:
                self._episodes[place] = msgspec.structs.replace(
                    episode,
                    alarm=alarm,
                    cleared_s=alarm.decided_s if alarm.event == "cleared" else episode.cleared_s,
                    acknowledged=episode.acknowledged or alarm.event in ("acknowledged", "contradicted"),
                    contradicted=episode.contradicted or alarm.event == "contradicted",
                )

    def alarm(self, number: int) -> AlarmRecord | None:
        """Return an unacknowledged episode's last alarm, if any."""
        with self._lock:
            waiting = [episode.alarm for episode in self._episodes if not episode.acknowledged]
        return next((alarm for alarm in waiting if alarm.episode == number), None)

    def latest(self) -> ResultRecord | None:
        """Return the last result, if any."""
        with self._lock:
            return self._results[-1] if self._results else None

    def unacknowledged(self) -> int:
        """Return the number of unacknowledged episodes."""
        with self._lock:
            return sum(not episode.acknowledged for episode in self._episodes)

    def news(self, *, sensor: int, after_bin: int, after_result: int) -> BoardNews:
        """Return a sensor's bins and results after these numbers, and the last bin."""
        with self._lock:
            return BoardNews(
                bins=self._signals[sensor].after(after_bin),
                results=tuple(result for result in self._results if result.number > after_result),
                episodes=tuple(reversed(self._episodes)),
                states=tuple(reversed(self._states)),
            )
