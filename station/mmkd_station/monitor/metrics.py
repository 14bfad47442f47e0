"""The stations for Prometheus: the health that `watch.prometheus` knows, and what only a running station counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from mmkd_edge import EdgePredictor, Health, HealthCollector, Status
from mmkd_station.service import RunFacts, Service
from mmkd_station.sinks.outlet import OutletFacts
from mmkd_station.station import Station, StationFacts

_OF_STATIONS: tuple[tuple[str, str, Callable[[StationFacts], int]], ...] = (
    ("samples", "Samples that came.", lambda facts: facts.intake.samples),
    ("dropped_samples", "Samples given up because the queue was full.", lambda facts: facts.intake.dropped),
    ("late_samples", "Samples left out because later ones were there.", lambda facts: facts.stream.late),
    ("missed_samples", "Samples filled in while the source was silent.", lambda facts: facts.missed),
    ("untrusted_samples", "Samples left out because their times cannot be trusted.", lambda facts: facts.untrusted),
    ("garbage", "Messages and lines that were no samples.", lambda facts: facts.intake.garbage),
    ("faults", "Deliveries that could not be answered.", lambda facts: facts.faults),
    ("connects", "How often the source was there.", lambda facts: facts.intake.connects),
)
# Of the health of predictors what each station counts for itself; the rest is of a bundle, which several may share.
_COUNTED_BY_STATIONS = ("mmkd_predictions", "mmkd_latency_seconds")
_OF_SINKS: tuple[tuple[str, str, Callable[[OutletFacts], int]], ...] = (
    ("written", "Records that a sink took.", lambda facts: facts.written),
    ("dropped", "Records given up because too many waited.", lambda facts: facts.dropped),
    ("failures", "How often a sink failed.", lambda facts: facts.failures),
)


class _StationHealth:
    """What one of the stations that share a predictor counts for itself; nothing of what is told of bundles."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def health(self) -> Health:
        """How it is doing."""
        facts = self._station.facts()
        return Health(
            predictions={status: facts.results.get(status, 0) for status in get_args(Status)},
            backend_failures=0,
            reopens=0,
            swaps=0,
            rollbacks=0,
            models=(),
            latency=facts.latency,
        )


class _HealthOfAll:
    """Predictions and latency of each station; inputs, answers and failures of each bundle."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self._stations = HealthCollector({station.name: _StationHealth(station) for station in stations})
        self._bundles = HealthCollector(_by_bundle(stations))

    def collect(self) -> Iterator[Any]:
        """The metric families, as prometheus-client takes them."""
        for own, shared in zip(self._stations.collect(), self._bundles.collect(), strict=True):
            yield own if own.name in _COUNTED_BY_STATIONS else shared


def _by_bundle(stations: Sequence[Station]) -> dict[str, EdgePredictor]:
    """Each predictor once, by the path of its bundle; one that is opened in several ways has a number behind it."""
    found: dict[str, EdgePredictor] = {}
    for station in stations:
        if any(one is station.predictor for one in found.values()):
            continue
        path = station.predictor.info().bundle
        opened = sum(one.info().bundle == path for one in found.values())
        found[f"{path} {opened + 1}" if opened else path] = station.predictor
    return found


class ServiceCollector:
    """What Prometheus asks for the counters of all stations and sinks.

    Args:
        service: whose.

    """

    def __init__(self, service: Service) -> None:
        from prometheus_client import core

        self._service = service
        self._core = core

    def collect(self) -> Iterator[Any]:
        """The metric families, as prometheus-client takes them."""
        facts = self._service.facts()
        yield from self._counters(facts)
        queue = self._core.GaugeMetricFamily(
            "mmkd_live_queued", "Deliveries that wait for an answer.", labels=["station"]
        )
        for station in facts.stations:
            queue.add_metric([station.station], station.intake.queued)
        yield queue

    def _counters(self, facts: RunFacts) -> Iterator[Any]:
        family = self._core.CounterMetricFamily
        for name, text, value_of in _OF_STATIONS:
            counter = family(f"mmkd_live_{name}", text, labels=["station"])
            for station in facts.stations:
                counter.add_metric([station.station], value_of(station))
            yield counter
        alarms = family("mmkd_live_alarms", "Episodes that began.", labels=["station", "label"])
        for station in facts.stations:
            for label, count in station.alarms.items():
                alarms.add_metric([station.station, label], count)
        yield alarms
        for name, text, sink_value_of in _OF_SINKS:
            counter = family(f"mmkd_sink_{name}", text, labels=["sink"])
            for sink in facts.sinks:
                counter.add_metric([sink.sink], sink_value_of(sink))
            yield counter


def service_metrics(service: Service) -> str:
    """Everything in the text format of Prometheus. Raises UnavailableError where prometheus-client is not installed."""
    health = _HealthOfAll(service.stations)
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(health)
    registry.register(ServiceCollector(service))
    return generate_latest(registry).decode()
