"""What a page shows of a station: the last minutes, in bounded memory.

Owns which sensor's signal is shown. Written by the station's threads, read by the server's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import ModalitySpec, TaskSpec
from mmkd_station.monitor.signal import Bin, Signal
from mmkd_station.records import AlarmRecord, Record, ResultRecord, StateRecord

_RESULTS, _EPISODES, _STATES = 600, 50, 20


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


class BoardNews(msgspec.Struct, frozen=True, kw_only=True):
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
        modalities: what its sensors' samples are, in the order of the sensors.
        task: what it answers.
    """

    def __init__(self, modalities: Sequence[ModalitySpec], task: TaskSpec) -> None:
        self.modalities = tuple(modalities)
        self.task = task
        self._signals = [Signal() for _ in self.modalities]
        self._answering = 0
        self._results: deque[Shown] = deque(maxlen=_RESULTS)
        self._episodes: deque[Episode] = deque(maxlen=_EPISODES)
        self._states: deque[StateRecord] = deque(maxlen=_STATES)
        self._alarms: dict[int, AlarmRecord] = {}
        self._lock = threading.Lock()

    # ---- what passes

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32], *, sensor: int) -> None:
        """Samples that go into the stream of a sensor: (n,) seconds and float32 (n, C)."""
        with self._lock:
            self._signals[sensor].samples(times, rows)

    def record(self, record: Record) -> None:
        """What comes out of the station."""
        with self._lock:
            match record:
                case ResultRecord():
                    names = [one.name for one in self.modalities]
                    self._answering = names.index(record.modality) if record.modality in names else 0
                    self._results.append(_shown(record))
                case AlarmRecord():
                    self._follow(record)
                case StateRecord():
                    self._states.append(record)

    def _follow(self, alarm: AlarmRecord) -> None:
        if alarm.event in ("raised", "continued"):
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

    def answering(self) -> int:
        """Which sensor the last result is of; the first before any."""
        with self._lock:
            return self._answering

    def seen(self, *, sensor: int, after_bin: int, after_result: int) -> BoardNews:
        """What is newer than a bin of a sensor and a result, by their numbers; the last bin is given again."""
        with self._lock:
            return BoardNews(
                bins=self._signals[sensor].after(after_bin),
                results=tuple(one for one in self._results if one.number > after_result),
                episodes=tuple(reversed(self._episodes)),
                states=tuple(reversed(self._states)),
            )


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
