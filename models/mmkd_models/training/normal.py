"""A student of normal running: how far a window's convolutional features are from the plane of normal windows.

The score is the residual of principal components (Jackson and Mudholkar, Technometrics 21, 1979) on MiniRocket
features. Scores of normal windows come from models that have not seen their group: cross-fitting over whole groups,
and validation windows, which no model is fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import MAX_NOVELTY_WINDOWS, Normal
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.carried import carried_windows
from mmkd_models.data.folds import part_of_windows
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import normal_scores
from mmkd_models.networks.config import MAX_POSITIONS, PRESET_POSITIONS, StudentConfig
from mmkd_models.networks.convolutions import ConvolutionFeatures
from mmkd_models.networks.residual import LEAST
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form import convolution_features, draw_features
from mmkd_models.training.fitting import training_facts
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.loop import Fit
from mmkd_models.training.references import group_reference

RATE = 0.05
"""False alarms on normal running that a student promises, a fraction of the windows."""
FEATURES, COMPONENTS = 504, 64
_PARTS = 5
_MIN_WINDOWS = 100
_MAX_ROWS = 16_384
_CONSTANT = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NormalModel:
    """Drawn features, and the leading components (F, K) of those of normal windows."""

    features: ConvolutionFeatures
    axes: Floats

    def inputs(self, windows: Windows, modality: str) -> NDArray[np.float32]:
        """Return the standardised features (N, F)."""
        return convolution_features(self.features, windows, modality, np.arange(len(windows)))

    def residuals(self, inputs: NDArray[np.float32]) -> Floats:
        """Return the squared distances (N,) of features (N, F) from the plane."""
        z = inputs.astype(np.float64)
        return np.asarray(np.maximum(np.square(z).sum(axis=1) - np.square(z @ self.axes).sum(axis=1), 0.0))


def fit_normal_model(normal: Windows, modality: str, *, seed: int, positions: int = MAX_POSITIONS) -> NormalModel:
    """Fit features and components to normal windows alone."""
    features = draw_features(normal, modality, seed=seed, features=FEATURES, positions=positions)
    rows = np.sort(np.random.default_rng(seed).permutation(len(normal))[:_MAX_ROWS])
    drawn = convolution_features(features, normal, modality, rows).astype(np.float64)
    # Drawn on few windows: mean and spread of all are exact.
    mean, std = drawn.mean(axis=0), drawn.std(axis=0)
    std = np.where(std > _CONSTANT, std, 1.0)
    spread = features.feature_std.double().numpy()
    features.feature_mean.copy_(torch.from_numpy(features.feature_mean.double().numpy() + mean * spread))
    features.feature_std.copy_(torch.from_numpy(spread * std))
    z = (drawn - mean) / std
    _, vectors = np.linalg.eigh(z.T @ z)
    return NormalModel(features=features, axes=vectors[:, ::-1][:, : min(COMPONENTS, len(rows) // 2)])


def fit_normal_student(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Fit a student to the normal training windows. Raise UsageError if they are few."""
    spec, seed = data.train.spec, run.train.seed
    normal, valid = (part.subset(part.labels == 0).with_modalities([modality]) for part in (data.train, data.valid))
    if len(normal) < _MIN_WINDOWS:
        raise UsageError(
            f"dataset {spec.name!r}: expected {_MIN_WINDOWS} normal windows or more to train on, got {len(normal)}; "
            "record longer, or cut shorter windows"
        )
    positions = PRESET_POSITIONS.get(config.preset, MAX_POSITIONS)
    model = fit_normal_model(normal, modality, seed=seed, positions=positions)
    held_out = np.concatenate(
        [cross_fitted(normal, modality, seed=seed, positions=positions), model.residuals(model.inputs(valid, modality))]
    )
    unit = max(float(np.median(held_out)), 1e-12)
    judged = data.valid.only_labelled().with_modalities([modality])
    validation = normal_scores(judged.labels > 0, model.residuals(model.inputs(judged, modality)))
    task = TaskSpec(kind="normal", labels=spec.task.labels[:1])
    config = msgspec.structs.replace(
        config, members=("convolutions",), convolutions=model.features.config, components=model.axes.shape[1]
    )
    network = Student(spec.modality(modality), 1, config, kind="normal")
    network.convolutions = model.features
    assert network.residual is not None
    with torch.no_grad():
        network.residual.components.copy_(torch.from_numpy(np.ascontiguousarray(model.axes)))
        network.residual.scale.fill_(1 / unit)
        network.head.weight.zero_()
        network.head.bias.zero_()
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    result = Fit(state=state, scores=validation, best_step=0)
    groups = np.concatenate([normal.groups, valid.groups])
    facts = msgspec.structs.replace(
        training_facts(data, run, modality=modality, tau=0.0, result=result),
        group_reference=group_reference(normal, valid, modality) or msgspec.UNSET,
        normal=normal_facts(np.maximum(held_out / unit, LEAST), groups, [normal, valid]),
    )
    return StudentCheckpoint(
        modality=spec.modality(modality),
        task=task,
        config=config,
        facts=facts,
        state=state,
        carried=carried_windows(valid, modality, seed=seed) if run.embed_windows else None,
    )


def cross_fitted(normal: Windows, modality: str, *, seed: int, positions: int = MAX_POSITIONS) -> Floats:
    """Return the residuals (N,) of normal windows by models of other groups' windows."""
    count = len(np.unique(normal.groups))
    if count < 2:
        raise UsageError(
            f"dataset {normal.spec.name!r}: expected normal windows of two groups or more, so that another judges "
            f"the rate, got {count}; record another machine or day"
        )
    parts, scores = part_of_windows(normal, parts=min(_PARTS, count), seed=seed), np.zeros(len(normal))
    for part in np.unique(parts).tolist():
        model = fit_normal_model(normal.subset(parts != part), modality, seed=seed, positions=positions)
        scores[parts == part] = model.residuals(model.inputs(normal.subset(parts == part), modality))
    return scores


def threshold(scores: Floats, rate: float) -> float:
    """Return the score from which a p-value is at most `rate`; infinite if there are too few."""
    above = int(np.floor(rate * (len(scores) + 1))) - 1  # p = (1 + scores at or above) / (N + 1)
    return float("inf") if above < 0 else float(np.nextafter(np.sort(scores)[len(scores) - above - 1], np.inf))


def alarm_rates(scores: Floats, groups: NDArray[np.generic], rate: float) -> NDArray[np.float64]:
    """Return each group's fraction (G,) of windows above the threshold of the other groups."""
    rates = []
    for group in np.unique(groups):
        own = groups == group
        rates.append(float((scores[own] >= threshold(scores[~own], rate)).mean()))
    return np.array(rates)


def normal_facts(scores: Floats, groups: NDArray[np.generic], parts: Sequence[Windows]) -> Normal:
    """Return held-out scores (N,) and what they show of rates, by window and by group."""
    count = len(np.unique(groups))
    level = max(RATE, 1 / (count + 1))
    rates = alarm_rates(scores, groups, level)
    places = np.linspace(0, len(scores) - 1, min(len(scores), MAX_NOVELTY_WINDOWS)).round().astype(np.int64)
    return Normal(
        scores=tuple(np.sort(scores)[places].tolist()),
        windows=len(scores),
        groups=count,
        hours=sum(map(covered_s, parts)) / 3600,
        level=level,
        window_rate=float(np.average(rates, weights=np.unique(groups, return_counts=True)[1])),
        groups_above=float((rates > 2 * level).mean()),
    )


def covered_s(windows: Windows) -> float:
    """Return the seconds that windows cover; overlaps count once if their times are known."""
    duration_s = windows.spec.modalities[0].duration_s
    times = windows.times if windows.times is not None else windows.starts
    if times is None:
        return len(windows) * duration_s
    owners = windows.groups if windows.episodes is None else windows.episodes
    each = [np.sort(times[owners == owner]) for owner in np.unique(owners)]
    return float(sum(np.minimum(np.diff(one), duration_s).sum() + duration_s for one in each))
