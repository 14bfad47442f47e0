"""One station: samples from a source become records, in a thread that reads and a thread that answers.

Owns the order of things: source -> intake -> clock -> stream -> alarms -> outlets, and what a silent sensor is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import MmkdError, first_line
from mmkd_edge.live.clock import SampleClock, TimeFrom
from mmkd_edge.live.intake import Delivery, Intake, IntakeFacts
from mmkd_edge.live.records import AlarmRecord, Record, ResultRecord, StateRecord, StationState, result_record
from mmkd_edge.live.sinks.outlet import Outlet
from mmkd_edge.live.sources.base import Source
from mmkd_edge.live.uncertain import RingFacts, UncertainRing
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.stream.stream import OnWindow, Stream, StreamFacts
from mmkd_edge.watch.timing import Histogram, Timing

logger = logging.getLogger(__name__)

_WAITS_S = 0.1
DRAIN_S = 5.0
"""Of an end: so long the samples that wait may take to be answered."""
# How `EdgePredictor` says that an engine gave no answer; see `EdgePredictor._answer`.
_ENGINE_FAILED = "the engine failed"
# A message of one kind, garbage for one, is logged this seldom.
_LOGS_EVERY_S = 60.0


class Onlooker(Protocol):
    """Sees what passes, for a page. It must return at once."""

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
        """What goes into the stream: (n,) seconds and float32 (n, C), of video the brightness of each channel."""
        ...

    def record(self, record: Record) -> None:
        """What comes out."""
        ...


class Alarms(Protocol):
    """Makes episodes of results."""

    def see(self, result: ResultRecord) -> list[AlarmRecord]:
        """The alarms that a result raises or clears; their number is set by the station."""
        ...


class StationRules(msgspec.Struct, frozen=True, kw_only=True):
    """How a station treats its samples.

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


class StationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a station is doing.

    Attributes:
        station: its name.
        running_s: since it was started.
        results: how many, by status.
        alarms: episodes that were raised, by label.
        missed: samples that were filled in as missing while the source was silent.
        faults: deliveries that could not be answered, and why not is in the log.
        intake: what happened before the stream.
        stream: what happened in it.
        latency: from the arrival of samples to the records that they made due.
        uncertain: windows that were kept; None where none are.
        state: as of the last `StateRecord`.
    """

    station: str
    running_s: float
    results: dict[str, int]
    alarms: dict[str, int]
    missed: int
    faults: int
    intake: IntakeFacts
    stream: StreamFacts
    latency: Timing | None
    uncertain: RingFacts | None
    state: StationState


class Station:
    """Runs one source through one predictor into outlets. Start it, and close it.

    Args:
        name: of the station, in every record.
        predictor: who answers; stays yours to close.
        source: closed by `close`.
        source_text: how it was named.
        intake: the queue between the two threads.
        outlets: where records go; they stay yours to close.
        rules: how samples are treated.
        alarms: what makes episodes; None makes none.
        ring: what keeps uncertain windows, closed by `close`; None keeps none.
        onlooker: who looks on; None is nobody.
    """

    def __init__(
        self,
        name: str,
        *,
        predictor: EdgePredictor,
        source: Source,
        source_text: str,
        intake: Intake,
        outlets: Sequence[Outlet],
        rules: StationRules,
        alarms: Alarms | None = None,
        ring: UncertainRing | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        self.name = name
        self.predictor = predictor
        self._source = source
        self._source_text = source_text
        self._intake = intake
        self._outlets = outlets
        # What was recorded has no age.
        self._rules = rules if source.live else msgspec.structs.replace(rules, stale_s=None)
        self._alarms = alarms
        self._ring = ring
        self._onlooker = onlooker
        self._stream = _stream_of(predictor, self._rules, None if ring is None else self._keep)
        self._modality = next(
            entry.modality for entry in predictor.entries if rules.modality in (None, entry.modality.name)
        )
        self._clock = SampleClock(rate_hz=self._modality.rate_hz, time_from=rules.time_from, live=source.live)
        self._latency = Histogram()
        self._lock = threading.Lock()  # of records and counts, which several threads make
        self._number = 0
        self._results: dict[str, int] = {}
        self._raised: dict[str, int] = {}
        self._missed = self._faults = 0
        self._seen_dropped = self._seen_late = 0
        self._state: StationState = "started"
        self._logged, self._logged_s = "", -_LOGS_EVERY_S
        self._now_s = 0.0
        self._busy_since_s: float | None = None
        self._answers = True
        self._error: Exception | None = None
        self._began_s = time.monotonic()
        self._reading = threading.Thread(target=self._read, name=f"source {name}", daemon=True)
        self._answering = threading.Thread(target=self._answer, name=f"station {name}", daemon=True)

    def start(self) -> None:
        """Begin to read and to answer."""
        self.say("started", f"{self.predictor.info().model_id}: {self._modality.name} from {self._source_text}")
        self._reading.start()
        self._answering.start()

    @property
    def is_over(self) -> bool:
        """Whether the source has ended and all its samples are answered."""
        return not self._answering.is_alive()

    @property
    def error(self) -> Exception | None:
        """Why the source cannot be read at all; None where it can."""
        return self._error

    def is_well(self, *, within_s: float) -> bool:
        """Whether a watchdog may hear that all is well: no call hangs, and the engine answers or has nothing to."""
        since_s = self._busy_since_s
        return self._answers and (since_s is None or time.monotonic() - since_s < within_s)

    def stop(self) -> None:
        """Stop reading; what waits is answered."""
        self._intake.stop.set()
        self._intake.end()

    def close(self, *, until_s: float | None = None) -> None:
        """Stop reading, answer what waits, and say goodbye.

        Args:
            until_s: a moment of `time.monotonic()`: what is not answered then is left; None gives it five seconds.
        """
        self.stop()
        until_s = time.monotonic() + DRAIN_S if until_s is None else until_s
        # A reader inside of a library, as of a camera's next frame, must be out of it when the process ends.
        for thread in (self._answering, self._reading):
            if thread.ident is not None:
                thread.join(max(0.0, until_s - time.monotonic()))
        self._source.close()
        if self._ring is not None:
            self._ring.close()
        self.say("stopped", "answered what waited" if self.is_over else "left samples unanswered: no end in 5 s")

    def say(self, state: StationState, reason: str) -> None:
        """Give a record of what happened to the station."""
        logger.info("%s: %s: %s", self.name, state, reason)

        def record(number: int) -> StateRecord:
            return StateRecord(station=self.name, number=number, decided_s=time.time(), state=state, reason=reason)

        self._give(record)

    def acknowledge(self, alarm: AlarmRecord) -> None:
        """Say that somebody took note of an episode.

        Args:
            alarm: the last one of the episode.
        """
        noted = msgspec.structs.replace(alarm, event="acknowledged", decided_s=time.time())
        self._give(partial(_numbered, noted))

    def facts(self) -> StationFacts:
        """How it is doing."""
        with self._lock:
            return StationFacts(
                station=self.name,
                running_s=time.monotonic() - self._began_s,
                results=dict(self._results),
                alarms=dict(self._raised),
                missed=self._missed,
                faults=self._faults,
                intake=self._intake.facts(),
                stream=self._stream.facts,
                latency=self._latency.timing(),
                uncertain=None if self._ring is None else self._ring.facts(),
                state=self._state,
            )

    # ---- the thread that reads

    def _read(self) -> None:
        try:
            for delivery in self._source.deliveries(self._intake):
                if len(delivery.rows):
                    self._intake.put(delivery)
                if self._intake.stop.is_set():
                    break
        except Exception as error:  # a source that fails for good ends, and the other stations go on
            self._error = error
            self.say("failed", first_line(error))
        finally:
            self._intake.end()

    # ---- the thread that answers

    def _answer(self) -> None:
        while not self._intake.is_over:
            delivery = self._intake.take(timeout_s=_WAITS_S)
            self._tell_notes()
            try:
                self._busy_since_s = time.monotonic()
                if delivery is not None:
                    self._take(delivery)
                else:
                    self._fill_silence()
            except Exception as error:  # whatever a sample brings about, the next one is answered
                self._fault(error)
            finally:
                self._busy_since_s = None
        try:
            self._now_s = self._clock.now_s() or self._now_s
            self._say_all(self._stream.flush(now_s=self._now_s))
        except MmkdError as error:
            self._fault(error)

    def _take(self, delivery: Delivery) -> None:
        times = self._clock.times_of(delivery)
        if self._onlooker is not None:
            self._onlooker.samples(times, _levels(delivery.rows))
        now_s = self._clock.now_s()
        self._now_s = float(times[-1]) if now_s is None else now_s
        found = self._stream.push(delivery.rows, times, now_s=self._now_s)
        if found:
            self._say_all(found)
            with self._lock:
                # A recording waits in the queue for as long as it takes: that says nothing of the machine.
                began_s = delivery.arrived_s if self._source.live else self._busy_since_s
                self._latency.add(time.monotonic() - (began_s or delivery.arrived_s))

    def _keep(self, window: NDArray[np.float32], prediction: Prediction) -> None:
        assert self._ring is not None
        self._ring.see(window, prediction, time_s=self._now_s - (prediction.input_age_s or 0.0))

    def _fill_silence(self) -> None:
        """Give the stream what a silent source should have given, as missing."""
        times = self._clock.missing_times(time.monotonic(), silence_s=self._rules.silence_s)
        now_s = self._clock.now_s()
        if now_s is None or len(times) == 0:
            return
        rows = np.full((len(times), len(self._modality.channels)), np.nan, dtype=np.float32)
        self._missed += len(rows)
        self._now_s = now_s
        if self._onlooker is not None:
            self._onlooker.samples(times, rows)
        silent_s = self._clock.silent_s()
        if self._modality.kind == "video":  # of a long silence a window of missing frames says as much
            times = times[-self._modality.samples :]
            found = self._stream.push([None] * len(times), times, now_s=now_s)
        else:
            found = self._stream.push(rows, times, now_s=now_s)
        self._say_all([self._silent(prediction, silent_s) for prediction in found])

    def _silent(self, prediction: Prediction, silent_s: float) -> Prediction:
        """A prediction while no sample comes: its input is as old as the last one, and stale from `stale_s` on."""
        stale_s = self._rules.stale_s
        if stale_s is None or silent_s <= stale_s:
            return prediction
        reason = f"no sample for {silent_s:.1f} s"
        return msgspec.structs.replace(
            prediction,
            status="stale",
            reason=f"{reason}; {prediction.reason}" if prediction.reason else reason,
        )

    # ---- what is said

    def _say_all(self, predictions: Sequence[Prediction]) -> None:
        facts, dropped = self._stream.facts, self._intake.facts().dropped
        late = facts.late + facts.strays
        for prediction in predictions:
            self._say_one(prediction, dropped=dropped - self._seen_dropped, late=late - self._seen_late)
            self._seen_dropped, self._seen_late = dropped, late

    def _say_one(self, prediction: Prediction, *, dropped: int, late: int) -> None:
        self._answers = not prediction.reason.startswith(_ENGINE_FAILED)
        age_s = prediction.input_age_s
        time_s = None if age_s is None else round(self._now_s - age_s, 6)
        if not self._source.live:  # a recording has no age
            prediction = msgspec.structs.replace(prediction, input_age_s=None)

        def record(number: int) -> ResultRecord:
            return result_record(
                prediction,
                station=self.name,
                number=number,
                time_s=time_s,
                decided_s=time.time(),
                dropped=dropped,
                late=late,
            )

        result = self._give(record)
        assert isinstance(result, ResultRecord)
        for alarm in [] if self._alarms is None else self._alarms.see(result):
            self._give(partial(_numbered, alarm))

    def _give(self, record_of: Callable[[int], Record]) -> Record:
        """Number a record, count it, and hand it to whoever wants it."""
        with self._lock:
            self._number += 1
            record = record_of(self._number)
            match record:
                case ResultRecord():
                    self._results[record.status] = self._results.get(record.status, 0) + 1
                case AlarmRecord(event="raised"):
                    self._raised[record.label] = self._raised.get(record.label, 0) + 1
                case StateRecord():
                    self._state = record.state
            for outlet in self._outlets:
                outlet.put(record)
        if self._onlooker is not None:
            self._onlooker.record(record)
        return record

    def _tell_notes(self) -> None:
        for connected, reason in self._intake.notes():
            self.say("connected" if connected else "disconnected", reason)
        garbage = self._intake.last_garbage
        if garbage:
            self._log_seldom(f"no sample: {garbage}")

    def _fault(self, error: Exception) -> None:
        self._faults += 1
        self._log_seldom(f"not answered: {first_line(error)}")

    def _log_seldom(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOGS_EVERY_S and text != self._logged:
            logger.warning("%s: %s", self.name, text)
            self._logged_s, self._logged = now_s, text


def _levels(rows: NDArray[Any]) -> NDArray[np.float32]:
    """What is drawn of samples (n, C): they themselves, and of frames (n, H, W, C) the mean brightness of channels."""
    levels: NDArray[np.float32] = rows if rows.ndim == 2 else rows.mean(axis=(1, 2), dtype=np.float32)
    return levels


def _numbered(record: AlarmRecord, number: int) -> AlarmRecord:
    return msgspec.structs.replace(record, number=number)


def _stream_of(predictor: EdgePredictor, rules: StationRules, on_window: OnWindow | None) -> Stream:
    return predictor.stream(
        hop=rules.hop,
        modality=rules.modality,
        gap_s=rules.gap_s,
        reorder=rules.reorder,
        stale_s=rules.stale_s,
        on_window=on_window,
    )
