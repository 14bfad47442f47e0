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
from mmkd_edge.health.monitor import HasHealth, Health
from mmkd_edge.health.timing import Timing


class HealthCollector:
    """Collects the health of predictors; their names become the label `predictor`."""

    def __init__(self, predictors: Mapping[str, HasHealth]) -> None:
        self._predictors = dict(predictors)
        self._library = metrics_library()

    def collect(self) -> Iterator[Any]:
        """Yield the metric families, as prometheus-client takes them."""
        healths = {name: predictor.health() for name, predictor in self._predictors.items()}
        yield from _counters(self._library, healths)
        yield from _histograms(self._library, healths)
        yield from _gauges(self._library, healths)


def metrics_text(predictor: HasHealth, *, name: str = "mmkd") -> str:
    """Return the health of a predictor in Prometheus text format, with `name` as the label `predictor`."""
    library = metrics_library()
    registry = library.CollectorRegistry()
    registry.register(HealthCollector({name: predictor}))
    text: str = library.generate_latest(registry).decode()
    return text


def metrics_library() -> Any:
    """Import prometheus-client; UnavailableError if it is not installed."""
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError as error:
        raise UnavailableError(
            "metrics need prometheus-client, which is not installed; install it with pip install 'mmkd-edge[metrics]'"
        ) from error
    return prometheus_client


def _counters(library: Any, healths: Mapping[str, Health]) -> Iterator[Any]:
    family = library.core.CounterMetricFamily
    predictions = family("mmkd_predictions", "Predictions given, by status.", labels=["predictor", "status"])
    for name, health in healths.items():
        for status, count in health.predictions.items():
            predictions.add_metric([name, status], count)
    yield predictions
    for field, text in (
        ("backend_failures", "Calls in which the engine failed."),
        ("reopens", "Engines that were opened again after a failure."),
        ("swaps", "Bundles that took over."),
        ("rollbacks", "Returns to the earlier bundle."),
    ):
        counter = family(f"mmkd_{field}", text, labels=["predictor"])
        for name, health in healths.items():
            counter.add_metric([name], getattr(health, field))
        yield counter


def _gauges(library: Any, healths: Mapping[str, Health]) -> Iterator[Any]:
    def gauge(name: str, text: str, label: str = "") -> Any:
        labels = ["predictor", "model", *([label] if label else [])]
        return library.core.GaugeMetricFamily(name, text, labels=labels)

    psi = gauge("mmkd_input_psi", "Population stability index of a channel against the training.", "channel")
    missing = gauge("mmkd_input_missing_share", "Share of a channel's values that are missing.", "channel")
    mean = gauge("mmkd_input_mean", "Mean of a channel, as the student takes it.", "channel")
    answers = gauge("mmkd_answer_share", "Share of a label among the answers.", "label")
    answer_psi = gauge("mmkd_answer_psi", "Population stability index of the answers.")
    verdict = gauge("mmkd_input_drift", "1 for the verdict on the last inputs, else 0.", "verdict")
    distance = gauge("mmkd_input_drift_distance", "From 1 on inputs are not as in the training.")
    due = gauge("mmkd_adaptation_due", "1 where the student should be adapted, else 0.")

    def add(family: Any, labels: list[str], value: float | None) -> None:
        if value is not None and not math.isnan(value):
            family.add_metric(labels, value)

    for name, health in healths.items():
        for model in health.models:
            labels = [name, model.model]
            for channel in model.channels:
                add(psi, [*labels, channel.channel], channel.psi)
                add(missing, [*labels, channel.channel], channel.missing_share)
                add(mean, [*labels, channel.channel], channel.mean)
            for label, share in model.label_shares.items():
                add(answers, [*labels, label], share)
            for possible in get_args(Verdict):
                add(verdict, [*labels, possible], float(possible == model.drift.verdict))
            add(answer_psi, labels, model.label_psi)
            add(distance, labels, model.drift.distance)
            add(due, labels, float(model.adaptation.due))
    yield from (psi, missing, mean, answers, answer_psi, verdict, distance, due)


def _histograms(library: Any, healths: Mapping[str, Health]) -> Iterator[Any]:
    family = library.core.HistogramMetricFamily
    latency = family("mmkd_latency_seconds", "Time of a call that gave an answer.", labels=["predictor"])
    age = family("mmkd_input_age_seconds", "Age of the newest sample of an answer.", labels=["predictor"])
    for name, health in healths.items():
        for histogram, timing in ((latency, health.latency), (age, health.input_age)):
            if timing is not None:
                histogram.add_metric([name], buckets=_buckets(timing), sum_value=timing.sum_s)
    yield from (latency, age)


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    return [("+Inf" if edge == math.inf else str(float(f"{edge:.3g}")), float(count)) for edge, count in timing.buckets]
