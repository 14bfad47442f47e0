"""`recordings:DATASET`: a dataset's recordings in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from mmkd_station.intake import Delivery, ReplayedRecording
from mmkd_station.protocols.base import Source, SourceRequest, paced_source

# Samples per delivery: a tenth of a second if the pace matters.
_TOGETHER_S, _MAX_TOGETHER = 0.1, 4096


def recordings_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open recordings, with times from 0 and pauses that no window spans."""
    return paced_source(_pieces(request.load_recordings(place), request), request)


def _pieces(recordings: Sequence[ReplayedRecording], request: SourceRequest) -> Iterator[Delivery]:
    rate_hz, start_s, together = request.rate_hz, 0.0, _MAX_TOGETHER
    if request.replay_speed is not None:
        together = max(1, min(_MAX_TOGETHER, round(_TOGETHER_S * rate_hz)))
    for recording in recordings:
        times = start_s + np.arange(len(recording.rows)) / rate_hz
        for start in range(0, len(times), together):
            piece = slice(start, start + together)
            yield Delivery(rows=recording.rows[piece], times=times[piece], arrived_s=time.monotonic())
        start_s += len(times) / rate_hz + 2 * request.window_s
