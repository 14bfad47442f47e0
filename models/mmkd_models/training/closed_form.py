"""Members without steps, fitted and calibrated, and the ridge.

Leave-one-out errors are (y - y^) / (1 - h), h the diagonal of the hat matrix (Hastie, Tibshirani, Friedman, 2nd
edition, equation 7.64).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskKind, TaskSpec
from mmkd_models.data.augment import with_clock_error
from mmkd_models.data.batches import channel_statistics
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows, without_each
from mmkd_models.losses.term import target_scale
from mmkd_models.metrics.likelihood import helpful_temperature, probabilities_of
from mmkd_models.metrics.scores import AnyMetric, check_metric, scores_from_logits
from mmkd_models.networks.config import (
    MAX_FEATURES,
    MAX_NODES,
    MAX_POSITIONS,
    PRESET_POSITIONS,
    MemberKind,
    TreesConfig,
)
from mmkd_models.networks.convolutions import (
    FEATURES,
    LENGTH,
    ConvolutionFeatures,
    apply_convolutions,
    fit_convolutions,
    fits_kernels,
    prune_convolutions,
)
from mmkd_models.networks.intervals import (
    MIN_SAMPLES,
    IntervalFeatures,
    apply_intervals,
    fit_intervals,
    fits_intervals,
)
from mmkd_models.networks.student import Student
from mmkd_models.networks.trees import grow_arrays
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile
from mmkd_models.training.fitting import finish_student, set_target_scale
from mmkd_models.training.inputs import TrainingRequest, check_labels
from mmkd_models.training.loop import Fit
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.trainings import check_teachers

logger = logging.getLogger(__name__)

_MIN_FEATURES = 84

_STRONGER_PENALTIES = (1e2, 1e3)
"""Also tried: the penalty for all features is too weak for a few selected ones."""

_DRAWN_FROM = 512  # windows for biases and spreads
_TREES = 200
_GRID = 2.0**-16  # of features that trees are grown on
_CHUNK = 1024
Floats = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in np.arange(-1.0, 6.01, 0.5))  # of features in standard deviations
_DROPPED = 0.1  # fraction of the features that a step drops
_MAX_ROWS = 16_384  # windows of one regression: their features take 130 MB in float32


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a closed form learns: training rows (N,), and answers (N, K), teachers' with the label if there is one."""

    rows: NDArray[np.int64]
    answers: NDArray[np.float64]


def lesson_of(training: TrainingRequest) -> Lesson:
    """Return all windows as teachers answer them, or those with labels."""
    train, teachers, config = training.data.train, training.teachers, training.run.train
    check_metric(config.metric, train.spec.task.kind)
    if teachers:
        check_teachers(teachers, train)
    else:
        check_labels(training.data)
    rows = rows_to_learn_from(train, taught=bool(teachers), seed=config.seed)
    if teachers:
        return Lesson(rows=rows, answers=mix_answers(train, rows, teachers_answers(teachers, train, rows)))
    return Lesson(rows=rows, answers=label_answers(train.spec.task, train.labels[rows]))


def fit_convolutions_student(training: TrainingRequest, lesson: Lesson) -> StudentCheckpoint:
    """Fit a student of convolutional features."""
    data, modality, config, run = training.data, training.modality, training.config, training.run
    task, metric = data.train.spec.task, run.train.metric
    train, lesson = _vary_windows(training, lesson)
    targets = ridge_targets(train, lesson.answers)
    positions = PRESET_POSITIONS.get(config.preset, MAX_POSITIONS)
    features = draw_features(train, modality, seed=run.train.seed, positions=positions)
    inputs = convolution_features(features, train, modality, lesson.rows)
    known = data.valid.with_modalities([modality]).only_labelled()
    valid_inputs = convolution_features(features, known, modality, np.arange(len(known)))

    def validate(rows: NDArray[np.int64], ridge: Ridge) -> float:
        scores = ridge.scores(valid_inputs[:, rows])
        if task.kind == "regression":
            mean, std = target_scale(train)
            scores = scores * std + mean
        return scores_from_logits(known.labels, scores, task).metric(metric)

    chosen, ridge = choose_features(
        inputs,
        targets,
        weights=_ridge_weights(metric, task.kind, targets),
        most=MAX_FEATURES.get(config.preset, MAX_FEATURES["small"]),
        validate=validate,
    )
    logger.info("convolutions: %d of %d features, penalty %g", len(chosen), inputs.shape[1], ridge.penalty)
    features = prune_convolutions(features, data.train.spec.modality(modality), chosen)
    network, training = _blank(training, members=("convolutions",), convolutions=features.config)
    network.convolutions = features
    return _finish_student(training, network, ridge)


def fit_intervals_student(training: TrainingRequest, lesson: Lesson) -> StudentCheckpoint:
    """Fit a ridge on the features of intervals."""
    modality, config = training.modality, training.run.train
    check_lengths(training.data.train.spec.modality(modality), ("intervals",))
    network, training = _blank(training, members=("intervals",))
    train, lesson = _vary_windows(training, lesson)
    network.intervals = measure_intervals(train, modality, seed=config.seed)
    raw = torch.from_numpy(interval_features(network.intervals, train, modality, lesson.rows))
    targets = ridge_targets(train, lesson.answers)
    weights = _ridge_weights(config.metric, train.spec.task.kind, targets)
    ridge = fit_ridge(network.intervals.standardised(raw).numpy(), targets, weights)
    return _finish_student(training, network, ridge)


def grow_trees_student(training: TrainingRequest, lesson: Lesson) -> StudentCheckpoint:
    """Grow extra-trees on the features of intervals and hard answers."""
    modality, task = training.modality, training.data.train.spec.task
    train, lesson = _vary_windows(training, lesson)
    check_lengths(train.spec.modality(modality), ("trees",))
    answers = ridge_targets(train, lesson.answers) if task.kind == "regression" else lesson.answers
    labels = hard_answers(answers, kind=task.kind)
    rows, seed = lesson.rows, training.run.train.seed
    networks, arrays = grow_on_intervals(
        train, (modality,), rows, labels, trees=_TREES, seed=seed, most_nodes=MAX_NODES
    )
    sizes = TreesConfig(trees=_TREES, nodes=len(arrays["feature"]), leaves=len(arrays["fractions"]))
    network, training = _blank(training, members=("trees",), trees=sizes)
    network.intervals = networks[modality]
    assert network.trees is not None
    network.trees.load_state_dict({**arrays, "scale": torch.ones(1)})
    return _finish_student(training, network, None)


def _blank(training: TrainingRequest, **parts: Any) -> tuple[Student, TrainingRequest]:
    spec, config = training.data.train.spec, msgspec.structs.replace(training.config, **parts)
    network = Student(spec.modality(training.modality), len(spec.task.labels), config, kind=spec.task.kind)
    return network, replace(training, config=config, recipe=None)


@torch.no_grad()
def _finish_student(training: TrainingRequest, network: Student, ridge: Ridge | None) -> StudentCheckpoint:
    data, modality = training.data, training.modality
    network.eval()
    head = network.head
    head.weight.copy_(torch.zeros_like(head.weight) if ridge is None else torch.from_numpy(ridge.weight.T))
    head.bias.copy_(torch.zeros_like(head.bias) if ridge is None else torch.from_numpy(ridge.bias))
    set_target_scale(network, data.train)
    valid = data.valid.with_modalities([modality])
    known = valid.only_labelled()
    logits = logits_of(network, known, modality=modality)
    temperature = helpful_temperature(logits, known.labels, known.groups, kind=data.train.spec.task.kind)
    for values in (head.weight, head.bias, *([] if network.trees is None else [network.trees.scale])):
        values.div_(temperature)
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    result = Fit(state=state, scores=scores_of(network, valid, modality=modality), best_step=0)
    return finish_student(training, network, result)


FITS: dict[MemberKind, Callable[[TrainingRequest, Lesson], StudentCheckpoint]] = {
    "convolutions": fit_convolutions_student,
    "intervals": fit_intervals_student,
    "trees": grow_trees_student,
}


def _ridge_weights(metric: AnyMetric, kind: TaskKind, targets: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ones(len(targets)) if metric == "accuracy" else class_weights(kind, targets)


def grow_on_intervals(
    windows: Windows,
    modalities: Sequence[str],
    rows: NDArray[np.int64],
    labels: NDArray[Any],
    *,
    trees: int,
    seed: int,
    most_nodes: int | None = None,
) -> tuple[dict[str, IntervalFeatures], dict[str, Tensor]]:
    """Grow extra-trees on the intervals of these rows; return the features by modality, and the trees' arrays."""
    task = windows.spec.task
    networks = {name: measure_intervals(windows, name, seed=seed) for name in modalities}
    features = [interval_features(network, windows, name, rows) for name, network in networks.items()]
    # On a grid, or trees would split the rounding of a constant channel's spread, which differs between engines.
    on_grid = np.round(np.concatenate(features, axis=1) / _GRID) * np.float32(_GRID)
    return networks, grow_arrays(
        on_grid, labels, trees=trees, classes=len(task.labels), kind=task.kind, seed=seed, most_nodes=most_nodes
    )


def _vary_windows(training: TrainingRequest, lesson: Lesson) -> tuple[Windows, Lesson]:
    """Return windows with a clock's error, and of a joined sensor also without each part, and their lesson."""
    modality, run = training.modality, training.run
    train = with_clock_error(training.data.train, modality, run.augment.clock_error_s, seed=run.train.seed)
    if not (parts := train.spec.modality(modality).parts):
        return train, lesson
    copies = len(parts) + 1
    most = min(len(lesson.rows), _MAX_ROWS // copies)
    kept = np.linspace(0, len(lesson.rows) - 1, most).astype(np.int64)
    rows = np.concatenate([lesson.rows[kept] + len(train) * copy for copy in range(copies)])
    return without_each(train, modality), replace(lesson, rows=rows, answers=np.tile(lesson.answers[kept], (copies, 1)))


def is_long_enough(spec: ModalitySpec, member: MemberKind) -> bool:
    """Return whether windows have the samples that a member needs."""
    if member == "transformer":
        return True
    return (fits_kernels if member == "convolutions" else fits_intervals)(spec)


def check_lengths(spec: ModalitySpec, members: Sequence[MemberKind]) -> None:
    """Raise UsageError for a member that needs longer windows."""
    for member in members:
        if not is_long_enough(spec, member):
            least = LENGTH if member == "convolutions" else MIN_SAMPLES
            raise UsageError(
                f"modality {spec.name!r}: {member}: expected windows of at least {least} samples, got {spec.samples}; "
                "take longer windows, or the member transformer"
            )


def measure_intervals(windows: Windows, modality: str, *, seed: int) -> IntervalFeatures:
    """Measure the features of intervals on at most 512 training windows."""
    spec, narrow = windows.spec.modality(modality), windows.with_modalities([modality])
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:_DRAWN_FROM])
    return fit_intervals(
        spec, *prepare_batch(narrow.take(rows)[modality], spec), scale=channel_statistics(narrow, modality)
    )


def interval_features(
    network: IntervalFeatures, windows: Windows, modality: str, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the raw features (N, F)."""
    return _apply_in_chunks(lambda *batch: apply_intervals(network, *batch), windows, modality, rows)


def draw_features(
    windows: Windows, modality: str, *, seed: int, features: int = FEATURES, positions: int = MAX_POSITIONS
) -> ConvolutionFeatures:
    """Draw features from at most 512 training windows; arguments as `fit_convolutions`."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:_DRAWN_FROM])
    spec, narrow = windows.spec.modality(modality), windows.with_modalities([modality])
    values, present = prepare_batch(narrow.take(rows)[modality], spec)
    scale = channel_statistics(narrow, modality)
    return fit_convolutions(spec, values, present, scale=scale, seed=seed, features=features, positions=positions)


def convolution_features(
    network: ConvolutionFeatures, windows: Windows, modality: str, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the features (N, F)."""
    return _apply_in_chunks(lambda *batch: apply_convolutions(network, *batch), windows, modality, rows)


def _apply_in_chunks(
    apply: Callable[[NDArray[Any], NDArray[np.float32]], NDArray[np.float32]],
    windows: Windows,
    modality: str,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    spec, narrow = windows.spec.modality(modality), windows.with_modalities([modality])
    starts = range(0, max(len(rows), 1), _CHUNK)
    return np.concatenate(
        [apply(*prepare_batch(narrow.take(rows[start : start + _CHUNK])[modality], spec)) for start in starts]
    )


def choose_features(
    inputs: NDArray[np.float32],
    targets: NDArray[np.float64],
    *,
    weights: NDArray[np.float64],
    most: int,
    validate: Callable[[NDArray[np.int64], Ridge], float],
) -> tuple[NDArray[np.int64], Ridge]:
    """Return the at most `most` features that validate best, of equals the fewest, and their regression.

    Inputs (N, F), targets (N, K), weights (N,); `validate` scores features and a regression.
    """
    penalties = sorted({fit_ridge(inputs, targets, weights).penalty, *_STRONGER_PENALTIES})
    steps = eliminations(inputs, targets, weights, penalties=penalties, most=most, fewest=_MIN_FEATURES)
    candidates = [(validate(rows, ridge), -len(rows), rows, ridge) for rows, ridge in steps]
    *_, rows, ridge = max(candidates, key=lambda candidate: candidate[:2])
    return rows, ridge


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """Linear scores: weight (F, K), bias (K,); `loss` of left-out windows, or NaN."""

    weight: Floats
    bias: Floats
    penalty: float
    loss: float = math.nan

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """(N, F) -> (N, K)."""
        return features.astype(np.float64) @ self.weight + self.bias


def fit_ridge(features: NDArray[np.floating], targets: NDArray[np.floating], weights: NDArray[np.floating]) -> Ridge:
    """Fit features (N, F) to targets (N, K) with the penalty of least leave-one-out error."""
    ridges = fit_ridges(features, targets, weights, penalties=PENALTIES)
    return min(ridges.values(), key=lambda ridge: ridge.loss)


def fit_ridges(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    penalties: tuple[float, ...],
) -> dict[float, Ridge]:
    """Fit features (N, F) to targets (N, K) with each penalty; weights (N,) > 0."""
    inputs, outputs, centre, middle, fraction = _problem(features, targets, weights)
    wide = inputs.shape[1] > len(inputs)
    values, vectors = np.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
    kept = values > max(float(values.max(initial=0.0)) * 1e-10, 1e-12)
    values, vectors = values[kept], vectors[:, kept]
    left = vectors if wide else inputs @ vectors / np.sqrt(values)  # (N, R)
    right = inputs.T @ left / np.sqrt(values) if wide else vectors  # (F, R)
    projected = left.T @ outputs  # (R, K)
    ridges = {}
    for penalty in penalties:
        weight = right @ ((np.sqrt(values) / (values + penalty))[:, None] * projected)
        shrink = values / (values + penalty)
        hat = fraction + np.square(left) @ shrink
        residuals = outputs - left @ (shrink[:, None] * projected)
        left_out = residuals / np.maximum(1.0 - hat, 1e-9)[:, None]
        loss = float(np.square(left_out).sum() / (weights.sum() * targets.shape[1]))
        bias = middle - centre @ weight
        ridges[penalty] = Ridge(weight=weight, bias=bias, penalty=penalty, loss=loss)
    return ridges


def eliminations(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    penalties: Sequence[float],
    most: int,
    fewest: int,
) -> Iterator[tuple[NDArray[np.int64], Ridge]]:
    """Yield ever fewer features (rows ascending) with the regression on them, from `most` to `fewest`, a penalty each.

    Sequential feature detachment (Uribarri et al., "Detach-ROCKET", 2024, arXiv 2309.14518, section 3).
    """
    whole, outputs, centre, middle, _ = _problem(features, targets, weights)
    product, crossed = whole.T @ whole if len(whole) > whole.shape[1] else None, whole.T @ outputs
    for penalty in penalties:
        rows = np.arange(features.shape[1])
        while True:
            if product is not None:
                weight = _solve(product[np.ix_(rows, rows)], crossed[rows], penalty)
            elif len(rows) <= len(inputs := whole[:, rows]):  # solved in the smaller of feature and window space
                weight = _solve(inputs.T @ inputs, crossed[rows], penalty)
            else:
                weight = np.asarray(inputs.T @ _solve(inputs @ inputs.T, outputs, penalty))
            if len(rows) <= most:
                yield rows, Ridge(weight=weight, bias=middle - centre[rows] @ weight, penalty=penalty)
            if len(rows) <= fewest:
                break
            left = max(fewest, int(len(rows) * (1 - _DROPPED)))
            left = max(most, left) if len(rows) > most else left
            strength = np.square(weight).sum(axis=1)
            rows = np.sort(rows[np.argsort(-strength, kind="stable")[:left]])


def _solve(square: Floats, outputs: Floats, penalty: float) -> Floats:
    """Solve (A + penalty I) x = b; changes the symmetric A."""
    from scipy.linalg import solve

    square[np.diag_indices_from(square)] += penalty
    return np.asarray(solve(square, outputs, assume_a="pos", overwrite_a=True, check_finite=False))


def _problem(
    features: NDArray[np.floating], targets: NDArray[np.floating], weights: NDArray[np.floating]
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Centred rows times root weights, (N, F) and (N, K), the subtracted means, and the fraction of each weight."""
    inputs, outputs, fraction = (np.asarray(part, dtype=np.float64) for part in (features, targets, weights))
    fraction = fraction / fraction.sum()
    centre, middle, root = fraction @ inputs, fraction @ outputs, np.sqrt(fraction * weights.sum())[:, None]
    return root * (inputs - centre), root * (outputs - middle), centre, middle, fraction


def rows_to_learn_from(windows: Windows, *, taught: bool, seed: int) -> NDArray[np.int64]:
    """Return at most `_MAX_ROWS` rows, ascending, labelled ones first."""
    order = np.random.default_rng(seed).permutation(len(windows))
    known = windows.labelled[order]
    rows = np.concatenate([order[known], order[~known]]) if taught else order[known]
    return np.sort(rows[:_MAX_ROWS]).astype(np.int64)


def teachers_answers(teachers: Sequence[TeacherFile], windows: Windows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the teachers' mean probabilities (N, K); numbers (N, 1) of a regression."""
    answers = []
    for teacher in teachers:
        own_windows = windows.with_modalities([spec.name for spec in teacher.checkpoint.modalities]).subset(rows)
        logits = logits_of(teacher.checkpoint.network(), own_windows, modality=None)
        answers.append(probabilities_of(logits, kind=windows.spec.task.kind))
    return np.asarray(np.mean(answers, axis=0))


def label_answers(task: TaskSpec, labels: Labels) -> NDArray[np.float64]:
    """(N,) or (N, K) known labels -> (N, K) answers: 1 and 0, or a regression's number."""
    if task.kind == "classification":
        return np.eye(len(task.labels))[labels.astype(np.int64)]
    return labels.reshape(len(labels), -1).astype(np.float64)


def mix_answers(windows: Windows, rows: NDArray[np.int64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return teachers' answers (N, K), averaged with the label if there is one."""
    known, mixed = windows.labelled[rows], answers.astype(np.float64)
    mixed[known] = (mixed[known] + label_answers(windows.spec.task, windows.labels[rows][known])) / 2
    return mixed


def hard_answers(answers: NDArray[np.float64], *, kind: TaskKind) -> Labels:
    """Return answers (N, K) as labels: (N,) classes or numbers, or (N, K) for several labels."""
    if kind == "classification":
        return np.asarray(answers.argmax(axis=1))
    return (answers > 0.5).astype(np.int64) if kind == "multi_label" else answers[:, 0]


def ridge_targets(windows: Windows, answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return targets (N, K) from -1 to 1, or a regression's in standard deviations."""
    if windows.spec.task.kind == "regression":
        mean, std = target_scale(windows)
        return (answers - mean) / std
    return 2.0 * answers - 1.0


def class_weights(kind: TaskKind, targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights (N,), mean 1, that balance classes; 1 for other tasks."""
    if kind != "classification":
        return np.ones(len(targets))
    probabilities = (targets + 1.0) / 2.0  # (N, K)
    weights = probabilities @ (1.0 / np.maximum(probabilities.mean(axis=0), 1e-3))
    return np.asarray(weights / weights.mean())
