"""A sensor's source, clock, stream and uncertain windows. Starts no thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.predict.postprocess import with_fault
from mmkd_edge.predict.sensors import Status, WindowFault
from mmkd_edge.stream.stream import select_entry
from mmkd_station.clock import SampleClock, SensorRules, TimeFault, TimeWatch
from mmkd_station.intake import Delivery
from mmkd_station.protocols.base import Source
from mmkd_station.shadow import Shadow
from mmkd_station.uncertain import UncertainRing

# Samples per turn, which take a few milliseconds.
_TOGETHER = 1024


class StreamTurn(NamedTuple):
    """Samples (n,) for a stream, and predictions; consume them before the next turn."""

    times: NDArray[np.float64]
    levels: NDArray[np.float32]  # (n, C) to draw: samples, or mean brightness of video channels
    predictions: Iterator[Prediction]


class Sensor:
    """A source whose samples become predictions, in the thread that answers.

    `now_s` is the current time on the samples' clock; `has_ended` is set once everything is answered.
    """

    def __init__(
        self,
        source: Source,
        text: str,
        *,
        predictor: EdgePredictor,
        rules: SensorRules,
        ring: UncertainRing | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self.source = source
        self.ring = ring
        self.shadow = shadow
        self._watchers = [watcher for watcher in (ring, shadow) if watcher is not None]
        self.text = text
        self.now_s = 0.0
        self.has_ended = False
        self._stale_s = rules.stale_s if source.live else None  # recordings have no age
        _, entry = select_entry(predictor.entries, rules.modality)
        self.modality = entry.modality
        self._clock = SampleClock(
            rate_hz=self.modality.rate_hz,
            time_from=rules.time,
            live=source.live,
            silence_s=rules.silence_s,
            stale_s=self._stale_s,
            back_s=max(self.modality.duration_s, rules.gap_s or 0.0),
        )
        self._came = 0
        self._answered = False  # since the last delivery
        self._before = 0, 0  # samples, and those left out, before the next result
        self.stream = predictor.stream(
            hop=usual_hop(entry) if rules.hop is None else rules.hop,
            modality=rules.modality,
            gap_s=rules.gap_s,
            stale_s=self._stale_s,
            on_window=self._show if self._watchers else None,
            over_time=not rules.single_answers,
        )

    def take(self, delivery: Delivery) -> Iterator[StreamTurn]:
        """Stream a delivery in parts, unless its times are implausible."""
        if self._answered:
            self._before, self._answered = (self._came, self.left_out), False
        self._came += len(delivery.rows)
        times = self._clock.sample_times(delivery)
        if times is None:
            return
        for part in _parts(len(times)):
            now_s = self._clock.now_s()
            self.now_s = float(times[part][-1]) if now_s is None else now_s
            rows = delivery.rows[part]
            levels = rows if rows.ndim == 2 else rows.mean(axis=(1, 2), dtype=np.float32)
            predictions = self.stream.each(rows, times[part], now_s=self.now_s)
            yield StreamTurn(times[part], levels, map(self._judge, predictions))

    def fill_silence(self) -> Iterator[StreamTurn]:
        """Fill a silent time with missing samples."""
        times = self._clock.missing_times(time.monotonic())
        now_s = self._clock.now_s()
        if now_s is None or self.has_ended:
            return
        self.now_s, silent_s = now_s, self._clock.silent_s()
        is_video = self.modality.kind == "video"
        for part in _parts(len(times)):
            levels = np.full((len(times[part]), len(self.modality.channels)), np.nan, dtype=np.float32)
            # For a long silence the last window is enough.
            last = times[part][-self.modality.samples if is_video else 0 :]
            missing = [None] * len(last) if is_video else levels
            predictions = self.stream.each(missing, last, now_s=now_s)
            yield StreamTurn(times[part], levels, (self._judge(each, silent_s=silent_s) for each in predictions))

    def flush(self) -> list[Prediction]:
        """Return the predictions due at the end."""
        self.now_s = self._clock.now_s() or self.now_s
        return [self._judge(prediction) for prediction in self.stream.flush(now_s=self.now_s)]

    @property
    def watch(self) -> TimeWatch:
        """Check of the sample times."""
        return self._clock.watch

    @property
    def left_out(self) -> int:
        """Samples left out because of their times."""
        facts = self.stream.facts
        return facts.late + facts.strays + self.watch.refused

    def close(self) -> None:
        """Close the source, the ring and the shadow run."""
        self.source.close()
        for watcher in self._watchers:
            watcher.close()

    def _show(self, window: NDArray[Any], prediction: Prediction) -> None:
        time_s = round(self.now_s - (prediction.input_age_s or 0.0), 6)  # as in the records
        for watcher in self._watchers:
            watcher.see(window, prediction, time_s=time_s)

    def _judge(self, prediction: Prediction, *, silent_s: float = 0.0) -> Prediction:
        """Add time faults: without plausible samples a result is stale."""
        self._answered = True
        reason = self.watch.reason
        if not reason and self._stale_s is not None and silent_s > self._stale_s:
            reason = f"no sample for {silent_s:.1f} s"
        if (prediction.status == "stale" or reason) and not self.watch.reason:
            is_ahead = (prediction.input_age_s or 0.0) < 0
            fault: TimeFault = "silent" if silent_s else "ahead" if is_ahead else "old"
            self.watch.note(fault)
        if reason:
            reason = f"{reason}; {prediction.reason}" if prediction.reason else reason
            return msgspec.structs.replace(prediction, status="stale", reason=reason)
        came, left_out = self._came - self._before[0], self.left_out - self._before[1]
        if not left_out:
            return prediction
        status: Status = "degraded"
        if 2 * left_out > came:
            self.watch.note("late")
            status = "invalid"
        else:
            self._before = self._came, self.left_out
        reason = f"{left_out:,} of {came:,} samples were left out because of their times"
        return with_fault(prediction, WindowFault(status=status, reason=reason))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _TOGETHER) for start in range(0, count, _TOGETHER)]


def usual_hop(entry: ModelEntry) -> int:
    """Return the samples of a second, or a shorter window; whole steps for causal students."""
    stride = 1 if entry.streaming is None else entry.streaming.stride
    return max(1, min(round(entry.modality.rate_hz), entry.modality.samples) // stride) * stride
