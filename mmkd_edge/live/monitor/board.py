"""What a page shows of a station: the last minutes, in bounded memory.

Owns the reduction: samples become at most a few hundred bins with their lowest and highest value, so that a page costs
the same at 10 Hz and at 100 kHz. Written by the station's threads, read by the server's.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.live.records import AlarmRecord, Record, ResultRecord, StateRecord
from mmkd_edge.spec import ModalitySpec, TaskSpec

SPAN_S = 60.0
"""Of the signal and the timeline."""
_BINS = 600
# So many deliveries in a row that end before the newest bin are another time line; fewer are late.
_STEPS_BACK = 5
_RESULTS, _EPISODES, _STATES = 600, 50, 20


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


class Shown(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A result on the timeline.

    Attributes:
        number: of the record.
        time_s: on the clock of the samples, or where they have none the moment of the decision.
        status: of the result.
        index: of its label; -1 where there is no answer.
        probabilities: of all labels; of a number the value alone.
        missing_share: of its window.
        novelty: p-value of its window; None where the bundle gives none.
    """

    number: int
    time_s: float
    status: str
    index: int
    probabilities: tuple[float, ...]
    missing_share: float
    reason: str
    novelty: float | None


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """An episode as the operator sees it.

    Attributes:
        episode: its number.
        label: what it is of.
        since_s: when it began.
        raised_s: UTC, when it was decided.
        cleared_s: UTC; None while it is open.
        windows: that spoke for it.
        probability: the highest of its label.
        acknowledged: whether somebody took note of it.
        contradicted: whether they called it a false alarm.
    """

    episode: int
    label: str
    since_s: float | None
    raised_s: float
    cleared_s: float | None = None
    windows: int
    probability: float
    acknowledged: bool = False
    contradicted: bool = False


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is new on a board since a moment.

    Attributes:
        bins: of the signal.
        results: of the timeline.
        episodes: all that are kept, the newest first.
        states: all that are kept, the newest first.
    """

    bins: tuple[Bin, ...]
    results: tuple[Shown, ...]
    episodes: tuple[Episode, ...]
    states: tuple[StateRecord, ...]


class Board:
    """The last minutes of one station.

    Args:
        modality: what its samples are.
        task: what it answers.
    """

    def __init__(self, modality: ModalitySpec, task: TaskSpec) -> None:
        self.modality = modality
        self.task = task
        self._bin_s = SPAN_S / _BINS
        self._bins: deque[Bin] = deque(maxlen=_BINS)
        self._results: deque[Shown] = deque(maxlen=_RESULTS)
        self._episodes: deque[Episode] = deque(maxlen=_EPISODES)
        self._states: deque[StateRecord] = deque(maxlen=_STATES)
        self._alarms: dict[int, AlarmRecord] = {}
        self._behind = 0
        self._lock = threading.Lock()

    # ---- what passes

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
        """Samples that go into the stream: (n,) seconds and float32 (n, C)."""
        numbers = np.floor(times / self._bin_s).astype(np.int64)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1])
        present = np.isfinite(rows)
        lowest = np.minimum.reduceat(np.where(present, rows, np.inf), starts)  # (bins, C)
        highest = np.maximum.reduceat(np.where(present, rows, -np.inf), starts)
        gone = ~np.isfinite(lowest) | ~np.isfinite(highest)
        lowest[gone] = highest[gone] = np.nan
        found = zip(numbers[starts].tolist(), lowest.tolist(), highest.tolist(), strict=True)
        with self._lock:
            is_behind = bool(self._bins) and int(numbers[-1]) < self._bins[-1].number
            self._behind = self._behind + 1 if is_behind else 0
            if self._behind >= _STEPS_BACK:
                self._bins.clear()
            for number, low, high in list(found)[-_BINS:]:
                self._put(number, low, high)

    def _put(self, number: int, low: Sequence[float], high: Sequence[float]) -> None:
        time_s = round(number * self._bin_s, 3)
        if self._bins and number <= self._bins[-1].number:
            place = next((place for place, one in enumerate(self._bins) if one.number == number), None)
            if place is not None:  # else it is late, and of a gap
                self._bins[place] = _wider(self._bins[place], low, high)
            return
        if self._bins and time_s - self._bins[-1].time_s > SPAN_S:
            self._bins.clear()  # another time line
        self._bins.append(Bin(number, time_s, tuple(low), tuple(high)))

    def record(self, record: Record) -> None:
        """What comes out of the station."""
        with self._lock:
            match record:
                case ResultRecord():
                    self._results.append(_shown(record))
                case AlarmRecord():
                    self._follow(record)
                case StateRecord():
                    self._states.append(record)

    def _follow(self, alarm: AlarmRecord) -> None:
        if alarm.event == "raised":
            self._episodes.append(
                Episode(
                    episode=alarm.episode,
                    label=alarm.label,
                    since_s=alarm.since_s,
                    raised_s=alarm.decided_s,
                    windows=alarm.windows,
                    probability=alarm.probability,
                )
            )
        kept = {one.episode for one in self._episodes}
        self._alarms = {number: one for number, one in self._alarms.items() if number in kept}
        for place, episode in enumerate(self._episodes):
            if episode.episode == alarm.episode:
                self._alarms[alarm.episode] = alarm
                self._episodes[place] = msgspec.structs.replace(
                    episode,
                    windows=alarm.windows,
                    probability=alarm.probability,
                    cleared_s=alarm.decided_s if alarm.event == "cleared" else episode.cleared_s,
                    acknowledged=episode.acknowledged or alarm.event in ("acknowledged", "contradicted"),
                    contradicted=episode.contradicted or alarm.event == "contradicted",
                )

    # ---- what is seen

    def alarm(self, episode: int) -> AlarmRecord | None:
        """The last alarm of an episode that is not acknowledged yet; None where there is none."""
        with self._lock:
            open_ones = {one.episode for one in self._episodes if not one.acknowledged}
            return self._alarms.get(episode) if episode in open_ones else None

    def latest(self) -> Shown | None:
        """The last result; None before the first."""
        with self._lock:
            return self._results[-1] if self._results else None

    def unacknowledged(self) -> int:
        """Episodes that nobody took note of."""
        with self._lock:
            return sum(not one.acknowledged for one in self._episodes)

    def seen(self, *, after_bin: int, after_result: int) -> Seen:
        """What is newer than a bin and a result, by their numbers; the last bin is given again, for it grows."""
        with self._lock:
            bins = tuple(one for one in self._bins if one.number >= after_bin)
            restarted = bool(self._bins) and self._bins[-1].number < after_bin
            return Seen(
                bins=tuple(self._bins) if restarted else bins,
                results=tuple(one for one in self._results if one.number > after_result),
                episodes=tuple(reversed(self._episodes)),
                states=tuple(reversed(self._states)),
            )


def _wider(one: Bin, low: Sequence[float], high: Sequence[float]) -> Bin:
    """A bin with more samples in it."""
    lowest = tuple(_least(old, new) for old, new in zip(one.lowest, low, strict=True))
    highest = tuple(-_least(-old, -new) for old, new in zip(one.highest, high, strict=True))
    return Bin(one.number, one.time_s, lowest, highest)


def _least(one: float, other: float) -> float:
    """The lower of two, where both are there."""
    return other if math.isnan(one) else one if math.isnan(other) else min(one, other)


def _shown(record: ResultRecord) -> Shown:
    shares = record.probabilities if record.value is None else (record.value,)
    return Shown(
        record.number,
        record.decided_s if record.time_s is None else record.time_s,
        record.status,
        record.index,
        tuple(round(share, 4) for share in shares),
        round(record.missing_share, 4),
        record.reason,
        None if record.novelty is None else round(record.novelty, 4),
    )
