"""A student of convolutional features: drawn, fitted by ridge regression, pruned, calibrated; seconds, no steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.data.batches import channel_statistics
from mmkd_models.data.windows import Windows
from mmkd_models.losses.term import target_scale
from mmkd_models.metrics.likelihood import fitted_temperature
from mmkd_models.metrics.scores import AnyMetric, check_metric, scores_from_logits
from mmkd_models.networks.config import MOST_POSITIONS, StudentConfig, rocket_features_of, rocket_positions_of
from mmkd_models.networks.rocket import FEATURES, RocketFeatures, features_of, fit_rocket, pruned
from mmkd_models.networks.student import RocketStudent
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile
from mmkd_models.training.choosing import adjusted
from mmkd_models.training.fitting import facts_of, student_checkpoint
from mmkd_models.training.inputs import TrainingData, TrainingRun, check_labels
from mmkd_models.training.predict import scores_of
from mmkd_models.training.ridge import (
    Ridge,
    class_weights,
    eliminations,
    fit_ridge,
    rows_to_learn_from,
    targets_of,
    teachers_answers,
)
from mmkd_models.training.trainings import check_teachers

logger = logging.getLogger(__name__)

FEWEST_FEATURES = 84

STRONGER_PENALTIES = (1e2, 1e3)
"""Tried beside the penalty that leaving windows out finds for all features, which is too weak for a few selected ones.
Tried beside the penalty that leaving windows out finds for all features, which is too weak for a few selected ones."""

_DRAWN_FROM = 512  # windows that biases and the features' spread come from
_CHUNK = 1024


def fit_rocket_student(
    data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, *, teachers: Sequence[TeacherFile] = ()
) -> StudentCheckpoint:
    """Compute a student of convolutional features, taught by teachers on all windows, or by labels only.

    Args:
        data: windows of the student's modality and the teachers'.
        config: of the kind rocket; its preset bounds the number of features.
        run: its seed draws the features, its metric chooses.

    Raises UsageError if windows are too short, a class has no label, or a teacher does not fit the windows.
    """
    task = data.train.spec.task
    check_metric(run.train.metric, task.kind)
    if teachers:
        check_teachers(teachers, data.train)
    else:
        check_labels(data)
    rows = rows_to_learn_from(data.train, taught=bool(teachers), seed=run.train.seed)
    answers = teachers_answers(teachers, data.train, rows) if teachers else None
    targets = targets_of(data.train, rows, answers)
    features = drawn_features(data.train, modality, seed=run.train.seed, positions=rocket_positions_of(config.preset))
    inputs = features_of_rows(features, data.train, modality, rows)
    valid = data.valid.subset(np.flatnonzero(data.valid.labelled))
    valid_inputs = features_of_rows(features, valid, modality, np.arange(len(valid)))
    kept, ridge = chosen_features(
        inputs,
        targets,
        weights=np.ones(len(targets)) if run.train.metric == "accuracy" else class_weights(task.kind, targets),
        most=rocket_features_of(config.preset),
        judge=lambda rows, ridge: _score(data, ridge.scores(valid_inputs[:, rows]), metric=run.train.metric),
    )
    features = pruned(features, data.train.spec.modality(modality), kept)
    temperature = fitted_temperature(ridge.scores(valid_inputs[:, kept]), valid.labels, kind=task.kind)
    logger.info(
        "rocket: %d of %d features, penalty %g, temperature %.3g",
        len(kept),
        inputs.shape[1],
        ridge.penalty,
        temperature,
    )
    config = msgspec.structs.replace(config, kind="rocket", rocket=features.config)
    network = _network(data, modality, config, features, ridge, temperature=temperature)
    metric, valid = run.train.metric, data.valid.with_modalities([modality])
    state, tau = adjusted(network, network.state_dict(), data.train.labels, valid, metric=metric, modality=modality)
    network.load_state_dict(state)
    score = scores_of(network, valid, modality=modality).metric(metric)
    facts = facts_of(data, run, modality=modality, score=score, tau=tau, teachers=teachers)
    state = {name: value.detach().clone() for name, value in state.items()}
    return student_checkpoint(data, modality, config, run, state=state, facts=facts)


def drawn_features(
    windows: Windows, modality: str, *, seed: int, features: int = FEATURES, positions: int = MOST_POSITIONS
) -> RocketFeatures:
    """Draw the features of a modality from at most 512 training windows; arguments and errors as `fit_rocket`."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:_DRAWN_FROM])
    spec = windows.spec.modality(modality)
    one = windows.with_modalities([modality])
    values, present = prepare_batch(one.take(rows)[modality], spec)
    scale = channel_statistics(one, modality)
    return fit_rocket(spec, values, present, scale=scale, seed=seed, features=features, positions=positions)


def features_of_rows(
    network: RocketFeatures, windows: Windows, modality: str, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the features (N, F) of these windows, computed in chunks."""
    spec, one = windows.spec.modality(modality), windows.with_modalities([modality])
    parts = [np.zeros((0, network.config.features), dtype=np.float32)]
    for start in range(0, len(rows), _CHUNK):
        parts.append(features_of(network, *prepare_batch(one.take(rows[start : start + _CHUNK])[modality], spec)))
    return np.concatenate(parts)


def chosen_features(
    inputs: NDArray[np.float32],
    targets: NDArray[np.float64],
    *,
    weights: NDArray[np.float64],
    most: int,
    judge: Callable[[NDArray[np.int64], Ridge], float],
) -> tuple[NDArray[np.int64], Ridge]:
    """Return the features that validate best, of equals the fewest, and the regression on them.

    Args:
        inputs: (N, F) features of windows.
        targets: (N, K).
        weights: (N,) of the windows.
        most: number of features.
        judge: validation score of some of the features and the regression on them.
    """
    found = []
    for penalty in sorted({fit_ridge(inputs, targets, weights).penalty, *STRONGER_PENALTIES}):
        tried = eliminations(inputs, targets, weights, penalty=penalty, most=most, fewest=FEWEST_FEATURES)
        found += [(judge(rows, ridge), -len(rows), rows, ridge) for rows, ridge in tried]
    *_, chosen, ridge = max(found, key=lambda one: one[:2])
    return chosen, ridge


def _score(data: TrainingData, scores: NDArray[np.float64], *, metric: AnyMetric) -> float:
    """Return the metric of scores for the labelled windows of validation."""
    task, labels = data.valid.spec.task, data.valid.labels[data.valid.labelled]
    if task.kind == "regression":
        mean, std = target_scale(data.train)
        scores = scores * std + mean
    return scores_from_logits(labels, scores, task).metric(metric)


def _network(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    features: RocketFeatures,
    ridge: Ridge,
    *,
    temperature: float,
) -> RocketStudent:
    spec = data.train.spec
    network = RocketStudent(spec.modality(modality), len(spec.task.labels), config, kind=spec.task.kind)
    network.rocket.load_state_dict(features.state_dict())
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(ridge.weight.T / temperature))
        network.head.bias.copy_(torch.from_numpy(ridge.bias / temperature))
    if spec.task.kind == "regression":
        for buffer, value in zip((network.answer.mean, network.answer.std), target_scale(data.train), strict=True):
            buffer.fill_(value)
    return network.eval()
