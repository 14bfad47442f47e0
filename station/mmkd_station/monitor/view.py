"""The documents that a page reads: what it shows of all stations, and of one in detail."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from mmkd_edge import Timing
from mmkd_station.monitor.board import Board, BoardNews, Shown
from mmkd_station.monitor.signal import SPAN_S
from mmkd_station.service import Service
from mmkd_station.sinks.outlet import OutletFacts
from mmkd_station.station import Station, StationFacts


class HistogramBar(msgspec.Struct, frozen=True, array_like=True):
    """A bar of a histogram.

    Attributes:
        up_to_s: its upper edge.
        count: how many.
    """

    up_to_s: float
    count: int


class ArrivalLatency(msgspec.Struct, frozen=True, kw_only=True):
    """From arrival to result.

    Attributes:
        p50_s: half of the recent ones took longer, and so on.
        bars: three in a decade, without the empty ones at both ends.
    """

    p50_s: float
    p99_s: float
    max_s: float
    bars: tuple[HistogramBar, ...]


class StationRow(msgspec.Struct, frozen=True, kw_only=True):
    """A station in the list.

    Attributes:
        name: of it.
        state: as of its last `StateRecord`.
        status: of its last result; empty before the first.
        label: of it.
        open: episodes that nobody took note of.
    """

    name: str
    state: str
    status: str
    label: str
    open: int


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """The station that is shown.

    Attributes:
        name: of it.
        modality: of the sensor that answers.
        sensors: how many it has.
        channels: of that sensor's signal.
        unit: of them.
        labels: of its answers.
        value_unit: of a number that it answers; None where it answers labels.
        rate_hz: of the samples.
        span_s: of the signal and the timeline.
        drift: whether inputs are as in the training, in a word.
        sharing: how many stations these inputs are of: those with the same bundle and modality.
        seen: what is new.
        facts: how it is doing.
        latency: of it; None before the first result.
    """

    name: str
    modality: str
    sensors: int
    channels: tuple[str, ...]
    unit: str
    labels: tuple[str, ...]
    value_unit: str | None
    rate_hz: float
    span_s: float
    drift: str
    sharing: int
    seen: BoardNews
    facts: StationFacts
    latency: ArrivalLatency | None


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the stream that a page follows.

    Attributes:
        first: whether the page is to forget what it has.
        uptime_s: of the process.
        stations: all of them.
        station: the one that is shown.
        sinks: all of them.
    """

    first: bool
    uptime_s: float
    stations: tuple[StationRow, ...]
    station: Detail
    sinks: tuple[OutletFacts, ...]


class PageFollower:
    """What one open page has seen, so that it gets only what is new.

    Args:
        service: whose stations are shown.
        boards: of them, by name.
        shown: name of the station that is shown in detail.
    """

    def __init__(self, service: Service, boards: Mapping[str, Board], shown: str) -> None:
        self._service = service
        self._boards = boards
        self._shown = shown
        self._forget(boards[shown].answering())

    def _forget(self, sensor: int) -> None:
        """Begin anew, with the signal of this sensor."""
        self._sensor = sensor
        self._bin = self._result = -1
        self._drift, self._drift_age = "", math.inf
        self._first = True

    def update(self) -> Update:
        """What is new since the last call."""
        facts = self._service.facts()
        station = next(one for one in self._service.stations if one.name == self._shown)
        if (sensor := self._boards[self._shown].answering()) != self._sensor:
            self._forget(sensor)
        lines = (_line(one, self._boards[one.name]) for one in self._service.stations)
        update = Update(
            first=self._first,
            uptime_s=facts.seconds,
            stations=tuple(lines),
            station=self._detail(station, self._boards[self._shown]),
            sinks=facts.sinks,
        )
        self._first = False
        return update

    def _detail(self, station: Station, board: Board) -> Detail:
        modality = board.modalities[self._sensor]
        seen = board.seen(sensor=self._sensor, after_bin=self._bin, after_result=self._result)
        self._bin = seen.bins[-1].number if seen.bins else self._bin
        self._result = seen.results[-1].number if seen.results else self._result
        facts = station.facts()
        task = board.task
        return Detail(
            name=station.name,
            modality=modality.name,
            sensors=len(board.modalities),
            channels=modality.channels,
            unit=modality.unit,
            labels=task.labels,
            value_unit=task.unit_text.strip() if task.kind == "regression" else None,
            rate_hz=modality.rate_hz,
            span_s=SPAN_S,
            drift=self._drift_of(station, modality.name),
            sharing=sum(self._is_shared(station, other, modality.name) for other in self._service.stations),
            seen=seen,
            facts=msgspec.structs.replace(facts, latency=None),
            latency=None if facts.latency is None else latency_of(facts.latency),
        )

    def _is_shared(self, station: Station, other: Station, modality: str) -> bool:
        named = (one.name for one in self._boards[other.name].modalities)
        return other.predictor is station.predictor and modality in named

    def _drift_of(self, station: Station, modality: str) -> str:
        """The verdict on the inputs; it takes milliseconds, and is asked for every tenth time."""
        if self._drift_age >= 10:
            names = [one.name for one in station.predictor.entries if one.modality.name == modality]
            models = station.predictor.health().models
            self._drift = next((model.drift.verdict for model in models if model.model in names), "")
            self._drift_age = 0
        self._drift_age += 1
        return self._drift


def latency_of(timing: Timing) -> ArrivalLatency:
    """A histogram as it is drawn."""
    bars, below, highest_s = [], 0, timing.buckets[-2][0]
    for edge_s, count in timing.buckets:
        bars.append(HistogramBar(min(edge_s, highest_s), count - below))
        below = count
    while bars and not bars[-1].count:
        bars.pop()
    while bars and not bars[0].count:
        bars.pop(0)
    return ArrivalLatency(p50_s=timing.p50_s, p99_s=timing.p99_s, max_s=timing.max_s, bars=tuple(bars))


def _line(station: Station, board: Board) -> StationRow:
    latest: Shown | None = board.latest()
    label = "" if latest is None or latest.index < 0 else board.task.labels[latest.index]
    return StationRow(
        name=station.name,
        state=station.facts().state,
        status="" if latest is None else latest.status,
        label=label,
        open=board.unacknowledged(),
    )
