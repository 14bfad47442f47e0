"""MiniRocket, MultiRocket and Hydra features as aeon (BSD-3-Clause) computes them, and ridge regressions on top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.spec import TaskSpec
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.settled import Answers
from mmkd_models.training.predict import series_values
from mmkd_models.training.ridge import label_answers

Features = NDArray[Any]
Transform = Callable[[NDArray[np.float64]], Features]
Answering = Callable[[Features], Answers]

_PENALTIES = np.logspace(-3, 3, 10)
"""As in aeon's classifiers; leave-one-out decides."""


@contextmanager
def rocket_threads() -> Iterator[None]:
    """Let numba use its own kind of threads if it has not started yet, and restore torch's thread count.

    Two OpenMP libraries in one process, numba's and torch's, were measured to slow each later training step 50 times.

    Raises ImportError if aeon is not installed (`pip install 'mmkd-edge[rivals]'`).
    """
    import aeon  # noqa: F401
    from numba import config

    config.THREADING_LAYER = "workqueue"
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def series_of(windows: Windows, modality: str) -> NDArray[np.float64]:
    """Return (N, C, T), as aeon expects; missing samples are 0."""
    values = series_values(windows, modality).astype(np.float64)
    series: NDArray[np.float64] = np.nan_to_num(values, nan=0.0).transpose(0, 2, 1)
    return series


def mini_rocket(series: NDArray[np.float64], *, seed: int) -> Transform:
    """Return MiniRocket's features (Dempster et al., KDD 2021), fitted and scaled on these series.

    Raises ValueError if the windows are too short for its kernels.
    """
    from aeon.transformations.collection.convolution_based import MiniRocket
    from sklearn.preprocessing import StandardScaler

    rocket = MiniRocket(random_state=seed)
    scaler = StandardScaler(with_mean=False).fit(rocket.fit_transform(series))
    return lambda asked: np.asarray(scaler.transform(rocket.transform(asked)))


def multi_rocket_hydra(series: NDArray[np.float64], *, seed: int) -> Transform:
    """Return features of MultiRocket (Tan et al., DMKD 2022) and Hydra (Dempster et al., DMKD 2023).

    Hydra's counts are scaled as its authors do: the root, centred and scaled by the standard deviation plus the
    fourth power of the fraction of zeros; zeros stay zeros.
    """
    from aeon.transformations.collection.convolution_based import HydraTransformer, MultiRocket
    from sklearn.preprocessing import StandardScaler

    rocket, hydra = MultiRocket(random_state=seed), HydraTransformer(random_state=seed)
    scaler = StandardScaler().fit(rocket.fit_transform(series))
    counts = _roots(hydra.fit_transform(series))
    mean, spread = counts.mean(axis=0), counts.std(axis=0, ddof=1) + (counts == 0).mean(axis=0) ** 4 + 1e-8

    def features(asked: NDArray[np.float64]) -> Features:
        found = _roots(hydra.transform(asked))
        return np.concatenate(
            [np.where(found == 0, 0.0, (found - mean) / spread), scaler.transform(rocket.transform(asked))], axis=1
        )

    return features


def _roots(counts: Any) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.clip(np.asarray(counts, dtype=np.float64), 0.0, None)))


def ridge_on_labels(features: Features, labels: NDArray[Any], task: TaskSpec) -> Answering:
    """Return a ridge regression for each class against the others, whose values are the logits.

    A class without a label has -1, the target of every other class.
    """
    from sklearn.linear_model import RidgeClassifierCV

    if task.kind != "classification":
        targets = labels.reshape(len(labels), -1).astype(np.float64)
        return ridge_on_targets(features, targets if task.kind == "regression" else 2 * targets - 1)
    ridge = RidgeClassifierCV(alphas=_PENALTIES).fit(features, labels)

    def answers(asked: Features) -> Answers:
        values = np.asarray(ridge.decision_function(asked), dtype=np.float64)
        values = np.stack([-values, values], axis=1) if values.ndim == 1 else values
        found = np.full((len(values), len(task.labels)), -1.0)
        found[:, ridge.classes_] = values
        return found

    return answers


def ridge_on_targets(features: Features, targets: NDArray[np.float64]) -> Answering:
    """Return a ridge regression on targets (N, K)."""
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(alphas=_PENALTIES).fit(features, targets)
    return lambda asked: np.asarray(ridge.predict(asked), dtype=np.float64).reshape(len(asked), -1)


def taught_targets(train: Windows, taught: Answers) -> NDArray[np.float64]:
    """Return targets (N, K) of a taught ridge: 2 q - 1 of probabilities q, or numbers.

    q is the teacher's answer; on labelled windows the mean of answer and label.

    Args:
        taught: the teacher's probabilities (N, K) of these windows, or its numbers (N, 1).
    """
    task, seen = train.spec.task, train.labelled
    mixed = taught.astype(np.float64).copy()
    mixed[seen] = (mixed[seen] + label_answers(task, train.labels[seen])) / 2
    return mixed if task.kind == "regression" else np.asarray(2 * mixed - 1)
