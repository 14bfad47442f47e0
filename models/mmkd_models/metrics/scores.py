"""Scores of each kind of task: their figures, standard errors and names."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_report.schema.figures import MEASURES, Measure

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
LabelMetric = Literal["macro_f1", "mean_average_precision", "subset_accuracy"]
ValueMetric = Literal["r2", "pearson"]
AnyMetric = Literal[Metric, LabelMetric, ValueMetric]
"""What validation can maximise; the errors of a regression are only reported: `r2` is best where their square is."""


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    def metric(self, name: str) -> float:
        """Return one figure by its name."""
        figure: float = getattr(self, name)
        return figure


class Scores(_Figures, frozen=True, kw_only=True):
    """Scores of classes, fractions from 0 to 1.

    Attributes:
        balanced_accuracy: mean recall over the classes that occur in the truth.
        macro_f1: mean F1 over the classes that occur in the truth or among the answers.
        confusion: K rows (truth) of K counts (answers).
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]

    def standard_error(self, name: str) -> float:
        """Return the binomial standard error, windows taken as independent; of macro-F1 that of balanced accuracy."""
        counts = np.array(self.confusion, dtype=np.float64)
        right, of_truth = np.diag(counts), counts.sum(1)
        if name == "accuracy":
            right, of_truth = right.sum(keepdims=True), of_truth.sum(keepdims=True)
        recall = right[of_truth > 0] / of_truth[of_truth > 0]
        return float(np.sqrt((recall * (1 - recall) / of_truth[of_truth > 0]).sum()) / len(recall))


def scores_from_answers(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> Scores:
    """Score answers with the truth; both int64 (N,), N > 0, values in [0, classes)."""
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (truth, answers), 1)
    right = np.diag(confusion).astype(float)
    of_truth, of_answers = confusion.sum(1), confusion.sum(0)
    recall = right[of_truth > 0] / of_truth[of_truth > 0]
    occurs = (of_truth + of_answers) > 0
    f1 = 2 * right[occurs] / (of_truth + of_answers)[occurs]
    return Scores(
        accuracy=float(right.sum() / len(truth)),
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1.mean()),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


class LabelScores(_Figures, frozen=True, kw_only=True):
    """Scores of several labels, fractions from 0 to 1.

    Attributes:
        macro_f1: mean F1 over the labels that are on somewhere, in the truth or among the answers.
        mean_average_precision: mean over the labels that are on somewhere in the truth.
        subset_accuracy: fraction of windows with every label right.
        counts: for each label, windows that are rightly on, wrongly on, wrongly off, rightly off.
    """

    macro_f1: float
    mean_average_precision: float
    subset_accuracy: float
    counts: tuple[tuple[int, int, int, int], ...]

    def standard_error(self, name: str) -> float:
        """Return the binomial standard error, windows taken as independent; by default of the mean recall."""
        if name == "subset_accuracy":
            share = self.subset_accuracy
            return math.sqrt(share * (1 - share) / sum(self.counts[0]))
        counts = np.array(self.counts, dtype=np.float64)
        on = counts[:, 0] + counts[:, 2]
        recall = counts[on > 0, 0] / on[on > 0]
        return float(np.sqrt((recall * (1 - recall) / on[on > 0]).sum()) / max(len(recall), 1))


def label_scores(truth: NDArray[np.uint8], logits: NDArray[np.floating[Any]], *, threshold: float) -> LabelScores:
    """Score logits (N, K) with labels (N, K), 0 or 1; a label is on from the probability `threshold`."""
    on, answers = truth == 1, logits >= math.log(threshold / (1 - threshold))
    counts = np.stack([(on & answers).sum(0), (~on & answers).sum(0), (on & ~answers).sum(0), (~on & ~answers).sum(0)])
    right, wrongly_on, wrongly_off = counts[:3].astype(float)
    somewhere = right + wrongly_on + wrongly_off > 0
    f1 = 2 * right[somewhere] / (2 * right + wrongly_on + wrongly_off)[somewhere]
    precision = [average_precision(on[:, k], logits[:, k]) for k in range(on.shape[1]) if on[:, k].any()]
    return LabelScores(
        macro_f1=float(f1.mean()) if len(f1) else 1.0,
        mean_average_precision=float(np.mean(precision)) if precision else 1.0,
        subset_accuracy=float((on == answers).all(1).mean()),
        counts=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in counts.T),
    )


def average_precision(on: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the sum over thresholds of precision times gained recall; some of `on` (N,) are true.

    Source: M. Zhu, "Recall, Precision and Average Precision", University of Waterloo, 2004: no interpolation.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(on[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last window of each score
    recall = right[ends] / right[-1]
    return float((np.diff(recall, prepend=0.0) * right[ends] / (ends + 1)).sum())


class ValueScores(_Figures, frozen=True, kw_only=True):
    """Scores of numbers: errors in the target's unit, `r2` and correlation (0 if either never changes)."""

    mae: float
    rmse: float
    r2: float
    pearson: float
    windows: int

    def standard_error(self, name: str) -> float:
        """Return the large-sample standard error of `r2` or `pearson`, windows taken as independent.

        Source: J. Wishart, "The Mean and Second Moment Coefficient of the Multiple Correlation Coefficient", Biometrika
        22, 1931: 2 R (1 - R^2) / sqrt(n) of R^2, and (1 - r^2) / sqrt(n) of r.
        """
        if name == "pearson":
            return (1 - self.pearson**2) / math.sqrt(self.windows)
        explained = max(self.r2, 0.0)
        return 2 * math.sqrt(explained) * (1 - explained) / math.sqrt(self.windows)


def value_scores(truth: NDArray[np.floating[Any]], answers: NDArray[np.floating[Any]]) -> ValueScores:
    """Score answers (N,) with the truth (N,), N > 0."""
    y, x = truth.astype(np.float64), answers.astype(np.float64)
    squared = float(np.square(x - y).mean())
    variance = float(y.var())
    spread = float(y.std() * x.std())
    return ValueScores(
        mae=float(np.abs(x - y).mean()),
        rmse=math.sqrt(squared),
        r2=1 - squared / variance if variance > 0 else float(squared == 0),
        pearson=float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0,
        windows=len(y),
    )


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
    """Score logits (N, K) with labels; for regression (N, 1) numbers in its unit."""
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
    """Return the scores of a document."""
    if "confusion" in document:
        return msgspec.convert(document, Scores)
    if "counts" in document:
        return msgspec.convert(document, LabelScores)
    return msgspec.convert(document, ValueScores)


def of_classes(scores: AnyScores) -> Scores:
    """Return the scores of a classification task."""
    assert isinstance(scores, Scores)
    return scores


_MEASURES_OF: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1"),
    "multi_label": ("macro_f1", "mean_average_precision", "subset_accuracy"),
    "regression": ("mae", "rmse", "r2", "pearson"),
}


def measures_of(task: TaskSpec) -> tuple[Measure, ...]:
    """Return the figures of a task in the order of a table; gains are reported in the first."""
    measures = [measure_named(name) for name in _MEASURES_OF[task.kind]]
    return tuple(_in_unit(measure, task.unit or "") if measure.lower_is_better else measure for measure in measures)


def written_measures(task: TaskSpec) -> tuple[Measure, ...] | msgspec.UnsetType:
    """Return the figures that a document names; unset for classification."""
    return msgspec.UNSET if task.kind == "classification" else measures_of(task)


def measure_named(name: str) -> Measure:
    """Return a figure by its name, an error without the unit of its task."""
    return next(measure for measure in MEASURES if measure.name == name)


def gain_metric(task: TaskSpec, metric: str) -> Measure:
    """Return the measure of gains: the metric that validation maximised, or for regression the error."""
    first = measures_of(task)[0]
    return first if first.lower_is_better else next(one for one in measures_of(task) if one.name == metric)


def _in_unit(measure: Measure, unit: str) -> Measure:
    return msgspec.structs.replace(measure, unit=unit, gain_unit=unit)
