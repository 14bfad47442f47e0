"""Metrics of each kind of task, and scores of logits."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_models.metrics.classes import Metric, Scores, scores_from_answers
from mmkd_models.metrics.labels import LabelScores, label_scores
from mmkd_models.metrics.values import ValueScores, value_scores

LabelMetric = Literal["macro_f1", "mean_average_precision", "subset_accuracy"]
ValueMetric = Literal["r2", "pearson"]
AnyMetric = Literal[Metric, LabelMetric, ValueMetric]
"""What validation can maximise; the errors of a regression are only reported: `r2` is best where their square is."""

AnyScores = Scores | LabelScores | ValueScores


def metrics_of(kind: TaskKind) -> tuple[str, ...]:
    """Return the metrics that validation can maximise."""
    match kind:
        case "classification":
            return get_args(Metric)
        case "multi_label":
            return get_args(LabelMetric)
        case "regression":
            return get_args(ValueMetric)


def default_metric(kind: TaskKind) -> AnyMetric:
    """Return the metric that validation maximises by default."""
    match kind:
        case "classification":
            return "balanced_accuracy"
        case "multi_label":
            return "macro_f1"
        case "regression":
            return "r2"


def check_metric(name: str, kind: TaskKind) -> None:
    """Raise UsageError if a metric does not apply to a task of this kind."""
    if name not in metrics_of(kind):
        raise UsageError(
            f"training: metric {name!r}: expected one of {', '.join(metrics_of(kind))} for a task of the kind {kind}; "
            "choose one of them"
        )


def scores_from_logits(labels: Labels, logits: NDArray[np.floating[Any]], task: TaskSpec) -> AnyScores:
    """Score logits (N, K) with labels, all known, N > 0; for regression (N, 1) numbers in its unit."""
    match task.kind:
        case "classification":
            return scores_from_answers(labels, logits.argmax(1), len(task.labels))
        case "multi_label":
            return label_scores(labels, logits, threshold=task.on_from)
        case "regression":
            return value_scores(labels, logits[:, 0])


def figures_in(scores: AnyScores) -> tuple[str, ...]:
    """Return the names of the figures in scores, without counts."""
    return tuple(name for name in type(scores).__struct_fields__ if name not in ("confusion", "counts", "windows"))


def scores_from_document(document: dict[str, Any]) -> AnyScores:
    """Return scores from a document: each kind has a figure that no other has."""
    if "confusion" in document:
        return msgspec.convert(document, Scores)
    if "counts" in document:
        return msgspec.convert(document, LabelScores)
    return msgspec.convert(document, ValueScores)


def of_classes(scores: AnyScores) -> Scores:
    """Return the scores of a classification task."""
    assert isinstance(scores, Scores)
    return scores
