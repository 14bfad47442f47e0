"""Ridge regression on features: targets, penalty by leave-one-out, and elimination.

Leave-one-out errors are (y - y^) / (1 - h), h the diagonal of the hat matrix (Hastie, Tibshirani, Friedman, 2nd
edition, equation 7.64).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows
from mmkd_models.losses.term import target_scale
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.training.checkpoint import TeacherFile
from mmkd_models.training.predict import logits_of

Floats = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in np.arange(-1.0, 6.01, 0.5))
"""Of features in standard deviations."""

_DROPPED = 0.1
"""Fraction of the features that one step of the elimination drops."""


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


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Centred rows times root weights, (N, F) and (N, K), and the subtracted means."""

    inputs: Floats
    targets: Floats
    centre: Floats
    middle: Floats
    fraction: Floats


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
    problem = _problem(features, targets, weights)
    inputs = problem.inputs
    wide = inputs.shape[1] > len(inputs)
    values, vectors = np.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
    kept = values > max(float(values.max(initial=0.0)) * 1e-10, 1e-12)
    values, vectors = values[kept], vectors[:, kept]
    left = vectors if wide else inputs @ vectors / np.sqrt(values)  # (N, R)
    right = inputs.T @ left / np.sqrt(values) if wide else vectors  # (F, R)
    projected = left.T @ problem.targets  # (R, K)
    ridges = {}
    for penalty in penalties:
        weight = right @ ((np.sqrt(values) / (values + penalty))[:, None] * projected)
        shrink = values / (values + penalty)
        hat = problem.fraction + np.square(left) @ shrink
        residuals = problem.targets - left @ (shrink[:, None] * projected)
        left_out = residuals / np.maximum(1.0 - hat, 1e-9)[:, None]
        loss = float(np.square(left_out).sum() / (weights.sum() * targets.shape[1]))
        bias = problem.middle - problem.centre @ weight
        ridges[penalty] = Ridge(weight=weight, bias=bias, penalty=penalty, loss=loss)
    return ridges


def eliminations(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    penalty: float,
    most: int,
    fewest: int,
) -> Iterator[tuple[NDArray[np.int64], Ridge]]:
    """Yield ever fewer features (rows ascending) with the regression on them, from `most` to `fewest`.

    Sequential feature detachment (Uribarri et al., "Detach-ROCKET", 2024, arXiv 2309.14518, section 3).
    """
    problem = _problem(features, targets, weights)
    rows = np.arange(features.shape[1])
    tall = len(features) > len(rows)
    product = problem.inputs.T @ problem.inputs if tall else np.zeros((0, 0))
    while True:
        weight = _solved(problem, product, rows, penalty=penalty)
        if len(rows) <= most:
            bias = problem.middle - problem.centre[rows] @ weight
            yield rows, Ridge(weight=weight, bias=bias, penalty=penalty)
        if len(rows) <= fewest:
            return
        left = max(fewest, int(len(rows) * (1 - _DROPPED)))
        left = max(most, left) if len(rows) > most else left
        strength = np.square(weight).sum(axis=1)
        rows = np.sort(rows[np.argsort(-strength, kind="stable")[:left]])


def _problem(features: NDArray[np.floating], targets: NDArray[np.floating], weights: NDArray[np.floating]) -> _Problem:
    inputs, outputs, fraction = (np.asarray(part, dtype=np.float64) for part in (features, targets, weights))
    fraction = fraction / fraction.sum()
    centre, middle, root = fraction @ inputs, fraction @ outputs, np.sqrt(fraction * weights.sum())[:, None]
    inputs, outputs = root * (inputs - centre), root * (outputs - middle)
    return _Problem(inputs=inputs, targets=outputs, centre=centre, middle=middle, fraction=fraction)


def _solved(problem: _Problem, product: Floats, rows: NDArray[np.int64], *, penalty: float) -> Floats:
    """Weights (F of `rows`, K), solved in the smaller of window and feature space."""
    inputs = problem.inputs[:, rows]
    if len(rows) > len(inputs):
        dual = np.linalg.solve(inputs @ inputs.T + penalty * np.eye(len(inputs)), problem.targets)
        return np.asarray(inputs.T @ dual)
    primal = product[np.ix_(rows, rows)] if len(product) else inputs.T @ inputs
    return np.linalg.solve(primal + penalty * np.eye(len(rows)), inputs.T @ problem.targets)


_MAX_ROWS = 16_384
"""Windows of one regression: their features take 130 MB in float32."""


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
        seen = windows.with_modalities([spec.name for spec in teacher.checkpoint.modalities]).subset(rows)
        logits = logits_of(teacher.checkpoint.network(), seen, modality=None)
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


def training_targets(
    windows: Windows, rows: NDArray[np.int64], answers: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return targets (N, K) from -1 to 1, or a regression's in standard deviations."""
    task = windows.spec.task
    targets = label_answers(task, windows.labels[rows]) if answers is None else mix_answers(windows, rows, answers)
    if task.kind == "regression":
        mean, std = target_scale(windows)
        return (targets - mean) / std
    return 2.0 * targets - 1.0


def class_weights(kind: TaskKind, targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights (N,), mean 1, that balance classes; 1 for other tasks."""
    if kind != "classification":
        return np.ones(len(targets))
    probabilities = (targets + 1.0) / 2.0  # (N, K)
    weights = probabilities @ (1.0 / np.maximum(probabilities.mean(axis=0), 1e-3))
    return np.asarray(weights / weights.mean())
