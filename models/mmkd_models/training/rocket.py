"""A student of convolutional features: drawn, fitted by ridge regression, pruned, calibrated."""

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
from mmkd_models.metrics.scores import check_metric, scores_from_logits
from mmkd_models.networks.config import MAX_POSITIONS, StudentConfig, max_rocket_features, max_rocket_positions
from mmkd_models.networks.rocket import FEATURES, RocketFeatures, apply_rocket, fit_rocket, prune_rocket
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile
from mmkd_models.training.fitting import finish_student, set_target_scale
from mmkd_models.training.inputs import TrainingData, TrainingRun, check_labels
from mmkd_models.training.loop import Fit
from mmkd_models.training.predict import scores_of
from mmkd_models.training.ridge import (
    Ridge,
    class_weights,
    eliminations,
    fit_ridge,
    rows_to_learn_from,
    teachers_answers,
    training_targets,
)
from mmkd_models.training.trainings import check_teachers

logger = logging.getLogger(__name__)

_MIN_FEATURES = 84

_STRONGER_PENALTIES = (1e2, 1e3)
"""Tried with the penalty that leaving windows out finds for all features, too weak for a few selected ones."""

_DRAWN_FROM = 512  # windows for biases and spreads
_CHUNK = 1024


def fit_rocket_student(
    data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, *, teachers: Sequence[TeacherFile] = ()
) -> StudentCheckpoint:
    """Fit a student of convolutional features, to teachers on all windows, or to labels only.

    Raises UsageError for short windows, a class without label, or a teacher that does not fit.
    """
    spec, train, metric = data.train.spec, data.train, run.train.metric
    task = spec.task
    check_metric(metric, task.kind)
    if teachers:
        check_teachers(teachers, train)
    else:
        check_labels(data)
    rows = rows_to_learn_from(train, taught=bool(teachers), seed=run.train.seed)
    targets = training_targets(train, rows, teachers_answers(teachers, train, rows) if teachers else None)
    features = draw_features(train, modality, seed=run.train.seed, positions=max_rocket_positions(config.preset))
    inputs = rocket_features(features, train, modality, rows)
    valid = data.valid.with_modalities([modality])
    known = valid.only_labelled()
    valid_inputs = rocket_features(features, known, modality, np.arange(len(known)))

    def validate(rows: NDArray[np.int64], ridge: Ridge) -> float:
        scores = ridge.scores(valid_inputs[:, rows])
        if task.kind == "regression":
            mean, std = target_scale(train)
            scores = scores * std + mean
        return scores_from_logits(known.labels, scores, task).metric(metric)

    weights = np.ones(len(targets)) if metric == "accuracy" else class_weights(task.kind, targets)
    kept, ridge = choose_features(
        inputs, targets, weights=weights, most=max_rocket_features(config.preset), validate=validate
    )
    temperature = fitted_temperature(ridge.scores(valid_inputs[:, kept]), known.labels, kind=task.kind)
    logger.info("rocket: %d of %d features, penalty %g", len(kept), inputs.shape[1], ridge.penalty)
    features = prune_rocket(features, spec.modality(modality), kept)
    config = msgspec.structs.replace(config, kind="rocket", rocket=features.config)
    network = Student(spec.modality(modality), len(task.labels), config, kind=task.kind)
    network.rocket = features
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(ridge.weight.T / temperature))
        network.head.bias.copy_(torch.from_numpy(ridge.bias / temperature))
    set_target_scale(network, train)
    state = {name: value.detach().clone() for name, value in network.eval().state_dict().items()}
    result = Fit(state=state, scores=scores_of(network, valid, modality=modality), best_step=0)
    return finish_student(data, modality, config, run, network=network, result=result, teachers=teachers)


def draw_features(
    windows: Windows, modality: str, *, seed: int, features: int = FEATURES, positions: int = MAX_POSITIONS
) -> RocketFeatures:
    """Draw features from at most 512 training windows; arguments and errors as `fit_rocket`."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:_DRAWN_FROM])
    spec, narrow = windows.spec.modality(modality), windows.with_modalities([modality])
    values, present = prepare_batch(narrow.take(rows)[modality], spec)
    scale = channel_statistics(narrow, modality)
    return fit_rocket(spec, values, present, scale=scale, seed=seed, features=features, positions=positions)


def rocket_features(
    network: RocketFeatures, windows: Windows, modality: str, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the features (N, F), computed in chunks."""
    spec, narrow = windows.spec.modality(modality), windows.with_modalities([modality])
    parts = [np.zeros((0, network.config.features), dtype=np.float32)]
    for start in range(0, len(rows), _CHUNK):
        parts.append(apply_rocket(network, *prepare_batch(narrow.take(rows[start : start + _CHUNK])[modality], spec)))
    return np.concatenate(parts)


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
    candidates = []
    for penalty in sorted({fit_ridge(inputs, targets, weights).penalty, *_STRONGER_PENALTIES}):
        steps = eliminations(inputs, targets, weights, penalty=penalty, most=most, fewest=_MIN_FEATURES)
        candidates += [(validate(rows, ridge), -len(rows), rows, ridge) for rows, ridge in steps]
    *_, rows, ridge = max(candidates, key=lambda candidate: candidate[:2])
    return rows, ridge
