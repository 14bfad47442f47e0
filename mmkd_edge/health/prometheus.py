"""The health of predictors for Prometheus. Needs the extra `[metrics]`; opens no port.

    from prometheus_client import REGISTRY, start_http_server
    from mmkd_edge.health.prometheus import HealthCollector

    REGISTRY.register(HealthCollector({"press 1": predictor}))
    start_http_server(9464, addr="127.0.0.1")

or `metrics_text(predictor)` for the text alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from mmkd_edge.errors import UnavailableError
from mmkd_edge.health.drift import Verdict
from mmkd_edge.health.monitor import HasHealth
from mmkd_edge.health.running import ModelHealth

_COUNTERS = {
    "backend_failures": "Calls in which the engine failed.",
    "reopens": "Engines that were opened again after a failure.",
    "swaps": "Bundles that took over.",
    "rollbacks": "Returns to the earlier bundle.",
}
_GAUGES = {  # with their extra label
    "input_psi": ("Population stability index of a channel against the training.", "channel"),
    "input_missing_ratio": ("Fraction of a channel's values that are missing.", "channel"),
    "answer_ratio": ("Fraction of a label among the answers.", "label"),
    "answer_psi": ("Population stability index of the answers.", ""),
    "input_drift": ("1 for the verdict on the last inputs, else 0.", "verdict"),
    "input_drift_distance": ("From 1 on inputs are not as in the training.", ""),
    "adaptation_due": ("1 where the student should be adapted, else 0.", ""),
}


class HealthCollector:
    """Collects predictors' health; their names become the label `predictor`."""

    def __init__(self, predictors: Mapping[str, HasHealth]) -> None:
        self._predictors = dict(predictors)
        self._library = _import_library()

    def collect(self) -> Iterator[Any]:
        """Yield the metric families, as prometheus-client takes them."""
        core = self._library.core
        healths = {name: predictor.health() for name, predictor in self._predictors.items()}
        predictions = core.CounterMetricFamily(
            "mmkd_predictions", "Predictions given, by status.", labels=["predictor", "status"]
        )
        latency = core.HistogramMetricFamily(
            "mmkd_latency_seconds", "Time of a call that gave an answer.", labels=["predictor"]
        )
        age = core.HistogramMetricFamily(
            "mmkd_input_age_seconds", "Age of the newest sample of an answer.", labels=["predictor"]
        )
        counters = {
            field: core.CounterMetricFamily(f"mmkd_{field}", text, labels=["predictor"])
            for field, text in _COUNTERS.items()
        }
        gauges = {
            name: core.GaugeMetricFamily(f"mmkd_{name}", text, labels=["predictor", "model", *filter(None, [label])])
            for name, (text, label) in _GAUGES.items()
        }
        for name, health in healths.items():
            for status, count in health.predictions.items():
                predictions.add_metric([name, status], count)
            for field, counter in counters.items():
                counter.add_metric([name], getattr(health, field))
            for histogram, timing in ((latency, health.latency), (age, health.input_age)):
                if timing is not None:
                    buckets = [
                        ("+Inf" if edge == math.inf else str(float(f"{edge:.3g}")), float(count))
                        for edge, count in timing.buckets
                    ]
                    histogram.add_metric([name], buckets=buckets, sum_value=timing.sum_s)
            for model in health.models:
                for gauge, label, value in _gauge_values(model):
                    if value is not None and not math.isnan(value):
                        gauges[gauge].add_metric([name, model.model, *filter(None, [label])], value)
        yield from (predictions, *counters.values(), latency, age, *gauges.values())


def metrics_text(predictor: HasHealth, *, name: str = "mmkd") -> str:
    """Return a predictor's health in Prometheus text format, labelled `predictor=name`."""
    library = _import_library()
    registry = library.CollectorRegistry()
    registry.register(HealthCollector({name: predictor}))
    return str(library.generate_latest(registry).decode())


def _import_library() -> Any:
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError as error:
        raise UnavailableError(
            "metrics need prometheus-client, which is not installed; install it with pip install 'mmkd-edge[metrics]'"
        ) from error
    return prometheus_client


def _gauge_values(model: ModelHealth) -> Iterator[tuple[str, str, float | None]]:
    for channel in model.channels:
        yield "input_psi", channel.channel, channel.psi
        yield "input_missing_ratio", channel.channel, channel.missing_fraction
    for label, fraction in model.label_fractions.items():
        yield "answer_ratio", label, fraction
    for verdict in get_args(Verdict):
        yield "input_drift", verdict, float(verdict == model.drift.verdict)
    yield "answer_psi", "", model.label_psi
    yield "input_drift_distance", "", model.drift.distance
    yield "adaptation_due", "", float(bool(model.drift.adaptation_reason))
