"""A student of normal running: how far a window's convolutional features are from the plane of normal windows.

The score is the residual of principal components (Jackson and Mudholkar, Technometrics 21, 1979) on MiniRocket
features, and with labelled faults also a classifier's score: a density finds faults of other kinds too, a classifier
those kinds better. Scores of normal windows come from models that have not seen their group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import Normal
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.novelty import alarm_rates, calibration_scores
from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.carried import carried_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import part_of_windows
from mmkd_models.data.normal_running import (
    BLOCKS,
    PARTS,
    apart_from,
    covered_s,
    has_judging_groups,
    normal_problem,
    time_blocks,
)
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import normal_scores
from mmkd_models.networks.config import MAX_POSITIONS, PRESET_POSITIONS, StudentConfig
from mmkd_models.networks.convolutions import CLIP, ConvolutionFeatures
from mmkd_models.networks.residual import LEAST
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form import Ridge, convolution_features, draw_features, fit_ridge
from mmkd_models.training.fitting import training_facts
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.loop import Fit
from mmkd_models.training.references import group_reference

RATE = 0.05
"""False alarms on normal running that a student promises, a fraction of the windows."""
FEATURES, COMPONENTS = 504, 64
MIN_FAULTS = 5
_MAX_ROWS = 16_384
_ROUNDING = 0.003  # in standard deviations of a feature

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NormalModel:
    """Drawn features, the leading components (F, K) of those of normal windows, and a classifier of known faults."""

    features: ConvolutionFeatures
    axes: Floats
    faults: Ridge | None = None

    def inputs(self, windows: Windows, modality: str) -> NDArray[np.float32]:
        """Return the standardised features (N, F)."""
        return convolution_features(self.features, windows, modality, np.arange(len(windows)))

    def parts(self, inputs: NDArray[np.float32]) -> Floats:
        """Return the logarithm of the squared distance from the plane, and the classifier's score or 0: (N, 2)."""
        z = inputs.astype(np.float64)
        apart = np.maximum(np.square(z).sum(axis=1) - np.square(z @ self.axes).sum(axis=1), LEAST)
        known = np.zeros(len(z)) if self.faults is None else self.faults.scores(z)[:, 0]
        return np.stack([np.log(apart), known], axis=1)


def fit_normal_model(
    normal: Windows, modality: str, *, seed: int, positions: int = MAX_POSITIONS, faults: Windows | None = None
) -> NormalModel:
    """Fit features and components to normal windows alone, and a classifier to tell `faults` from them."""
    features = draw_features(normal, modality, seed=seed, features=FEATURES, positions=positions)
    rows = np.sort(np.random.default_rng(seed).permutation(len(normal))[:_MAX_ROWS])
    drawn = convolution_features(features, normal, modality, rows).astype(np.float64)
    # Drawn on few windows: mean and spread of all are exact.
    mean, spread = drawn.mean(axis=0), features.feature_std.double().numpy()
    std = np.maximum(spread * drawn.std(axis=0), rounding_floor(features))
    features.feature_mean.copy_(torch.from_numpy(features.feature_mean.double().numpy() + mean * spread))
    features.feature_std.copy_(torch.from_numpy(std))
    z = (drawn - mean) * spread / std
    _, vectors = np.linalg.eigh(z.T @ z)
    model = NormalModel(features=features, axes=vectors[:, ::-1][:, : min(COMPONENTS, len(rows) // 2)])
    if faults is None:
        return model
    inputs = np.concatenate([z, model.inputs(faults, modality)])
    targets = np.repeat([-1.0, 1.0], [len(z), len(faults)])[:, None]
    weights = np.repeat([0.5 / len(z), 0.5 / len(faults)], [len(z), len(faults)]) * len(inputs)
    return replace(model, faults=fit_ridge(inputs, targets, weights))


def rounding_floor(features: ConvolutionFeatures) -> Floats:
    """Return the deviations (F,) below which a feature may be rounding, whatever the window.

    A distance weighs all features alike, and a kernel may sit on the level of a nearly constant signal. A rounded
    product differs by at most 2**-24 of its size, a kernel's output by that of its weights times the largest value.
    """
    sizes = torch.cat([group.get_buffer("weight").abs().sum((1, 2)) for group in features.groups])
    return np.asarray(sizes.double().numpy() * CLIP * 2.0**-24 / _ROUNDING)


def fit_normal_student(
    data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, *, faults: Windows | None = None
) -> StudentCheckpoint:
    """Fit a student to the normal training windows, and to known `faults`."""
    spec, seed = data.train.spec, run.train.seed
    if (sensor := spec.modality(modality)).parts:
        raise UsageError(
            f"joined sensor {sensor.title!r}: expected labelled windows, got normal running, of which a missing sensor "
            "would be a fault; train a student of each"
        )
    normal, valid = (part.subset(part.labels == 0).with_modalities([modality]) for part in (data.train, data.valid))
    if problem := normal_problem(normal):
        raise UsageError(f"dataset {spec.name!r}: {problem}")
    known = None if faults is None else faults.with_modalities([modality])
    fit = partial(
        fit_normal_model, modality=modality, seed=seed, positions=PRESET_POSITIONS.get(config.preset, MAX_POSITIONS)
    )
    model = fit(normal, faults=known)
    held_out = np.concatenate(
        [cross_fitted(normal, modality, fit, faults=known, seed=seed), model.parts(model.inputs(valid, modality))]
    )
    # Both parts have one spread on normal windows that they have not seen.
    fault_weight = held_out[:, 0].std() / max(float(held_out[:, 1].std()), LEAST) if known is not None else 0.0
    middle = float(np.median(held_out @ [1.0, fault_weight]))
    judged = data.valid.only_labelled().with_modalities([modality])
    validation = normal_scores(judged.labels > 0, model.parts(model.inputs(judged, modality)) @ [1.0, fault_weight])
    config = msgspec.structs.replace(
        config, members=("convolutions",), convolutions=model.features.config, components=model.axes.shape[1]
    )
    network = Student(spec.modality(modality), 1, config, kind="normal")
    network.convolutions = model.features
    assert network.residual is not None
    with torch.no_grad():
        network.residual.components.copy_(torch.from_numpy(np.ascontiguousarray(model.axes)))
        network.residual.scale.fill_(math.exp(-middle))
        network.head.weight.zero_()
        network.head.bias.zero_()
        if model.faults is not None:
            network.head.weight.copy_(torch.from_numpy(fault_weight * model.faults.weight.T))
            network.head.bias.copy_(torch.from_numpy(fault_weight * model.faults.bias))
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    result = Fit(state=state, scores=validation, best_step=0)
    scores = np.exp(held_out @ [1.0, fault_weight] - middle)
    facts = msgspec.structs.replace(
        training_facts(data, run, modality=modality, tau=0.0, result=result),
        group_reference=group_reference(normal, valid, modality),
        normal=normal_facts(scores, _judged_parts([normal, valid]), [normal, valid]),
    )
    return StudentCheckpoint(
        modality=spec.modality(modality),
        task=TaskSpec(kind="normal", labels=spec.task.labels[:1]),
        config=config,
        facts=facts,
        state=state,
        carried=carried_windows(valid, modality, seed=seed) if run.embed_windows else None,
    )


def cross_fitted(
    normal: Windows,
    modality: str,
    fit: Callable[..., NormalModel],
    *,
    faults: Windows | None = None,
    seed: int,
) -> Floats:
    """Return the parts (N, 2) of normal windows by models of other groups' windows, or of other times of one group."""
    if has_groups := has_judging_groups(normal):
        parts = part_of_windows(normal, parts=min(PARTS, normal.group_count), seed=seed)
    else:
        parts = time_blocks(normal, count=PARTS)
    scores = np.zeros((len(normal), 2))
    for part in np.unique(parts).tolist():
        own, others = normal.subset(parts == part), faults
        if faults is not None and faults.spec == normal.spec and has_groups:  # no model may know the held-out groups
            others = faults.subset(~np.isin(faults.groups, own.groups))
        rest = np.flatnonzero(parts != part) if has_groups else apart_from(normal, np.flatnonzero(parts == part))
        model = fit(normal.subset(rest), faults=others if others is not None and len(others) else None)
        scores[parts == part] = model.parts(model.inputs(own, modality))
    return scores


def known_faults(
    dataset: Dataset, normal: str, modality: ModalitySpec, *, among: NDArray[np.int64] | None = None
) -> Windows:
    """Return a dataset's windows of train and valid, or those of rows `among`, whose label is not `normal`."""
    spec = dataset.spec
    if spec.task.kind not in ("classification", "normal"):
        raise UsageError(
            f"--faults {dataset.path}: expected a dataset of classes or of normal running, got one of "
            f"{task_text(spec.task)}; import the faults as classes"
        )
    own = spec.modality(modality.name)
    if (own.shape, own.rate_hz, own.channels) != (modality.shape, modality.rate_hz, modality.channels):
        raise UsageError(
            f"--faults {dataset.path}: modality {modality.name!r}: expected windows {modality.shape} at "
            f"{modality.rate_hz:g} Hz of {', '.join(modality.channels)}, got {own.shape} at {own.rate_hz:g} Hz of "
            f"{', '.join(own.channels)}; import them by the same recipe"
        )
    everything = dataset.everything()
    usual = spec.task.labels.index(normal) if normal in spec.task.labels else -1
    may_teach = everything.splits < 2 if among is None else np.isin(everything.rows, among)
    faulty = everything.labelled & (everything.labels != usual) & may_teach
    if faulty.sum() < MIN_FAULTS:
        which = "train and valid" if among is None else "the training groups"
        raise UsageError(
            f"--faults {dataset.path}: expected {MIN_FAULTS} windows or more of {which} with a label other "
            f"than {normal!r}, got {int(faulty.sum())}; label more, or train without them"
        )
    return everything.subset(faulty)


def _judged_parts(parts: Sequence[Windows]) -> NDArray[np.generic]:
    """Return the group of each training and validation window, or the block of time without two training groups."""
    if has_judging_groups(parts[0]):
        return np.concatenate([part.groups for part in parts])
    counts = [max(1, round(BLOCKS * len(part) / sum(map(len, parts)))) for part in parts]
    blocks = [time_blocks(part, count=count) for part, count in zip(parts, counts, strict=True)]
    return np.concatenate([sum(counts[:number]) + block for number, block in enumerate(blocks)])


def normal_facts(scores: Floats, groups: NDArray[np.generic], parts: Sequence[Windows]) -> Normal:
    """Return held-out scores (N,) and what they show of rates, by window and by group.

    If blocks of time judge one another, the number of groups is 0.
    """
    count = len(np.unique(groups)) if has_judging_groups(parts[0]) else 0
    level = max(RATE, 1 / (count + 1)) if count else RATE
    rates = alarm_rates(scores, groups, level)
    return Normal(
        scores=calibration_scores(scores),
        windows=len(scores),
        groups=count,
        hours=sum(map(covered_s, parts)) / 3600,
        level=level,
        window_rate=float(np.average(rates, weights=np.unique(groups, return_counts=True)[1])),
        groups_above=float((rates > 2 * level).mean()),
    )
