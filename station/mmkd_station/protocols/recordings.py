"""`recordings:DATASET`: the recordings of a dataset, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Source, SourceRequest, paced

# Samples given together: where the pace matters a tenth of a second in their own time.
_TOGETHER_S, _MOST_TOGETHER = 0.1, 4096


class RecordingsSource(Source):
    """Recordings one after the other, with a pause between two that no window spans."""

    live = False

    def __init__(self, text: str, place: str, request: SourceRequest) -> None:
        self._recordings = request.load_recordings(place)
        self._request = request

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        """Yield the samples, with times from 0."""
        yield from paced(self._pieces(), self._request, intake.stop)

    def _pieces(self) -> Iterator[Delivery]:
        rate_hz, start_s, together = self._request.rate_hz, 0.0, _MOST_TOGETHER
        if self._request.replay_speed is not None:
            together = max(1, min(_MOST_TOGETHER, round(_TOGETHER_S * rate_hz)))
        for recording in self._recordings:
            times = start_s + np.arange(len(recording.rows)) / rate_hz
            for start in range(0, len(times), together):
                piece = slice(start, start + together)
                yield Delivery(rows=recording.rows[piece], times=times[piece], arrived_s=time.monotonic())
            start_s += len(times) / rate_hz + 2 * self._request.window_s
