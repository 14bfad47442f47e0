"""Make the documents that a page reads."""

from __future__ import annotations

import math

import msgspec

from mmkd_edge import Timing
from mmkd_station.board import SPAN_S, Board, BoardNews
from mmkd_station.outlet import OutletFacts
from mmkd_station.service import Service
from mmkd_station.station import Station, StationFacts


class HistogramBar(msgspec.Struct, frozen=True, array_like=True):
    """Number of results with at most this latency, and more than the bar before."""

    up_to_s: float
    count: int


class ArrivalLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Latency from arrival to result; three bars per decade."""

    p50_s: float
    p99_s: float
    max_s: float
    bars: tuple[HistogramBar, ...]


class StationRow(msgspec.Struct, frozen=True, kw_only=True):
    """A station in the list: its state, its last answer (empty before the first), and its unacknowledged episodes."""

    name: str
    state: str
    status: str
    label: str
    open: int


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """The station that is shown, with the sensor that answers.

    Attributes:
        value_unit: for a regression, else None.
        drift: verdict on the inputs, in one word.
        sharing: number of stations with the same bundle and modality, which these inputs are from.
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
    """One event for a page; after `first` the page must forget what it has."""

    first: bool
    uptime_s: float
    stations: tuple[StationRow, ...]
    station: Detail
    sinks: tuple[OutletFacts, ...]


class PageFollower:
    """Remembers what one open page has, so that it gets only news. All stations must have boards."""

    def __init__(self, service: Service, station: Station) -> None:
        self._service = service
        self._station = station
        self._restart(_board(station).answering())

    def _restart(self, sensor: int) -> None:
        self._sensor = sensor
        self._bin = self._result = -1
        self._drift, self._drift_age = "", math.inf
        self._first = True

    def update(self) -> Update:
        """Return what is new since the last call."""
        facts = self._service.facts()
        if (sensor := _board(self._station).answering()) != self._sensor:
            self._restart(sensor)
        rows = zip(self._service.stations, facts.stations, strict=True)
        update = Update(
            first=self._first,
            uptime_s=facts.seconds,
            stations=tuple(_row(station, station_facts.state) for station, station_facts in rows),
            station=self._detail(_board(self._station)),
            sinks=facts.sinks,
        )
        self._first = False
        return update

    def _detail(self, board: Board) -> Detail:
        modality, task = board.modalities[self._sensor], board.task
        news = board.news(sensor=self._sensor, after_bin=self._bin, after_result=self._result)
        self._bin = news.bins[-1].number if news.bins else self._bin
        self._result = news.results[-1].number if news.results else self._result
        facts = self._station.facts()
        return Detail(
            name=self._station.name,
            modality=modality.name,
            sensors=len(board.modalities),
            channels=modality.channels,
            unit=modality.unit,
            labels=task.labels,
            value_unit=task.unit_text.strip() if task.kind == "regression" else None,
            rate_hz=modality.rate_hz,
            span_s=SPAN_S,
            drift=self._drift_verdict(modality.name),
            sharing=sum(self._is_shared(other, modality.name) for other in self._service.stations),
            seen=news,
            facts=msgspec.structs.replace(facts, latency=None),
            latency=None if facts.latency is None else latency_of(facts.latency),
        )

    def _is_shared(self, other: Station, modality: str) -> bool:
        names = (each.name for each in _board(other).modalities)
        return other.predictor is self._station.predictor and modality in names

    def _drift_verdict(self, modality: str) -> str:
        """Return the verdict on the inputs; it takes milliseconds, so it is renewed every tenth time."""
        if self._drift_age >= 10:
            predictor = self._station.predictor
            names = [entry.name for entry in predictor.entries if entry.modality.name == modality]
            models = predictor.health().models
            self._drift = next((model.drift.verdict for model in models if model.model in names), "")
            self._drift_age = 0
        self._drift_age += 1
        return self._drift


def latency_of(timing: Timing) -> ArrivalLatency:
    """Return the bars of a histogram, without empty ones at both ends."""
    bars, below, highest_s = [], 0, timing.buckets[-2][0]
    for edge_s, count in timing.buckets:
        bars.append(HistogramBar(min(edge_s, highest_s), count - below))
        below = count
    while bars and not bars[-1].count:
        bars.pop()
    while bars and not bars[0].count:
        bars.pop(0)
    return ArrivalLatency(p50_s=timing.p50_s, p99_s=timing.p99_s, max_s=timing.max_s, bars=tuple(bars))


def _board(station: Station) -> Board:
    assert station.board is not None  # `open_service` makes one of each for a page
    return station.board


def _row(station: Station, state: str) -> StationRow:
    board = _board(station)
    latest = board.latest()
    return StationRow(
        name=station.name,
        state=state,
        status="" if latest is None else latest.status,
        label="" if latest is None or latest.index < 0 else board.task.labels[latest.index],
        open=board.unacknowledged(),
    )
