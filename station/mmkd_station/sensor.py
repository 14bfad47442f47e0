"""One sensor of a station, from its source to the predictions of its student, and which of several sensors answers.

Owns the clock and the stream of a source, and what a silent sensor is. Starts no thread: a station reads and asks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction, Status, WindowFault, with_fault
from mmkd_station.clock import SampleClock, TimeFault, TimeFrom
from mmkd_station.intake import Delivery
from mmkd_station.sources.base import Source
from mmkd_station.uncertain import UncertainRing


class StationRules(msgspec.Struct, frozen=True, kw_only=True):
    """How a station treats the samples of a sensor.

    Attributes:
        hop: samples from one prediction to the next.
        time_from: whose times are taken.
        gap_s: as of `EdgePredictor.stream`.
        reorder: as of `EdgePredictor.stream`.
        stale_s: from this age of the newest sample on a result is stale.
        silence_s: from when on a live source is silent and its samples missing; None goes by the usual intervals.
        modality: which student of the bundle; None is the first.
    """

    hop: int
    time_from: TimeFrom = "source"
    gap_s: float | None = None
    reorder: int = 0
    stale_s: float | None = None
    silence_s: float | None = None
    modality: str | None = None


# Samples that go into a stream together: sorting and gridding so many takes a few milliseconds.
_TOGETHER = 1024


class StreamTurn(NamedTuple):
    """What goes into a stream, and what comes out.

    Attributes:
        times: (n,) seconds.
        levels: float32 (n, C), what is drawn of the samples: they themselves, of frames the brightness of channels.
        found: predictions that become due, each made when it is asked for; all of them before the next turn.
    """

    times: NDArray[np.float64]
    levels: NDArray[np.float32]
    found: Iterator[Prediction]


class Sensor:
    """A source, and its samples on the way to predictions. Used by the thread that answers.

    Args:
        source: closed by `close`.
        text: how it was named.
        predictor: who answers.
        rules: how samples are treated.
        ring: what keeps uncertain windows, closed by `close`; None keeps none.

    Attributes:
        modality: of its samples.
        now_s: this moment on the clock of the samples.
        has_ended: whether all that the source gave was answered, and nothing will come.
    """

    def __init__(
        self,
        source: Source,
        text: str,
        *,
        predictor: EdgePredictor,
        rules: StationRules,
        ring: UncertainRing | None = None,
    ) -> None:
        self.source = source
        self.ring = ring
        self.text = text
        self.now_s = 0.0
        self.has_ended = False
        # What was recorded has no age.
        self._rules = rules if source.live else msgspec.structs.replace(rules, stale_s=None)
        entry = next(one for one in predictor.entries if rules.modality in (None, one.modality.name))
        self.modality = entry.modality
        self._clock = SampleClock(
            rate_hz=self.modality.rate_hz,
            time_from=rules.time_from,
            live=source.live,
            silence_s=rules.silence_s,
            stale_s=rules.stale_s,
            back_s=max(self.modality.duration_s, rules.gap_s or 0.0, rules.reorder / self.modality.rate_hz),
        )
        self._came = 0
        self._answered = False  # since the last delivery
        self._before = 0, 0  # samples that had come and were left out before those that the next result is of
        self.stream = predictor.stream(
            hop=rules.hop,
            modality=rules.modality,
            gap_s=rules.gap_s,
            reorder=rules.reorder,
            stale_s=self._rules.stale_s,
            on_window=None if ring is None else self._keep,
        )

    def take(self, delivery: Delivery) -> Iterator[StreamTurn]:
        """Samples that came, a part after the other; none where their times cannot be trusted."""
        if self._answered:
            self._before, self._answered = (self._came, self.left_out), False
        self._came += len(delivery.rows)
        times = self._clock.times_of(delivery)
        for part in [] if times is None else _parts(len(times)):
            assert times is not None
            now_s = self._clock.now_s()
            self.now_s = float(times[part][-1]) if now_s is None else now_s
            rows = delivery.rows[part]
            found = self.stream.each(rows, times[part], now_s=self.now_s)
            yield StreamTurn(times[part], _levels(rows), map(self._judged, found))

    def fill_silence(self) -> Iterator[StreamTurn]:
        """What a silent source should have given, as missing."""
        times = self._clock.missing_times(time.monotonic())
        now_s = self._clock.now_s()
        if now_s is None or self.has_ended:
            return
        self.now_s, silent_s = now_s, self._clock.silent_s()
        is_video = self.modality.kind == "video"
        for part in _parts(len(times)):
            levels = np.full((len(times[part]), len(self.modality.channels)), np.nan, dtype=np.float32)
            # Of a long silence without frames the last window says as much.
            last = times[part][-self.modality.samples if is_video else 0 :]
            missing = [None] * len(last) if is_video else levels
            found = self.stream.each(missing, last, now_s=now_s)
            yield StreamTurn(times[part], levels, (self._judged(one, silent_s=silent_s) for one in found))

    def flush(self) -> list[Prediction]:
        """What is due at the end."""
        self.now_s = self._clock.now_s() or self.now_s
        return [self._judged(prediction) for prediction in self.stream.flush(now_s=self.now_s)]

    @property
    def refused(self) -> int:
        """Samples that were left out because their times cannot be trusted."""
        return self._clock.watch.refused

    @property
    def is_refusing(self) -> bool:
        """Whether the times of the last samples that came cannot be trusted."""
        return bool(self._clock.watch.reason)

    @property
    def left_out(self) -> int:
        """Samples that were left out because of their times."""
        facts = self.stream.facts
        return facts.late + facts.strays + self.refused

    @property
    def time_fault(self) -> TimeFault | None:
        """What is known against the times of samples now, or was a moment ago."""
        return self._clock.watch.fault

    def close(self) -> None:
        """Close the source, and write what waits in the ring."""
        self.source.close()
        if self.ring is not None:
            self.ring.close()

    def _keep(self, window: NDArray[Any], prediction: Prediction) -> None:
        assert self.ring is not None
        self.ring.see(window, prediction, time_s=self.now_s - (prediction.input_age_s or 0.0))

    def _judged(self, prediction: Prediction, *, silent_s: float = 0.0) -> Prediction:
        """A prediction with what is known against the times of its samples.

        While no sample comes that can be trusted its input is as old as the last one, and stale.

        Args:
            prediction: of the stream.
            silent_s: for how long no sample has come.
        """
        self._answered = True
        stale_s, reason = self._rules.stale_s, self._clock.watch.reason
        if not reason and stale_s is not None and silent_s > stale_s:
            reason = f"no sample for {silent_s:.1f} s"
        if reason:
            reason = f"{reason}; {prediction.reason}" if prediction.reason else reason
            return msgspec.structs.replace(prediction, status="stale", reason=reason)
        came, left_out = self._came - self._before[0], self.left_out - self._before[1]
        if not left_out:
            return prediction
        if 2 * left_out > came:
            self._clock.watch.tell("late")
            status: Status = "invalid"
        else:
            self._before, status = (self._came, self.left_out), "degraded"
        reason = f"{left_out:,} of {came:,} samples were left out because of their times"
        return with_fault(prediction, WindowFault(status=status, reason=reason))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _TOGETHER) for start in range(0, count, _TOGETHER)]


def _levels(rows: NDArray[Any]) -> NDArray[np.float32]:
    levels: NDArray[np.float32] = rows if rows.ndim == 2 else rows.mean(axis=(1, 2), dtype=np.float32)
    return levels
