"""Prometheus metrics of stations, sinks and predictors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec

from mmkd_edge import Health, HealthCollector
from mmkd_edge.predict.sensors import Status
from mmkd_station.service import Service
from mmkd_station.station import Station, StationFacts

_STATION_COUNTERS: tuple[tuple[str, str, Callable[[StationFacts], int]], ...] = (
    ("samples", "Samples that came.", lambda facts: facts.intake.samples),
    ("dropped_samples", "Samples given up because the queue was full.", lambda facts: facts.intake.dropped),
    ("late_samples", "Samples left out because later ones were there.", lambda facts: facts.stream.late),
    ("missed_samples", "Samples filled in while the source was silent.", lambda facts: facts.missed),
    ("untrusted_samples", "Samples left out because their times cannot be trusted.", lambda facts: facts.untrusted),
    ("garbage", "Messages and lines that were no samples.", lambda facts: facts.intake.garbage),
    ("faults", "Deliveries that could not be answered.", lambda facts: facts.faults),
    ("connects", "How often the source connected.", lambda facts: facts.intake.connects),
)
_SINK_COUNTERS = (
    ("written", "Records that a sink took."),
    ("dropped", "Records given up because too many waited."),
    ("failures", "How often a sink failed."),
)


def service_metrics(service: Service) -> str:
    """Return metrics in Prometheus text format. Raises UnavailableError without prometheus-client."""
    collector = _ServiceCollector(service)
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


class _StationHealth:
    """A station's own answers; other figures are of the predictor, which stations of one bundle share."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def health(self) -> Health:
        facts = self._station.facts()
        predictions = {status: facts.results.get(status, 0) for status in get_args(Status)}
        health = self._station.predictor.health()
        return msgspec.structs.replace(health, predictions=predictions, latency=facts.latency)


class _ServiceCollector:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._health = HealthCollector({station.name: _StationHealth(station) for station in service.stations})

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield from self._health.collect()
        facts = self._service.facts()
        for name, text, counter_value in _STATION_COUNTERS:
            counter = CounterMetricFamily(f"mmkd_live_{name}", text, labels=["station"])
            for station in facts.stations:
                counter.add_metric([station.station], counter_value(station))
            yield counter
        alarms = CounterMetricFamily("mmkd_live_alarms", "Episodes that began.", labels=["station", "label"])
        queue = GaugeMetricFamily("mmkd_live_queued", "Deliveries that wait for an answer.", labels=["station"])
        for station in facts.stations:
            queue.add_metric([station.station], station.intake.queued)
            for label, count in station.alarms.items():
                alarms.add_metric([station.station, label], count)
        yield from (alarms, queue)
        for name, text in _SINK_COUNTERS:
            counter = CounterMetricFamily(f"mmkd_sink_{name}", text, labels=["sink"])
            for sink in facts.sinks:
                counter.add_metric([sink.sink], getattr(sink, name))
            yield counter
