"""Recordings of a dataset to replay, and a machine's running for a while, for `mmkd-edge commission`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import dropwhile

import numpy as np
from numpy.typing import NDArray

from mmkd_app.cli.show import say
from mmkd_app.live.lines import never_connected, reason_lines
from mmkd_app.live.options import column_mapping
from mmkd_edge import ModalitySpec
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.commissioning import MachineRun
from mmkd_edge.spec import ReplayedRecording
from mmkd_station.build import open_service
from mmkd_station.records import Record, ResultRecord
from mmkd_station.spec import RunSpec, StationSpec, check_run
from mmkd_station.station import StationFacts

_GOOD = ("ok", "unknown")


class _Listener:
    """Takes the first results of a station, and measures its samples until then."""

    def __init__(self, most: int, *, channels: int) -> None:
        self._most = most
        self.is_full = threading.Event()
        self.results: list[ResultRecord] = []
        self.lowest, self.highest = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._at_lowest, self._at_highest, self._counts = np.zeros((3, channels))
        self._sums, self._squares = np.zeros((2, channels))

    def record(self, record: Record) -> None:
        if isinstance(record, ResultRecord) and not self.is_full.is_set():
            self.results.append(record)
            if len(self.results) == self._most:
                self.is_full.set()

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32], *, sensor: int) -> None:
        if self.is_full.is_set():
            return
        present = np.isfinite(rows)
        low, high = np.where(present, rows, np.inf).min(axis=0), np.where(present, rows, -np.inf).max(axis=0)
        self._at_lowest *= low >= self.lowest
        self._at_highest *= high <= self.highest
        self.lowest, self.highest = np.minimum(self.lowest, low), np.maximum(self.highest, high)
        self._at_lowest += (rows == self.lowest).sum(axis=0)
        self._at_highest += (rows == self.highest).sum(axis=0)
        values = np.where(present, rows, 0.0).astype(np.float64)
        self._counts += present.sum(axis=0)
        self._sums += values.sum(axis=0)
        self._squares += np.square(values).sum(axis=0)

    def run(self, facts: StationFacts, *, period_s: float) -> MachineRun:
        """Return what was recorded; a result comes every `period_s`."""
        after = list(dropwhile(lambda result: result.status == "warming_up", self.results))
        good = [result for result in after if result.score is not None and result.status in _GOOD]
        seconds = len(after) * period_s
        times = [result.time_s for result in after if result.time_s is not None and result.input_age_s is None]
        if times:
            seconds = max(seconds, times[-1] - times[0] + period_s)  # what a recording lacks has no results
        counts = np.where(self._counts, self._counts, np.nan)
        mean = self._sums / counts
        stream = facts.stream
        left_out = facts.untrusted + stream.late + stream.strays + stream.duplicates
        return MachineRun(
            scores=np.array([result.score for result in good], dtype=np.float64),
            unlike=sum(result.status == "unknown" for result in good) / max(1, len(good)),
            without_answer=1 - len(good) * period_s / seconds if seconds else 0.0,
            left_out=left_out / max(1, facts.intake.samples),
            jumps=stream.restarts,
            lowest=self.lowest,
            highest=self.highest,
            mean=mean,
            std=np.sqrt(np.maximum(self._squares / counts - np.square(mean), 0.0)),
            at_limits=(self._at_lowest + self._at_highest) / counts,
        )


def listen(
    bundle: str,
    source: str,
    *,
    modality: ModalitySpec,
    mapping: Sequence[str],
    hop: int,
    minutes: float,
    reference: str | None,
) -> tuple[MachineRun, float]:
    """Run a bundle on a source for some minutes; return what it recorded, and the minutes of its results.

    Raises UsageError, or UnavailableError if the source never connected.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--minutes {minutes:g}: expected a number above 0; for instance 30")
    spec = StationSpec(bundle=bundle, source=source, map=column_mapping(mapping), hop=hop, reference=reference)
    run, period_s = check_run(RunSpec(stations=(spec,), for_s=60 * minutes)), hop / modality.rate_hz
    # Files are read faster than they were recorded.
    listener = _Listener(max(1, round(60 * minutes / period_s)), channels=len(modality.channels))
    with open_service(run, load_recordings=load_recordings) as service:
        (station,) = service.stations
        station.watchers.append(listener)
        (facts,) = service.run(stop=listener.is_full, reload=threading.Event()).stations
        if error := station.error or never_connected([facts]):
            raise error
    for line in reason_lines(facts):
        say(line)
    return listener.run(facts, period_s=period_s), len(listener.results) * period_s / 60


def load_recordings(place: str, modality: ModalitySpec) -> list[ReplayedRecording]:
    """Return a dataset's recordings of a modality."""
    from mmkd_models.data.for_devices import read_recordings

    return read_recordings(place, modality)
