"""One station: source -> intake -> clock and stream -> alarms -> outlets; several threads read, one answers."""

from __future__ import annotations

import logging
import math
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction, SensorFallback
from mmkd_edge.errors import MmkdError, first_line
from mmkd_edge.health.monitor import LatestAnswers, SecondsHistogram, Timing
from mmkd_edge.predict.postprocess import with_fault
from mmkd_edge.predict.sensors import WindowFault
from mmkd_edge.shadow import ShadowReport
from mmkd_edge.stream.stream import StreamFacts
from mmkd_station.alarms import Episodes
from mmkd_station.board import Board
from mmkd_station.clock import TIME_FAULTS
from mmkd_station.intake import Delivery, Intake, IntakeFacts
from mmkd_station.outlet import Outlet
from mmkd_station.records import AlarmEvent, AlarmRecord, Record, ResultRecord, StateRecord, StationState, result_record
from mmkd_station.sensor import Sensor, StreamTurn
from mmkd_station.store import Store
from mmkd_station.uncertain import RingFacts, UncertainRing

logger = logging.getLogger(__name__)

DRAIN_S = 5.0
"""Time to answer waiting samples at the end."""
_WAIT_S = 0.1
# Minimum intervals: of a kind of message, and (an hour) of the same words.
_LOG_EVERY_S = 60.0
_SAME_WORDS_EVERY_S = 3600.0
# Reasons that differ in numbers alone, other than those of names, are of one kind; how many kinds are counted.
_FIGURES = re.compile(r"(?<![\w.'])[-+]?\d[\d.,]*(?:e[-+]?\d+)?(?![\w'])")
_MAX_REASONS, _SHOWN_REASONS = 64, 5


class StationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Counters and state."""

    station: str
    running_s: float
    results: dict[str, int]
    alarms: dict[str, int]
    missed: int  # samples filled in as missing while the source was silent
    untrusted: int  # samples left out because of implausible times
    faults: int  # deliveries that could not be answered
    longest_hold_s: float  # longest turn (an answer, or samples without one)
    intake: IntakeFacts
    stream: StreamFacts
    latency: Timing | None  # from arrival of samples to their records
    uncertain: RingFacts | None
    state: StationState
    adaptation: str
    unlike_training: str
    reasons: dict[str, int]  # the commonest ones of results neither ok nor unknown, in the last one's words
    unconnected: tuple[str, ...]  # why each source that never connected did not
    shadow: ShadowReport | None  # at the end of a shadow run


class Watcher(Protocol):
    """Sees a station's samples, those filled in included, and its records."""

    def samples(self, times: NDArray[np.float64], rows: NDArray[np.float32], *, sensor: int) -> None:
        """Take (n,) seconds and float32 (n, C); for video the mean brightness of channels."""

    def record(self, record: Record) -> None:
        """Take a record."""


class Station:
    """Sources, a predictor and outlets; the caller closes the last two."""

    def __init__(
        self,
        name: str,
        *,
        predictor: EdgePredictor,
        sensors: Sequence[Sensor],
        intake: Intake,
        outlets: Sequence[Outlet],
        alarms: Episodes | None = None,
        board: Board | None = None,
        store: Store | None = None,
    ) -> None:
        self.name = name
        self.predictor = predictor
        self.board = board
        self.watchers: list[Watcher] = [] if board is None else [board]
        self.error: Exception | None = None
        """Why the last source to end failed; None if it ended well, or another one still answers."""
        self._sensors = tuple(sensors)
        self.shadow = self._sensors[0].shadow  # which only a station of one sensor has
        modalities = [sensor.modality for sensor in self._sensors]
        self._fallback = SensorFallback(modalities, predictor.task) if len(modalities) > 1 else None
        self._intake = intake
        self._outlets = outlets
        self._alarms = alarms
        self._store = store
        self._latency = SecondsHistogram()
        self._lock = threading.Lock()  # of records and counts, which several threads make
        self._boot, self._number = secrets.token_hex(8), 0
        self._results: Counter[str] = Counter()
        self._raised: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()  # by kind
        self._last_reasons: dict[str, str] = {}
        self._latest = LatestAnswers()
        self._missed = self._faults = 0
        self._reported_dropped = self._reported_late = 0
        self._state: StationState = "started"
        self._adaptation = ""
        self._logged: dict[str, tuple[str, float]] = {}  # last message and its time, by kind
        self._filled_s = self._longest_hold_s = 0.0
        self._busy_since_s: float | None = None
        self._current: int | None = None
        self._answers = True
        self._began_s = self._stopped_s = time.monotonic()
        self._readers = [
            threading.Thread(target=self._read, args=(number,), name=f"source {name}", daemon=True)
            for number in range(len(self._sensors))
        ]
        self._open_sources = len(self._sensors)
        self._answerer = threading.Thread(target=self._answer, name=f"station {name}", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        for alarm in [] if self._alarms is None else self._alarms.resume():
            self._give(alarm)
        sensors = ", then ".join(f"{sensor.modality.name} from {sensor.text}" for sensor in self._sensors)
        self.report("started", f"{self.predictor.info().model_id}: {sensors}")
        if returned := self.predictor.health().returned:
            self.report("refused", returned)
        for thread in (*self._readers, self._answerer):
            thread.start()

    @property
    def is_over(self) -> bool:
        """Whether sources have ended and all samples are answered."""
        return not self._answerer.is_alive()

    def is_well(self, *, within_s: float) -> bool:
        """Whether no call takes longer than `within_s`, and the engine answers or is idle."""
        since_s = self._busy_since_s
        return self._answers and (since_s is None or time.monotonic() - since_s < within_s)

    @property
    def time_faults(self) -> dict[str, str]:
        """Current time faults by modality."""
        faults = {sensor.modality.name: sensor.watch.fault for sensor in self._sensors}
        return {name: TIME_FAULTS[fault] for name, fault in faults.items() if fault is not None}

    def stop(self) -> None:
        """Stop reading; waiting samples are still answered."""
        if not self._intake.stop.is_set():
            self._stopped_s = time.monotonic()
        self._intake.stop.set()
        self._intake.end()

    def close(self, *, until_s: float | None = None) -> None:
        """Stop reading, answer waiting samples until `until_s` (monotonic; None: five seconds), and close."""
        self.stop()
        until_s = time.monotonic() + DRAIN_S if until_s is None else until_s
        # A reader must leave its library before the process ends.
        for thread in (self._answerer, *self._readers):
            if thread.ident is not None:
                thread.join(max(0.0, until_s - time.monotonic()))
        for sensor in self._sensors:
            sensor.close()
        unanswered = f"left samples unanswered: no end in {time.monotonic() - self._stopped_s:.1f} s"
        self.report("stopped", "answered what waited" if self.is_over else unanswered)

    def report(self, state: StationState, reason: str) -> None:
        """Record a new state."""
        logger.info("%s: %s: %s", self.name, state, reason)
        self._give(StateRecord(station=self.name, decided_s=time.time(), state=state, reason=reason))

    def acknowledge(self, alarm: AlarmRecord, *, is_false: bool = False) -> None:
        """Record that an operator noted an episode; save a false alarm's windows for labelling."""
        event: AlarmEvent = "contradicted" if is_false else "acknowledged"
        self._give(msgspec.structs.replace(alarm, event=event, decided_s=time.time(), reason=""))
        if is_false and alarm.since_s is not None:
            until_s = alarm.time_s if alarm.event == "cleared" and alarm.time_s is not None else math.inf
            for ring in self._rings():
                ring.contradict(alarm.label, since_s=alarm.since_s, until_s=until_s)

    def facts(self) -> StationFacts:
        """Return counters and state."""
        rings = [ring.facts() for ring in self._rings()]
        with self._lock:
            return StationFacts(
                station=self.name,
                running_s=time.monotonic() - self._began_s,
                results=dict(self._results),
                alarms=dict(self._raised),
                missed=self._missed,
                untrusted=sum(sensor.watch.refused for sensor in self._sensors),
                faults=self._faults,
                longest_hold_s=self._longest_hold_s,
                intake=self._intake.facts(),
                stream=_sum(StreamFacts, [sensor.stream.facts for sensor in self._sensors]),
                latency=self._latency.timing(),
                uncertain=_sum(RingFacts, rings) if rings else None,
                state=self._state,
                adaptation=self._adaptation,
                unlike_training=self._latest.warning(sensor.modality.name for sensor in self._sensors),
                reasons={self._last_reasons[kind]: n for kind, n in self._reasons.most_common(_SHOWN_REASONS)},
                unconnected=self._intake.unconnected,
                shadow=None if self.shadow is None else self.shadow.report,
            )

    def _rings(self) -> list[UncertainRing]:
        return [sensor.ring for sensor in self._sensors if sensor.ring is not None]

    def check(self) -> None:
        """Log windows unlike training; report once that a student should be adapted."""
        unlike_training = self.facts().unlike_training
        if unlike_training:
            self._log_seldom(unlike_training, kind="unlike training")
        names = {sensor.modality.name for sensor in self._sensors}
        pairs = zip(self.predictor.entries, self.predictor.health().models, strict=False)  # a swap may come between
        reasons = [model.drift.adaptation_reason for entry, model in pairs if entry.modality.name in names]
        reason = "; ".join(filter(None, reasons))
        is_new = bool(reason) and not self._adaptation
        self._adaptation = reason
        if is_new:
            self.report("adaptation_due", reason)

    # ---- the threads that read

    def _read(self, number: int) -> None:
        failure: Exception | None = None
        try:
            for delivery in self._sensors[number].source.deliveries(self._intake):
                if len(delivery.rows):
                    self._intake.put(msgspec.structs.replace(delivery, sensor=number) if number else delivery)
                if self._intake.stop.is_set():
                    break
        except Exception as error:  # a source that fails for good ends; others go on
            failure = error
        with self._lock:
            self._open_sources -= 1
            is_last = self._open_sources == 0
        if is_last:
            self.error = failure
        if failure is not None:
            name, why = self._sensors[number].modality.name, first_line(failure)
            self.report("failed" if is_last else "disconnected", why if is_last else f"{name} is lost for good: {why}")
        if is_last:
            self._intake.end()
        else:
            nothing = np.empty((0, 0), dtype=np.float32)
            self._intake.put(Delivery(rows=nothing, times=None, arrived_s=time.monotonic(), sensor=number))

    # ---- the thread that answers

    def _answer(self) -> None:
        """Take turns of one answer, or a few samples without one, so that no sensor waits long."""
        # A stack: silent sensors' samples precede the rest of a delivery.
        work: list[Iterator[None]] = []
        while work or not self._intake.is_over:
            if not work:
                work.append(self._next())
            elif self._fallback is not None and len(work) == 1 and time.monotonic() - self._filled_s > _WAIT_S:
                work.append(self._fill_silence())
            self._report_notes()
            began_s = self._busy_since_s = time.monotonic()
            try:
                next(work[-1])
            except StopIteration:
                work.pop()
            except Exception as error:  # whatever a sample causes, the next one is answered
                work.pop()
                self._fault(error)
            finally:
                self._longest_hold_s = max(self._longest_hold_s, time.monotonic() - began_s)
                self._busy_since_s = None
        for number in range(len(self._sensors)):
            self._flush(number)

    def _next(self) -> Iterator[None]:
        self._current = None
        if time.monotonic() - self._filled_s > _WAIT_S:  # also if refused samples arrive all the time
            return self._fill_silence()
        delivery = self._intake.take(timeout_s=_WAIT_S)
        if delivery is None:
            return self._fill_silence()
        self._current = delivery.sensor
        return self._take(delivery)

    def _take(self, delivery: Delivery) -> Iterator[None]:
        number = delivery.sensor
        sensor = self._sensors[number]
        if not len(delivery.rows):  # the end of one of several sources
            self._flush(number)
            sensor.has_ended = True
            if self._fallback is not None:
                self._fallback.end(number)
            return
        for is_result in self._follow(number, sensor.take(delivery)):
            if is_result:
                # A recording's wait in the queue is no latency.
                began_s = delivery.arrived_s if sensor.source.live else self._busy_since_s
                with self._lock:
                    self._latency.add(time.monotonic() - (began_s or delivery.arrived_s))
            yield

    def _fill_silence(self) -> Iterator[None]:
        self._filled_s = time.monotonic()
        for number, sensor in enumerate(self._sensors):
            if number != self._current and (sensor.watch.reason or not self._intake.awaits(number)):
                for _ in self._follow(number, sensor.fill_silence(), is_missing=True):
                    yield

    def _follow(self, number: int, turns: Iterator[StreamTurn], *, is_missing: bool = False) -> Iterator[bool]:
        """Show turns and record results; yield whether it was a result."""
        for turn in turns:
            self._missed += len(turn.times) if is_missing else 0
            for watcher in self.watchers if len(turn.times) else ():
                watcher.samples(turn.times, turn.levels, sensor=number)
            for prediction in turn.predictions:
                self._record(number, [prediction])
                yield True
            yield False

    def _flush(self, number: int) -> None:
        if self._sensors[number].has_ended:
            return
        try:
            self._record(number, self._sensors[number].flush())
        except MmkdError as error:
            self._fault(error)

    # ---- what is recorded

    def _record(self, number: int, predictions: Sequence[Prediction]) -> None:
        if not predictions:
            return
        sensor, dropped = self._sensors[number], self._intake.facts().dropped
        late = sum(sensor.left_out for sensor in self._sensors)
        for each in predictions:
            prediction = each if self._fallback is None else self._fallback.choose(number, each)
            if prediction is not None:
                newly_dropped = dropped - self._reported_dropped
                if newly_dropped:
                    reason = f"{newly_dropped:,} samples were dropped because the queue was full"
                    prediction = with_fault(prediction, WindowFault(status="degraded", reason=reason))
                self._answers = prediction.failure != "engine"
                age_s = prediction.input_age_s
                if not sensor.source.live:  # a recording has no age
                    prediction = msgspec.structs.replace(prediction, input_age_s=None)
                result = result_record(
                    prediction,
                    station=self.name,
                    time_s=None if age_s is None else round(sensor.now_s - age_s, 6),
                    decided_s=time.time(),
                    dropped=newly_dropped,
                    late=late - self._reported_late,
                )
                self._reported_dropped, self._reported_late = dropped, late
                self._give(result)
                for alarm in [] if self._alarms is None else self._alarms.see(result):
                    self._give(alarm)

    def _give(self, record: Record) -> None:
        with self._lock:
            self._number += 1
            record = msgspec.structs.replace(record, number=self._number, boot=self._boot)
            match record:
                case ResultRecord():
                    self._results[record.status] += 1
                    self._latest.add(record.status)
                    reasons = record.reason.split("; ") if record.status not in ("ok", "unknown") else []
                    for reason in filter(None, reasons):
                        kind = _FIGURES.sub("N", reason)
                        if kind in self._reasons or len(self._reasons) < _MAX_REASONS:
                            self._reasons[kind] += 1
                            self._last_reasons[kind] = reason
                case AlarmRecord(event="raised"):
                    self._raised[record.label] += 1
                case StateRecord(state=state) if state != "adaptation_due":  # it goes on as it did
                    self._state = state
            if self._store is not None:
                self._store.put(record, [outlet.queue for outlet in self._outlets])
            else:
                for outlet in self._outlets:
                    outlet.put(record)
        for watcher in self.watchers:
            watcher.record(record)

    def _report_notes(self) -> None:
        for connected, reason in self._intake.notes():
            self.report("connected" if connected else "disconnected", reason)
        if self._intake.last_garbage:
            self._log_seldom(f"no sample: {self._intake.last_garbage}", kind="no sample")
        for name, fault in self.time_faults.items():
            left_out = "" if fault in (TIME_FAULTS["silent"], TIME_FAULTS["old"]) else "they are left out, and "
            self._log_seldom(f"{name}: {fault}; {left_out}results say so", kind=f"{name}: {fault}")

    def _fault(self, error: Exception) -> None:
        self._faults += 1
        self._log_seldom(f"not answered: {first_line(error)}", kind="not answered")

    def _log_seldom(self, text: str, *, kind: str) -> None:
        now_s = time.monotonic()
        logged, logged_s = self._logged.get(kind, ("", -math.inf))
        if now_s - logged_s >= (_SAME_WORDS_EVERY_S if text == logged else _LOG_EVERY_S):
            logger.warning("%s: %s", self.name, text)
            self._logged[kind] = text, now_s


_Facts = TypeVar("_Facts", StreamFacts, RingFacts)


def _sum(kind: type[_Facts], facts: Sequence[_Facts]) -> _Facts:
    return kind(**{name: sum(getattr(each, name) for each in facts) for name in kind.__struct_fields__})
