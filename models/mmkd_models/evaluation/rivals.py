"""Classical rivals on one sensor, by aeon (BSD-3-Clause): extra-trees, MiniRocket, an average, a distilled one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_documents.figures import MODEL_NAMES
from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.metrics.likelihood import fitted_temperature, logits_of_probabilities, probabilities_of
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.training.choosing import choose_tau, log_prior
from mmkd_models.training.closed_form import mix_answers
from mmkd_models.training.committee import grow_member
from mmkd_models.training.predict import answers_to, series_values

RivalName = Literal["extra_trees", "mini_rocket", "rocket_and_trees", "distilled_rocket"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)

Answers = NDArray[np.float64]
"""(N, K): logits of classes or labels, or numbers (K = 1)."""

Answerer = Callable[[Windows], Answers]
Features = NDArray[Any]

_PENALTIES = np.logspace(-3, 3, 10)  # as in aeon's classifiers; leave-one-out decides


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Rivals of one sensor on one fold, each fitted once."""

    train: Windows
    parts: tuple[Windows, ...]  # validation windows, then judging windows
    modality: str
    seed: int
    metric: AnyMetric = "balanced_accuracy"
    teach: Answerer | None = None  # a teacher's probabilities (N, K)
    _fitted: dict[RivalName, Answerer | str] = field(default_factory=dict)

    def judge(self, rival: RivalName) -> tuple[TestedNetwork, ...] | str:
        """Judge a rival on each part, or return why that is impossible."""
        answerer = self.answerer(rival)
        if isinstance(answerer, str):
            return answerer
        return tuple(outcome_on(part, answerer(part)) for part in map(Windows.only_labelled, self.parts))

    def answerer(self, rival: RivalName) -> Answerer | str:
        """Return the predictor, or why there is none."""
        if rival not in self._fitted:
            self._fitted[rival] = self._fit(rival)
        return self._fitted[rival]

    def _fit(self, rival: RivalName) -> Answerer | str:
        try:
            raw = self._raw(rival)
        except ImportError:
            return "aeon is not installed; run: pip install 'mmkd-edge[rivals]'"
        except ValueError as error:  # aeon refuses windows that are too short for its kernels
            return f"{MODEL_NAMES[rival]} refused these windows: {error}"
        if isinstance(raw, str):
            return raw
        valid = self.parts[0].only_labelled()
        calibrate = calibration(raw(valid), train=self.train.only_labelled(), valid=valid, metric=self.metric)
        return lambda windows: calibrate(raw(windows))

    def _raw(self, rival: RivalName) -> Answerer | str:
        known, task, kind = self.train.only_labelled(), self.train.spec.task, self.train.spec.task.kind
        if rival == "extra_trees":
            names = (self.modality,)
            trees = grow_member(known.with_modalities(names), "trees", seed=self.seed)
            return lambda windows: answers_to(trees, windows.with_modalities(names)).numpy().astype(np.float64)
        if rival == "rocket_and_trees":
            rocket, forest = self.answerer("mini_rocket"), self.answerer("extra_trees")
            if isinstance(rocket, str) or isinstance(forest, str):
                return rocket if isinstance(rocket, str) else str(forest)
            return lambda windows: averaged(rocket(windows), forest(windows), kind=kind)
        if rival == "distilled_rocket" and self.teach is None:
            return "there is no teacher here that could teach it"
        with rocket_threads():
            series = series_of(self.train if rival == "distilled_rocket" else known, self.modality)
            from aeon.transformations.collection.convolution_based import MiniRocket
            from sklearn.preprocessing import StandardScaler

            rockets = MiniRocket(random_state=self.seed)  # Dempster et al., KDD 2021; ValueError for short windows
            scaler = StandardScaler(with_mean=False).fit(rockets.fit_transform(series))

            def transform(others: NDArray[np.float64]) -> Features:
                return np.asarray(scaler.transform(rockets.transform(others)))

            if rival == "distilled_rocket" and self.teach is not None:
                mixed = mix_answers(self.train, np.arange(len(self.train)), self.teach(self.train))
                answers = _ridge_on_targets(transform(series), mixed if kind == "regression" else 2 * mixed - 1)
            else:
                answers = _ridge_on_labels(transform(series), known.labels, task)

        def ask(windows: Windows) -> Answers:
            with rocket_threads():
                return answers(transform(series_of(windows, self.modality)))

        return ask


def calibration(raw: Answers, *, train: Windows, valid: Windows, metric: AnyMetric) -> Callable[[Answers], Answers]:
    """Return the calibration of answers: temperature, and the prior if validation prefers it."""
    kind = train.spec.task.kind
    if kind == "regression":
        return lambda answers: answers
    temperature = fitted_temperature(raw, valid.labels, kind=kind)
    if kind != "classification":
        return lambda answers: answers / temperature
    prior = log_prior(train.labels, len(train.spec.task.labels))
    tau = choose_tau(raw / temperature, valid.labels, valid.groups, prior=prior, metric=metric)
    return lambda answers: answers / temperature - tau * prior


def averaged(first: Answers, second: Answers, *, kind: TaskKind) -> Answers:
    """Average two models' probabilities or numbers."""
    if kind == "regression":
        return np.asarray((first + second) / 2)
    mean = (probabilities_of(first, kind=kind) + probabilities_of(second, kind=kind)) / 2
    return logits_of_probabilities(mean, kind=kind)


@contextmanager
def rocket_threads() -> Iterator[None]:
    """Keep numba from OpenMP and warnings of its cache, and restore torch's threads. Raise ImportError without aeon.

    Two OpenMP libraries in one process made later training steps 50 times slower.
    """
    import aeon  # noqa: F401
    from numba import config

    config.THREADING_LAYER = "workqueue"
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot cache compiled function")
            yield
    finally:
        torch.set_num_threads(threads)


def series_of(windows: Windows, modality: str) -> NDArray[np.float64]:
    """Return (N, C, T) for aeon; missing samples are 0."""
    values = series_values(windows, modality).astype(np.float64)
    return np.asarray(np.nan_to_num(values, nan=0.0).transpose(0, 2, 1))


def _ridge_on_labels(features: Features, labels: NDArray[Any], task: TaskSpec) -> Callable[[Features], Answers]:
    from sklearn.linear_model import RidgeClassifierCV

    if task.kind != "classification":
        targets = labels.reshape(len(labels), -1).astype(np.float64)
        return _ridge_on_targets(features, targets if task.kind == "regression" else 2 * targets - 1)
    ridge = RidgeClassifierCV(alphas=_PENALTIES).fit(features, labels)

    def answers(others: Features) -> Answers:
        values = np.asarray(ridge.decision_function(others), dtype=np.float64)
        values = np.stack([-values, values], axis=1) if values.ndim == 1 else values
        logits = np.full((len(values), len(task.labels)), -1.0)
        logits[:, ridge.classes_] = values
        return logits

    return answers


def _ridge_on_targets(features: Features, targets: NDArray[np.float64]) -> Callable[[Features], Answers]:
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(alphas=_PENALTIES).fit(features, targets)
    return lambda others: np.asarray(ridge.predict(others), dtype=np.float64).reshape(len(others), -1)
