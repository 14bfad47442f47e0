"""Documents that a page reads."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mmkd_station.board import SPAN_S, Board
from mmkd_station.service import Service
from mmkd_station.station import Station


class PageFollower:
    """What one open page has, so that it gets only news. All stations need boards."""

    def __init__(self, service: Service, station: Station) -> None:
        self._service = service
        self._station = station
        self._sensor = self._bin = self._result = -1
        self._drift, self._drift_age = "", math.inf

    def update(self) -> dict[str, Any]:
        """Return news since the last call; `first` makes the page forget what it has."""
        facts = self._service.facts()
        board = _board(self._station)
        latest = board.latest()
        names = [modality.name for modality in board.modalities]
        sensor = names.index(latest.modality) if latest is not None and latest.modality in names else 0
        is_first = sensor != self._sensor
        if is_first:
            self._sensor, self._bin, self._result, self._drift_age = sensor, -1, -1, math.inf
        rows = []
        for station, station_facts in zip(self._service.stations, facts.stations, strict=True):
            last = _board(station).latest()
            rows.append(
                {
                    "name": station.name,
                    "state": station_facts.state,
                    "status": "" if last is None else last.status,
                    "label": "" if last is None else last.label,
                    "open": _board(station).unacknowledged(),
                }
            )
        return {
            "first": is_first,
            "uptime_s": facts.seconds,
            "stations": rows,
            "station": self._detail(board),
            "sinks": facts.sinks,
        }

    def _detail(self, board: Board) -> dict[str, Any]:
        modality, task = board.modalities[self._sensor], board.task
        news = board.news(sensor=self._sensor, after_bin=self._bin, after_result=self._result)
        self._bin = news.bins[-1].number if news.bins else self._bin
        self._result = news.results[-1].number if news.results else self._result
        facts = self._station.facts()
        timing = facts.latency
        if self._drift_age >= 10:  # not every time: the verdict takes milliseconds
            predictor = self._station.predictor
            entries = [entry.name for entry in predictor.entries if entry.modality.name == modality.name]
            models = predictor.health().models
            self._drift = next((model.drift.verdict for model in models if model.model in entries), "")
            self._drift_age = 0
        self._drift_age += 1
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
            "drift": self._drift,
            "seen": news,
            "facts": msgspec.structs.replace(facts, latency=None),
            "latency_s": None if timing is None else (timing.p50_s, timing.p99_s, timing.max_s),
        }


def _board(station: Station) -> Board:
    assert station.board is not None  # `open_service` makes one of each for a page
    return station.board
