"""`recordings:DATASET`: the recordings of a dataset, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from mmkd_station.intake import Delivery, Intake, ReplayedRecording
from mmkd_station.protocols.base import SourceRequest, paced

# Samples given together: where the pace matters a tenth of a second in their own time.
_TOGETHER_S, _MOST_TOGETHER = 0.1, 4096


class RecordingsSource:
    """Recordings one after the other.

    Args:
        pause_s: between two recordings, in their own time; no window must span it.
    """

    live = False

    def __init__(self, recordings: Sequence[ReplayedRecording], request: SourceRequest, *, pause_s: float) -> None:
        self._recordings = recordings
        self._request = request
        self._pause_s = pause_s

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        """Yield the samples, with times that begin at 0."""
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
            start_s += len(times) / rate_hz + self._pause_s

    def close(self) -> None:
        """Do nothing: it holds nothing."""
