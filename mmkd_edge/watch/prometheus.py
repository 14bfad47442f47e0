"""The health of predictors for Prometheus. Needs the extra `[metrics]`; opens no port.

    from prometheus_client import REGISTRY, start_http_server
    from mmkd_edge.watch.prometheus import HealthCollector

    REGISTRY.register(HealthCollector({"press 1": predictor}))
    start_http_server(9464, addr="127.0.0.1")

or, where the text goes into a file or an answer of your own, `metrics_text(predictor)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from mmkd_edge.drift.verdict import Verdict
from mmkd_edge.errors import UnavailableError
from mmkd_edge.watch.health import HasHealth, Health
from mmkd_edge.watch.timing import Timing


class HealthCollector:
    """What Prometheus asks for the health of predictors; register it, or give it to `metrics_text`.

    Nothing is counted here: each collection reads `EdgePredictor.health`. The number of series depends on the bundle
    alone: channels, labels and the words of the status.

    Args:
        predictors: name to predictor, or to what watches it, which knows its latency as well; the name becomes the
            label `predictor`.

    Raises:
        UnavailableError: prometheus-client is not installed.
    """

    def __init__(self, predictors: Mapping[str, HasHealth]) -> None:
        self._predictors = dict(predictors)
        self._library = metrics_library()

    def collect(self) -> Iterator[Any]:
        """The metric families, as prometheus-client takes them."""
        found = {name: predictor.health() for name, predictor in self._predictors.items()}
        yield from _counters(self._library, found)
        yield from _gauges(self._library, found)
        yield from _histograms(self._library, found)
        yield from _drift_gauges(self._library, found)


def metrics_text(predictor: HasHealth, *, name: str = "mmkd") -> str:
    """The health of one predictor in the text format of Prometheus.

    Args:
        predictor: it, or what watches it.
        name: the value of the label `predictor`.

    Raises:
        UnavailableError: prometheus-client is not installed.
    """
    library = metrics_library()
    registry = library.CollectorRegistry()
    registry.register(HealthCollector({name: predictor}))
    text: str = library.generate_latest(registry).decode()
    return text


def metrics_library() -> Any:
    """prometheus-client. Raises UnavailableError where it is not installed."""
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError as error:
        raise UnavailableError(
            "metrics need prometheus-client, which is not installed; install it with pip install 'mmkd-edge[metrics]'"
        ) from error
    return prometheus_client


def _counters(library: Any, found: Mapping[str, Health]) -> Iterator[Any]:
    family = library.core.CounterMetricFamily
    predictions = family("mmkd_predictions", "Predictions given, by status.", labels=["predictor", "status"])
    for name, health in found.items():
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
        for name, health in found.items():
            counter.add_metric([name], getattr(health, field))
        yield counter


def _gauges(library: Any, found: Mapping[str, Health]) -> Iterator[Any]:
    family = library.core.GaugeMetricFamily
    channel, label = ["predictor", "model", "channel"], ["predictor", "model", "label"]
    psi = family("mmkd_input_psi", "Population stability index of a channel against the training.", labels=channel)
    missing = family("mmkd_input_missing_share", "Share of a channel's values that are missing.", labels=channel)
    mean = family("mmkd_input_mean", "Mean of a channel, as the student takes it.", labels=channel)
    answers = family("mmkd_answer_share", "Share of a label among the answers.", labels=label)
    drift = family("mmkd_answer_psi", "Population stability index of the answers.", labels=["predictor", "model"])
    for name, health in found.items():
        for model in health.models:
            for one in model.channels:
                labels = [name, model.model, one.channel]
                for gauge, value in ((psi, one.psi), (missing, one.missing_share), (mean, one.mean)):
                    if value is not None and not math.isnan(value):
                        gauge.add_metric(labels, value)
            for text, share in model.label_shares.items():
                answers.add_metric([name, model.model, text], share)
            if model.label_psi is not None:
                drift.add_metric([name, model.model], model.label_psi)
    yield from (psi, missing, mean, answers, drift)


def _histograms(library: Any, found: Mapping[str, Health]) -> Iterator[Any]:
    family = library.core.HistogramMetricFamily
    latency = family("mmkd_latency_seconds", "Time of a call that gave an answer.", labels=["predictor"])
    age = family("mmkd_input_age_seconds", "Age of the newest sample of an answer.", labels=["predictor"])
    for name, health in found.items():
        for one, timing in ((latency, health.latency), (age, health.input_age)):
            if timing is not None:
                one.add_metric([name], buckets=_buckets(timing), sum_value=timing.sum_s)
    yield from (latency, age)


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    return [("+Inf" if edge == math.inf else str(float(f"{edge:.3g}")), float(count)) for edge, count in timing.buckets]


def _drift_gauges(library: Any, found: Mapping[str, Health]) -> Iterator[Any]:
    family = library.core.GaugeMetricFamily
    labels = ["predictor", "model"]
    verdict = family("mmkd_input_drift", "1 for the verdict on the last inputs, else 0.", labels=[*labels, "verdict"])
    distance = family("mmkd_input_drift_distance", "From 1 on inputs are not as in the training.", labels=labels)
    due = family("mmkd_adaptation_due", "1 where the student should be adapted, else 0.", labels=labels)
    for name, health in found.items():
        for model in health.models:
            due.add_metric([name, model.model], float(model.adaptation.due))
            for one in get_args(Verdict):
                verdict.add_metric([name, model.model, one], float(one == model.drift.verdict))
            if model.drift.distance is not None:
                distance.add_metric([name, model.model], model.drift.distance)
    yield from (verdict, distance, due)
