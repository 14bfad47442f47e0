"""Documents that a page reads."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mmkd_edge import Timing
from mmkd_station.board import SPAN_S, Board
from mmkd_station.service import Service
from mmkd_station.station import Station


class PageFollower:
    """What one open page has, so that it gets only news. All stations need boards."""

    def __init__(self, service: Service, station: Station) -> None:
        self._service = service
        self._station = station
        self._sensor = -1
        self._bin = self._result = -1
        self._drift, self._drift_age = "", math.inf

    def update(self) -> dict[str, Any]:
        """Return news since the last call; `first` makes the page forget what it has."""
        facts = self._service.facts()
        board = _board(self._station)
        sensor = _answering(board)
        is_first = sensor != self._sensor
        if is_first:
            self._sensor, self._bin, self._result, self._drift_age = sensor, -1, -1, math.inf
        rows = zip(self._service.stations, facts.stations, strict=True)
        return {
            "first": is_first,
            "uptime_s": facts.seconds,
            "stations": [_row(station, station_facts.state) for station, station_facts in rows],
            "station": self._detail(board),
            "sinks": facts.sinks,
        }

    def _detail(self, board: Board) -> dict[str, Any]:
        modality, task = board.modalities[self._sensor], board.task
        news = board.news(sensor=self._sensor, after_bin=self._bin, after_result=self._result)
        self._bin = news.bins[-1].number if news.bins else self._bin
        self._result = news.results[-1].number if news.results else self._result
        facts = self._station.facts()
        return {
            "name": self._station.name,
            "modality": modality.name,
            "sensors": len(board.modalities),
            "channels": modality.channels,
            "unit": modality.unit,
            "labels": task.labels,
            "value_unit": task.unit_text.strip() if task.kind == "regression" else None,
            "rate_hz": modality.rate_hz,
            "span_s": SPAN_S,
            "drift": self._drift_verdict(modality.name),
            "sharing": sum(self._is_shared(other, modality.name) for other in self._service.stations),
            "seen": news,
            "facts": msgspec.structs.replace(facts, latency=None),
            "latency": None if facts.latency is None else latency_bars(facts.latency),
        }

    def _is_shared(self, other: Station, modality: str) -> bool:
        names = (each.name for each in _board(other).modalities)
        return other.predictor is self._station.predictor and modality in names

    def _drift_verdict(self, modality: str) -> str:
        """Renew the verdict every tenth time: it takes milliseconds."""
        if self._drift_age >= 10:
            predictor = self._station.predictor
            names = [entry.name for entry in predictor.entries if entry.modality.name == modality]
            models = predictor.health().models
            self._drift = next((model.drift.verdict for model in models if model.model in names), "")
            self._drift_age = 0
        self._drift_age += 1
        return self._drift


def latency_bars(timing: Timing) -> dict[str, Any]:
    """Return a histogram as (edge in s, count): three bars per decade, without empty ends."""
    bars, below, highest_s = [], 0, timing.buckets[-2][0]
    for edge_s, count in timing.buckets:
        bars.append((min(edge_s, highest_s), count - below))
        below = count
    used = [place for place, (_, count) in enumerate(bars) if count]
    bars = bars[used[0] : used[-1] + 1]
    return {"p50_s": timing.p50_s, "p99_s": timing.p99_s, "max_s": timing.max_s, "bars": bars}


def _board(station: Station) -> Board:
    assert station.board is not None  # `open_service` makes one of each for a page
    return station.board


def _answering(board: Board) -> int:
    latest = board.latest()
    names = [modality.name for modality in board.modalities]
    return names.index(latest.modality) if latest is not None and latest.modality in names else 0


def _row(station: Station, state: str) -> dict[str, Any]:
    latest = _board(station).latest()
    return {
        "name": station.name,
        "state": state,
        "status": "" if latest is None else latest.status,
        "label": "" if latest is None else latest.label,
        "open": _board(station).unacknowledged(),
    }
