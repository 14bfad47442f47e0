"""What was recorded, given again at a speed of one's choice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from mmkd_station.intake import Delivery, Listener
from mmkd_station.sources.base import ReplayedRecording, Wanted

# Samples of recordings given together: where the pace matters a tenth of a second in their own time.
_TOGETHER_S, _MOST_TOGETHER = 0.1, 4096


def paced(deliveries: Iterator[Delivery], wanted: Wanted, stop: threading.Event) -> Iterator[Delivery]:
    """Deliveries at `replay_speed` times the pace of their own times; those without times at the declared rate.

    A pause that would last longer than a minute, and a step back, begin a new pace.
    """
    speed = wanted.replay_speed
    if speed is None:
        yield from deliveries
        return
    began_s, origin_s, counted = time.monotonic(), None, 0
    for delivery in deliveries:
        counted += len(delivery.rows)
        moment_s = counted / wanted.rate_hz if delivery.times is None else float(delivery.times[-1])
        if origin_s is None:
            origin_s = moment_s if delivery.times is not None else 0.0
        due_s = began_s + (moment_s - origin_s) / speed
        now_s = time.monotonic()
        if not -1.0 <= due_s - now_s <= 60.0:
            began_s, origin_s = now_s, moment_s
        elif due_s > now_s and stop.wait(due_s - now_s):
            return
        yield Delivery(rows=delivery.rows, times=delivery.times, arrived_s=time.monotonic())


class RecordingsSource:
    """Recordings one after the other, with a pause between two that no window spans.

    Args:
        recordings: to give.
        wanted: the rate and the speed.
        pause_s: between two recordings, in their own time.
    """

    live = False

    def __init__(self, recordings: Sequence[ReplayedRecording], wanted: Wanted, *, pause_s: float) -> None:
        self._recordings = recordings
        self._wanted = wanted
        self._pause_s = pause_s

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """The samples, with times that begin at 0."""
        yield from paced(self._pieces(), self._wanted, listener.stop)

    def _pieces(self) -> Iterator[Delivery]:
        rate_hz, begins_s = self._wanted.rate_hz, 0.0
        together = _MOST_TOGETHER
        if self._wanted.replay_speed is not None:
            together = max(1, min(_MOST_TOGETHER, round(_TOGETHER_S * rate_hz)))
        for recording in self._recordings:
            times = begins_s + np.arange(len(recording.rows)) / rate_hz
            for start in range(0, len(times), together):
                piece = slice(start, start + together)
                yield Delivery(rows=recording.rows[piece], times=times[piece], arrived_s=time.monotonic())
            begins_s = begins_s + len(times) / rate_hz + self._pause_s

    def close(self) -> None:
        """Nothing is held."""
