"""A student of convolutional features: drawn, fitted by ridge regression, pruned, calibrated; seconds, no steps.

Owns how such a student is put together. Validation chooses how many features stay and how sharp its probabilities are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.carried import carried_windows
from mmkd_models.data.batches import channel_statistics
from mmkd_models.data.windows import Windows
from mmkd_models.losses.goal import target_scale
from mmkd_models.metrics.likelihood import fitted_temperature
from mmkd_models.metrics.scores import AnyMetric, check_metric, scores_from_logits
from mmkd_models.networks.config import MOST_POSITIONS, StudentConfig, rocket_features_of, rocket_positions_of
from mmkd_models.networks.rocket import FEATURES, RocketFeatures, features_of, fit_rocket, pruned
from mmkd_models.networks.student import RocketStudent
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.ridge import Ridge, eliminations, fit_ridge
from mmkd_models.training.closed_form.targets import (
    class_weights,
    rows_to_learn_from,
    targets_of,
    teachers_answers,
)
from mmkd_models.training.drift_reference import group_reference
from mmkd_models.training.inputs import TrainingData, TrainingRun, check_labels
from mmkd_models.training.judging.prior import adjusted
from mmkd_models.training.predict import scores_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings.distillation import check_teachers
from mmkd_models.training.trainings.provenance import planned_facts, with_novelty
from mmkd_models.training_hashes import training_hashes

logger = logging.getLogger(__name__)

FEWEST_FEATURES = 84

STRONGER_PENALTIES = (1e2, 1e3)
"""Tried beside the one that leaving windows out finds. That one is of all the features, which outnumber the windows;
of a few chosen ones it is too weak, all the more where windows overlap: watch_exercises, a tenth labelled,
accelerometer, 314 features, balanced accuracy on validation 80.5, 82.5 and 83.1 (fold 0), 75.1, 77.0 and 79.9 (1)."""

_DRAWN_FROM = 512  # windows that biases and the features' spread come from
_CHUNK = 1024


def fit_rocket_student(
    data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, *, teachers: Sequence[TaughtBy] = ()
) -> StudentCheckpoint:
    """Computes a student of convolutional features: taught by teachers on all windows, or by labels alone.

    Args:
        data: windows of the student's modality and the teachers'.
        config: of the kind rocket; its preset bounds how many features stay.
        run: its seed draws the features, its metric chooses.

    Raises UsageError where windows are too short, a class has no label, or a teacher does not fit the windows.
    """
    task = data.train.spec.task
    check_metric(run.train.metric, task.kind)
    if teachers:
        check_teachers(teachers, data.train)
    else:
        check_labels(data)
    rows = rows_to_learn_from(data.train, taught=bool(teachers), seed=run.train.seed)
    answers = teachers_answers(teachers, data.train, rows, dataset_sha256=data.sha256) if teachers else None
    targets = targets_of(data.train, rows, answers)
    features = drawn_features(data.train, modality, seed=run.train.seed, positions=rocket_positions_of(config.preset))
    inputs = features_of_rows(features, data.train, modality, rows)
    valid = data.valid.subset(np.flatnonzero(data.valid.labelled))
    seen = features_of_rows(features, valid, modality, np.arange(len(valid)))
    kept, ridge = chosen_features(
        inputs,
        targets,
        weights=np.ones(len(targets)) if run.train.metric == "accuracy" else class_weights(task.kind, targets),
        most=rocket_features_of(config.preset),
        judge=lambda rows, ridge: _judged(data, ridge.scores(seen[:, rows]), metric=run.train.metric),
    )
    features = pruned(features, data.train.spec.modality(modality), kept)
    temperature = fitted_temperature(ridge.scores(seen[:, kept]), valid.labels, kind=task.kind)
    logger.info(
        "rocket: %d of %d features, penalty %g, temperature %.3g",
        len(kept),
        inputs.shape[1],
        ridge.penalty,
        temperature,
    )
    config = msgspec.structs.replace(config, kind="rocket", rocket=features.config)
    network = _network(data, modality, config, features, ridge, temperature=temperature)
    return _checkpoint(data, modality, config, run, network, teachers)


def drawn_features(
    windows: Windows, modality: str, *, seed: int, features: int = FEATURES, positions: int = MOST_POSITIONS
) -> RocketFeatures:
    """Draws the features of a modality from training windows, labelled or not; arguments and errors as `fit_rocket`.

    At most 512 windows are in memory.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:_DRAWN_FROM])
    spec = windows.spec.modality(modality)
    one = windows.with_modalities([modality])
    values, present = prepare_batch(one.take(rows)[modality], spec)
    scale = channel_statistics(one, modality)
    return fit_rocket(spec, values, present, scale=scale, seed=seed, features=features, positions=positions)


def features_of_rows(
    network: RocketFeatures, windows: Windows, modality: str, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Gives the features (N, F) of these windows, of which a thousand at a time are in memory."""
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
    """Gives the features that stay, and the regression on them: what validates best, of equals the fewest features.

    Args:
        inputs: (N, F) features of windows.
        targets: (N, K) what the regression answers.
        weights: (N,) of the windows.
        most: how many features stay at most.
        judge: gives what validation says of some of the features and the regression on them; more is better.
    """
    found = []
    for penalty in sorted({fit_ridge(inputs, targets, weights).penalty, *STRONGER_PENALTIES}):
        tried = eliminations(inputs, targets, weights, penalty=penalty, most=most, fewest=FEWEST_FEATURES)
        found += [(judge(rows, ridge), -len(rows), rows, ridge) for rows, ridge in tried]
    *_, chosen, ridge = max(found, key=lambda one: one[:2])
    return chosen, ridge


def _judged(data: TrainingData, scores: NDArray[np.float64], *, metric: AnyMetric) -> float:
    """The metric of scores for the labelled windows of validation."""
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


def _checkpoint(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    network: RocketStudent,
    teachers: Sequence[TaughtBy],
) -> StudentCheckpoint:
    valid = data.valid.with_modalities([modality])
    state, tau = adjusted(
        network, network.state_dict(), data.train.labels, valid, metric=run.train.metric, modality=modality
    )
    network.load_state_dict(state)
    scores = scores_of(network, valid, modality=modality)
    reference = group_reference(data.train, data.valid, modality)
    facts = planned_facts(data, run.train, run.augment, teachers=teachers)
    checkpoint = StudentCheckpoint(
        modality=data.train.spec.modality(modality),
        task=data.train.spec.task,
        config=config,
        facts=msgspec.structs.replace(
            facts,
            score=scores.metric(run.train.metric),
            prior_tau=tau or msgspec.UNSET,
            group_reference=reference or msgspec.UNSET,
            training_hashes=training_hashes(data.train, modality, key=data.sha256),
        ),
        state={name: value.detach().clone() for name, value in state.items()},
        carried=carried_windows(data.valid, modality, seed=run.train.seed) if run.embed_windows else None,
    )
    return with_novelty(checkpoint, [data.train], [data.valid])
