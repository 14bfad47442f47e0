"""Scores of each kind of task, also under a bootstrap over groups."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.figures import MEASURES, Measure
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.data.labels import Labels

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
LabelMetric = Literal["macro_f1", "mean_average_precision", "subset_accuracy"]
ValueMetric = Literal["r2", "pearson"]
NormalMetric = Literal["auroc"]
AnyMetric = Literal[Metric, LabelMetric, ValueMetric, NormalMetric]
"""What validation can maximise; the errors of a regression are only reported: `r2` is best when their square is."""
Figures = NDArray[np.float64]

_MAX_CELLS = 4_000_000  # draws times windows at a time
_CONSTANT = 1e-12  # a smaller fraction of the variance is a rounding error
_EVERY_WINDOW = np.ones((1, 1))  # one draw of one group
NO_ORDER = 0.5
"""AUROC of scores without an order, and where one kind of windows is missing."""
METRICS: dict[TaskKind, tuple[AnyMetric, ...]] = {
    "classification": get_args(Metric),
    "multi_label": get_args(LabelMetric),
    "regression": get_args(ValueMetric),
    "normal": get_args(NormalMetric),
}
"""The metrics that validation can maximise, and below the one it does by default."""
DEFAULT_METRIC: dict[TaskKind, AnyMetric] = {
    "classification": "balanced_accuracy",
    "multi_label": "macro_f1",
    "regression": "r2",
    "normal": "auroc",
}


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    def metric(self, name: str) -> float:
        figure: float = getattr(self, name)
        return figure


class Scores(_Figures, frozen=True, kw_only=True):
    """Fractions; absent classes have no recall and F1; rows of `confusion` are the truth, columns the answers."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]

    def standard_error(self, name: str) -> float:
        """Return the binomial standard error; for macro-F1 that of balanced accuracy."""
        counts = np.array(self.confusion, dtype=np.float64)
        right, of_truth = np.diag(counts), counts.sum(1)
        if name == "accuracy":
            right, of_truth = right.sum(keepdims=True), of_truth.sum(keepdims=True)
        recall = right[of_truth > 0] / of_truth[of_truth > 0]
        return float(np.sqrt((recall * (1 - recall) / of_truth[of_truth > 0]).sum()) / len(recall))


def scores_from_answers(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> Scores:
    """Score answers with the truth; both int64 (N,), N > 0, in [0, classes)."""
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (truth, answers), 1)
    figures = {name: float(metric_of_confusions(confusion[None].astype(float), name)[0]) for name in get_args(Metric)}
    return Scores(**figures, confusion=tuple(map(tuple, confusion.tolist())))


def metric_of_confusions(confusions: Figures, metric: str) -> Figures:
    """Return the metric (N,) of confusion matrices (N, K, K), rows the truth; NaN if empty."""
    right = np.diagonal(confusions, axis1=1, axis2=2)  # (N, K)
    truth, answers = confusions.sum(2), confusions.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        match metric:
            case "accuracy":
                return np.asarray(right.sum(1) / truth.sum(1))
            case "balanced_accuracy":
                values, occurs = right / truth, truth > 0
            case _:
                values, occurs = 2 * right / (truth + answers), truth + answers > 0
        return np.asarray(np.where(occurs, values, 0.0).sum(1) / occurs.sum(1))


class LabelScores(_Figures, frozen=True, kw_only=True):
    """Scores of several labels, from 0 to 1; F1 and precision ignore labels that are never on."""

    macro_f1: float
    mean_average_precision: float
    subset_accuracy: float
    counts: tuple[tuple[int, int, int, int], ...]  # per label: rightly on, wrongly on, wrongly off, rightly off

    def standard_error(self, name: str) -> float:
        """Return the binomial standard error, by default of the mean recall."""
        if name == "subset_accuracy":
            share = self.subset_accuracy
            return math.sqrt(share * (1 - share) / sum(self.counts[0]))
        counts = np.array(self.counts, dtype=np.float64)
        on = counts[:, 0] + counts[:, 2]
        recall = counts[on > 0, 0] / on[on > 0]
        return float(np.sqrt((recall * (1 - recall) / on[on > 0]).sum()) / max(len(recall), 1))


def label_scores(truth: NDArray[np.uint8], logits: NDArray[np.floating[Any]], *, threshold: float) -> LabelScores:
    """Score logits (N, K) with labels (N, K), 0 or 1; a label is on from probability `threshold`."""
    on, answers = truth == 1, logits >= math.log(threshold / (1 - threshold))
    counts = np.stack([(on & answers).sum(0), (~on & answers).sum(0), (on & ~answers).sum(0), (~on & ~answers).sum(0)])
    owner = np.zeros(len(on), dtype=np.int64)
    return LabelScores(
        macro_f1=float(weighted_f1(on, answers, owner, _EVERY_WINDOW)[0]),
        mean_average_precision=float(weighted_precision(on, logits.astype(np.float64), owner, _EVERY_WINDOW)[0]),
        subset_accuracy=float((on == answers).all(1).mean()),
        counts=tuple(map(tuple, counts.T.tolist())),
    )


class ValueScores(_Figures, frozen=True, kw_only=True):
    """Errors in the target's unit, `r2` and correlation (0 if either never changes)."""

    mae: float
    rmse: float
    r2: float
    pearson: float
    windows: int

    def standard_error(self, name: str) -> float:
        """Return the large-sample standard error of `r2` or `pearson`.

        2 R (1 - R^2) / sqrt(n) and (1 - r^2) / sqrt(n): J. Wishart, Biometrika 22, 1931.
        """
        if name == "pearson":
            return (1 - self.pearson**2) / math.sqrt(self.windows)
        explained = max(self.r2, 0.0)
        return 2 * math.sqrt(explained) * (1 - explained) / math.sqrt(self.windows)


def value_scores(truth: NDArray[np.floating[Any]], answers: NDArray[np.floating[Any]]) -> ValueScores:
    """Score answers (N,) with the truth (N,), N > 0."""
    owner = np.zeros(len(truth), dtype=np.int64)
    figures = weighted_values(truth.astype(np.float64), answers.astype(np.float64), owner, _EVERY_WINDOW)
    return ValueScores(**{name: float(values[0]) for name, values in figures.items()}, windows=len(truth))


def weighted_values(truth: Figures, answers: Figures, owner: NDArray[np.int64], weights: Figures) -> dict[str, Figures]:
    """Return mae, rmse, r2 and pearson, each (D,), of answers and truth (N,); NaN without windows.

    `owner` (N,) is each window's column in `weights` (D, G), which count groups in draws.
    """
    y, x = truth - truth.mean(), answers - truth.mean()
    columns = np.stack([np.ones_like(y), np.abs(x - y), (x - y) ** 2, y, y**2, x, x**2, x * y], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = _sum_draws(columns, owner, weights)
        _, error, squared, mean_y, square_y, mean_x, square_x, product = (sums / sums[:, :1]).T
        variance_y, variance_x = square_y - mean_y**2, square_x - mean_x**2
        varies_y = variance_y > _CONSTANT * np.var(y)
        varies = varies_y & (variance_x > _CONSTANT * np.var(x))
        r2 = np.where(varies_y, 1 - squared / variance_y, (squared == 0).astype(float))
        correlation = (product - mean_x * mean_y) / np.sqrt(variance_y * variance_x)
        empty = sums[:, 0] == 0
        figures = {"mae": error, "rmse": np.sqrt(squared), "r2": r2, "pearson": np.where(varies, correlation, 0.0)}
    return {name: np.where(empty, np.nan, values) for name, values in figures.items()}


class NormalScores(_Figures, frozen=True, kw_only=True):
    """How well scores of normal running and of known faults are apart."""

    auroc: float
    windows: int
    faults: int

    def standard_error(self, name: str) -> float:
        """Return the standard error under equal negative exponentials (Hanley and McNeil, Radiology 143, 1982)."""
        area, normal = self.auroc, self.windows - self.faults
        first, second = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
        spread = area * (1 - area) + (self.faults - 1) * first + (normal - 1) * second
        return math.sqrt(max(spread, 0.0) / max(normal * self.faults, 1))


def normal_scores(faulty: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> NormalScores:
    """Score windows (N,) of which `faulty` (N,) have a known fault."""
    owner = np.zeros(len(scores), dtype=np.int64)
    area = float(weighted_auroc(faulty, scores.astype(np.float64), owner, _EVERY_WINDOW)[0])
    return NormalScores(auroc=NO_ORDER if math.isnan(area) else area, windows=len(scores), faults=int(faulty.sum()))


def weighted_auroc(faulty: NDArray[np.bool_], scores: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    """Return the area under the ROC curve (D,) of scores (N,), ties half; NaN for a draw without both kinds."""
    order = np.argsort(scores, kind="stable")
    places = np.cumsum(np.append(False, np.diff(scores[order]) > 0))  # equal scores have one place
    areas = []
    for draw in weights:
        counted = draw[owner[order]]
        faults, normal = (np.bincount(places, counted * kind) for kind in (faulty[order], ~faulty[order]))
        below = np.cumsum(normal) - normal / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            areas.append((faults * below).sum() / (faults.sum() * normal.sum()))
    return np.array(areas)


def weighted_f1(
    on: NDArray[np.bool_], answers: NDArray[np.bool_], owner: NDArray[np.int64], weights: Figures
) -> Figures:
    """Return macro-F1 (D,) of labels and answers (N, K)."""
    labels = on.shape[1]
    columns = np.concatenate([on & answers, on ^ answers, np.ones((len(on), 1), dtype=bool)], axis=1).astype(float)
    sums = _sum_draws(columns, owner, weights)
    right, wrong = 2 * sums[:, :labels], sums[:, labels:-1]
    somewhere = right + wrong > 0
    f1 = np.where(somewhere, right / np.where(somewhere, right + wrong, 1), 0.0)
    return _mean_of_labels(f1, somewhere, sums[:, -1])


def weighted_mean(values: NDArray[Any], owner: NDArray[np.int64], weights: Figures) -> Figures:
    """Return the mean (D,) of the windows' values (N,); of flags their fraction."""
    sums = _sum_draws(np.stack([values, np.ones_like(values)], axis=1).astype(float), owner, weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def weighted_precision(on: NDArray[np.bool_], scores: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    """Return mean average precision (D,) of labels and scores (N, K), uninterpolated (M. Zhu, Waterloo, 2004)."""
    draws = max(1, _MAX_CELLS // max(1, len(on)))
    starts = range(0, len(weights), draws)
    return np.concatenate([_precision(on, scores, owner, weights[start : start + draws]) for start in starts])


def _precision(on: NDArray[np.bool_], scores: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    figures, somewhere = [], []
    for label in range(on.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        counted = weights[:, owner[order]]  # (D, N)
        ends = np.append(np.flatnonzero(np.diff(scores[order, label])), len(order) - 1)  # the last of equal scores
        right = np.cumsum(counted * on[order, label], axis=1)[:, ends]
        precision = right / np.maximum(np.cumsum(counted, axis=1)[:, ends], 1)  # weights are whole numbers
        somewhere.append(right[:, -1] > 0)
        figures.append((np.diff(right, axis=1, prepend=0.0) * precision).sum(1) / np.maximum(right[:, -1], 1))
    return _mean_of_labels(np.stack(figures, axis=1), np.stack(somewhere, axis=1), weights[:, owner].sum(1))


def _mean_of_labels(figures: Figures, somewhere: NDArray[np.bool_], windows: Figures) -> Figures:
    count = somewhere.sum(1)
    mean = np.where(count > 0, (figures * somewhere).sum(1) / np.maximum(count, 1), 1.0)
    return np.asarray(np.where(windows > 0, mean, np.nan))


def _sum_draws(columns: Figures, owner: NDArray[np.int64], weights: Figures) -> Figures:
    by_group = np.zeros((weights.shape[1], columns.shape[1]))
    np.add.at(by_group, owner, columns)
    return np.asarray(weights @ by_group)  # (D, F)


AnyScores = Scores | LabelScores | ValueScores | NormalScores


def known_score(metric: str, score: float) -> float | None:
    """Return a score, but None for the AUROC of windows without known faults."""
    return None if metric == "auroc" and score == NO_ORDER else score


def check_metric(name: str, kind: TaskKind) -> None:
    """Raise UsageError if a metric does not apply."""
    if name not in METRICS[kind]:
        raise UsageError(
            f"training: metric {name!r}: expected one of {', '.join(METRICS[kind])} for a task of the kind {kind}; "
            "choose one of them"
        )


def scores_from_logits(labels: Labels, logits: NDArray[np.floating[Any]], task: TaskSpec) -> AnyScores:
    """Score logits (N, K) with labels; regression: (N, 1) in the target's unit."""
    match task.kind:
        case "classification":
            return scores_from_answers(labels, logits.argmax(1), len(task.labels))
        case "multi_label":
            return label_scores(labels, logits, threshold=task.on_from)
        case "regression":
            return value_scores(labels, logits[:, 0])
        case "normal":
            return normal_scores(labels.reshape(-1) > 0, logits[:, 0])


def figures_in(scores: AnyScores) -> tuple[str, ...]:
    """Return the names of the figures, without counts."""
    return tuple(
        name for name in type(scores).__struct_fields__ if name not in ("confusion", "counts", "windows", "faults")
    )


def scores_from_document(document: dict[str, Any]) -> AnyScores:
    """Return the scores of a document."""
    if "confusion" in document:
        return msgspec.convert(document, Scores)
    if "counts" in document:
        return msgspec.convert(document, LabelScores)
    if "auroc" in document:
        return msgspec.convert(document, NormalScores)
    return msgspec.convert(document, ValueScores)


def measures_of(task: TaskSpec) -> tuple[Measure, ...]:
    """Return a task's figures in table order, that of gains first."""
    if task.kind != "regression":
        return tuple(map(measure_named, METRICS[task.kind]))
    unit = task.unit or ""
    errors = (msgspec.structs.replace(measure_named(name), unit=unit, gain_unit=unit) for name in ("mae", "rmse"))
    return (*errors, measure_named("r2"), measure_named("pearson"))


def measure_named(name: str) -> Measure:
    """Return a figure by name, an error without the unit of its task."""
    return next(measure for measure in MEASURES if measure.name == name)


def gain_metric(task: TaskSpec, metric: str) -> Measure:
    """Return the measure of gains: the maximised metric; for regression the error."""
    first = measures_of(task)[0]
    return first if first.lower_is_better else next(measure for measure in measures_of(task) if measure.name == metric)
