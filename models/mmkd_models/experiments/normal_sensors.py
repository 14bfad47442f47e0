"""Sensors of normal running, without a fault: which look alike, which react, and all of them as one monitor.

A sensor is predicted from others by a ridge from their features to the leading components of its own; what is left of
validation windows, which no ridge saw, says how far it is redundant. A monitor adds up the logarithms of these errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_documents.judging import MonitorRow, NormalSensorRow, NormalSensorsDocument
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.novelty import alarm_rates
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.faults import faults_for
from mmkd_models.evaluation.suites.faults import sensors_of, with_fault
from mmkd_models.metrics.normal import threshold
from mmkd_models.metrics.scores import normal_scores
from mmkd_models.training.closed_form import Ridge, fit_ridge
from mmkd_models.training.normal import RATE, NormalModel, fit_normal_model

_COMPONENTS = 16  # of a sensor's features
_MOST = 400  # windows that a fault breaks
_LEAST = 1e-12

Floats = NDArray[np.float64]
Features = Mapping[str, Floats]


class _Predictors:
    """Ridges from the features of sensors to the whitened components of each other one."""

    def __init__(self, models: Mapping[str, NormalModel], train: Features) -> None:
        self.axes = {name: model.axes[:, :_COMPONENTS] for name, model in models.items()}
        self.std = {name: np.maximum((train[name] @ axes).std(axis=0), _LEAST) for name, axes in self.axes.items()}
        self.train = train

    def codes(self, name: str, features: Features) -> Floats:
        return np.asarray(features[name] @ self.axes[name] / self.std[name])

    def fit(self, name: str, others: Sequence[str]) -> Ridge:
        count = len(self.train[name])
        return fit_ridge(_join_features(self.train, others), self.codes(name, self.train), np.ones(count))

    def errors(self, name: str, others: Sequence[str], ridge: Ridge, features: Features) -> Floats:
        apart = self.codes(name, features) - ridge.scores(_join_features(features, others))
        return np.asarray(np.square(apart).mean(axis=1))

    def explained(self, name: str, others: Sequence[str], ridge: Ridge, features: Features) -> float:
        codes = self.codes(name, features)
        whole = float(np.square(codes - codes.mean(axis=0)).mean())
        return max(0.0, 1.0 - float(self.errors(name, others, ridge, features).mean()) / max(whole, _LEAST))


def _join_features(features: Features, names: Sequence[str]) -> Floats:
    return np.concatenate([features[name] for name in names], axis=1)


def judge_normal_sensors(dataset: Dataset, *, seed: int, on_part: Callable[[str], None]) -> NormalSensorsDocument:
    """Compare the sensors of a dataset of normal running."""
    names = [modality.name for modality in dataset.spec.modalities]
    if len(names) < 2:
        raise UsageError(
            f"{dataset.path}: expected two sensors or more, among which one is chosen, got {names[0]} alone; "
            "mmkd-evaluate judges a model of it"
        )
    train, valid, test = (dataset.split(name) for name in ("train", "valid", "test"))
    normal, held, judging = train.subset(train.labels == 0), valid.subset(valid.labels == 0), test.only_labelled()
    if not len(held) or len(normal) < 2:
        raise UsageError(
            f"{dataset.path}: expected normal windows of train and valid, got {len(normal)} and {len(held)}; "
            "move whole groups"
        )
    models, parts = dict[str, NormalModel](), {key: dict[str, Floats]() for key in ("train", "valid", "test")}
    for name in names:
        on_part(f"{name}: features")
        models[name] = fit_normal_model(normal.with_modalities([name]), name, seed=seed)
        for key, windows in (("train", normal), ("valid", held), ("test", judging)):
            parts[key][name] = models[name].inputs(windows.with_modalities([name]), name).astype(np.float64)
    predictors, rows = _Predictors(models, parts["train"]), list[NormalSensorRow]()
    logs = {key: np.zeros(len(parts[key][names[0]])) for key in ("valid", "test")}
    faulty = judging.labels > 0
    for name in names:
        on_part(f"{name}: prediction from the others, and synthetic faults")
        others = [other for other in names if other != name]
        ridge = predictors.fit(name, others)
        for key, total in logs.items():
            total += np.log(np.maximum(predictors.errors(name, others, ridge, parts[key]), _LEAST))
        alike = {
            other: predictors.explained(name, [other], predictors.fit(name, [other]), parts["valid"])
            for other in others
        }
        reactions = _reactions(held, normal, name, models[name], seed=seed)
        own = {key: models[name].parts(parts[key][name].astype(np.float32))[:, 0] for key in ("valid", "test")}
        rows.append(
            NormalSensorRow(
                sensor=name,
                explained=predictors.explained(name, others, ridge, parts["valid"]),
                alike=alike,
                synthetic=reactions,
                own=_figures(own["valid"], held, own["test"], judging, faulty),
            )
        )
    return NormalSensorsDocument(
        name=dataset.spec.name,
        sha256=dataset.sha256,
        groups=len(np.unique(held.groups)),
        normal=len(held),
        faults=int(faulty.sum()),
        rows=tuple(rows),
        monitor=_figures(logs["valid"], held, logs["test"], judging, faulty),
    )


def _reactions(held: Windows, train: Windows, name: str, model: NormalModel, *, seed: int) -> dict[str, float]:
    """AUROC of broken against the same intact windows, by synthetic fault at full severity."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(held))[:_MOST])
    intact = held.subset(rows).with_modalities([name])
    clean, sensors = model.parts(model.inputs(intact, name))[:, 0], sensors_of(train, [name])
    reactions = dict[str, float]()
    for fault in faults_for([held.spec.modality(name)]):
        broken = with_fault(intact, fault, 1.0, seed=seed, sensors=sensors)
        scores = model.parts(model.inputs(broken, name))[:, 0]
        if (scores > scores.min()).any():  # else nothing is left of the windows, which is missing and no score
            both = np.concatenate([clean, scores])
            reactions[fault] = normal_scores(np.repeat([False, True], len(clean)), both).auroc
    return reactions


def _figures(held: Floats, valid: Windows, scores: Floats, judging: Windows, faulty: NDArray[np.bool_]) -> MonitorRow:
    alarms = scores >= threshold(held, RATE)
    rates = alarm_rates(held, valid.groups, RATE)
    return MonitorRow(
        window_rate=float(alarms[~faulty].mean()) if (~faulty).any() else None,
        groups_above=float((rates > 2 * RATE).mean()),
        auroc=normal_scores(faulty, scores).auroc if faulty.any() and not faulty.all() else None,
        detection=float(alarms[faulty].mean()) if faulty.any() else None,
    )
