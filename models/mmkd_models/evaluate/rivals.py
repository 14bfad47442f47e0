"""Rivals that a user would try first on one sensor: extra-trees on window statistics, and MiniRocket.

Both see the labelled training windows of one modality and nothing else. A student that loses to them is no product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.outcome import Outcome, outcome_on

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_SPECTRUM_BINS = 32
_TREES = 300


RivalName = Literal["extra_trees", "mini_rocket"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)


class JudgeRival(Protocol):
    """Trains a rival once on the labelled windows of one modality, and judges it on the labelled ones of each part."""

    def __call__(self, train: Windows, parts: Sequence[Windows], *, modality: str, seed: int) -> tuple[Outcome, ...]:
        """Gives one result per part; what a rival needs and raises is said where it is written."""


def rival_outcomes(
    rival: RivalName, train: Windows, parts: Sequence[Windows], *, modality: str, seed: int
) -> tuple[Outcome, ...] | str:
    """Judges a rival as `JudgeRival`, or gives the reason why that cannot be done here."""
    judge: JudgeRival = extra_trees_judged if rival == "extra_trees" else mini_rocket_judged
    try:
        return judge(train, parts, modality=modality, seed=seed)
    except ImportError:
        return "aeon is not installed; run: pip install 'mmkd-edge[rivals]'"
    except ValueError as error:  # aeon refuses windows that are too short for its kernels
        return f"{'MiniRocket' if rival == 'mini_rocket' else 'extra-trees'} refused these windows: {error}"


def extra_trees_judged(train: Windows, parts: Sequence[Windows], *, modality: str, seed: int) -> tuple[Outcome, ...]:
    """Judges extra-trees (Geurts et al., Machine Learning 63, 2006) on `window_statistics`, as `JudgeRival`."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    known = _labelled(train)
    # Of several labels and of a number a forest gives the share of the trees' votes, or their mean.
    kind = ExtraTreesClassifier if train.spec.task.kind == "classification" else ExtraTreesRegressor
    forest = kind(n_estimators=_TREES, random_state=seed)
    forest.fit(window_statistics(_window_values(known, modality)), known.labels)
    return _judged(parts, lambda one: forest.predict(window_statistics(_window_values(one, modality))))


def mini_rocket_judged(train: Windows, parts: Sequence[Windows], *, modality: str, seed: int) -> tuple[Outcome, ...]:
    """Judges MiniRocket (Dempster et al., KDD 2021) as aeon builds it, as `JudgeRival`.

    Missing samples are filled with 0. Of several labels and of a number its features go to the same ridge regression,
    as the paper's section 3 has it.

    Raises:
        ImportError: aeon is not installed (`pip install 'mmkd-edge[rivals]'`).
        ValueError: the windows are too short for its kernels.
    """
    known = _labelled(train)
    _keep_numba_from_openmp()
    threads = torch.get_num_threads()
    try:
        answers = _fitted_rocket(known, _series(known, modality), seed=seed)
        return _judged(parts, lambda one: answers(_series(one, modality)))
    finally:
        torch.set_num_threads(threads)  # numba sets the thread count of the OpenMP library that it shares with torch


def _judged(parts: Sequence[Windows], answers: Callable[[Windows], NDArray[Any]]) -> tuple[Outcome, ...]:
    """Answers are class numbers (N,), of several labels shares of votes (N, K), of a regression numbers (N,)."""
    labelled = [_labelled(one) for one in parts]
    return tuple(outcome_on(one, _logits(one, np.asarray(answers(one)))) for one in labelled)


def _keep_numba_from_openmp() -> None:
    """Lets numba, where it has not begun yet, use threads of its own kind.

    Two OpenMP libraries in one process, numba's and torch's, were measured to slow each later training step 50 times.
    """
    from numba import config

    config.THREADING_LAYER = "workqueue"


def _fitted_rocket(
    known: Windows, series: NDArray[np.float64], *, seed: int
) -> Callable[[NDArray[np.float64]], NDArray[Any]]:
    if known.spec.task.kind == "classification":
        from aeon.classification.convolution_based import MiniRocketClassifier

        classifier = MiniRocketClassifier(random_state=seed)
        classifier.fit(series, known.labels)
        return lambda asked: np.asarray(classifier.predict(asked))
    from aeon.transformations.collection.convolution_based import MiniRocket
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rocket = MiniRocket(random_state=seed)
    # Scaling and penalties as in aeon's classifier.
    ridge = make_pipeline(StandardScaler(with_mean=False), RidgeCV(np.logspace(-3, 3, 10)))
    ridge.fit(rocket.fit_transform(series), known.labels)
    return lambda asked: np.asarray(ridge.predict(rocket.transform(asked)))


def _logits(windows: Windows, answers: NDArray[Any]) -> NDArray[np.float64]:
    """What a network would answer (N, K): from class numbers (N,), shares (N, K) near 0 or 1, or numbers (N,)."""
    task = windows.spec.task
    if task.kind == "classification":
        return np.eye(len(task.labels))[answers.astype(np.int64)]
    if task.kind == "regression":
        return answers.reshape(-1, 1).astype(np.float64)
    shares = np.clip(answers.reshape(len(windows), -1).astype(np.float64), 1e-6, 1 - 1e-6)  # a logit must be finite
    logits: NDArray[np.float64] = np.log(shares / (1 - shares))
    return logits


def window_statistics(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gives per channel mean, standard deviation, quantiles, mean absolute step and log power of the lowest bins.

    Args:
        values: (N, T, C); NaN = missing, ignored by the statistics and 0 in the spectrum.

    Returns:
        (N, features), finite.
    """
    x = values.astype(np.float64)
    known = np.isfinite(x)
    filled = np.where(known, x, 0.0)
    count = np.maximum(known.sum(1), 1)
    mean = filled.sum(1) / count
    centred = np.where(known, x - mean[:, None], 0.0)
    std = np.sqrt((centred**2).sum(1) / count)
    some = np.where(known.any(1, keepdims=True), x, 0.0)  # a channel without a value counts as 0
    quantiles = np.nanquantile(some, _QUANTILES, axis=1).transpose(1, 0, 2).reshape(len(x), -1)
    step = np.abs(np.diff(filled, axis=1))
    pairs = known[:, 1:] & known[:, :-1]
    mean_step = np.where(pairs, step, 0.0).sum(1) / np.maximum(pairs.sum(1), 1)
    power = np.abs(np.fft.rfft(centred, axis=1)[:, 1 : _SPECTRUM_BINS + 1]) ** 2
    parts = [mean, std, quantiles, mean_step, np.log(power + 1e-6).reshape(len(x), -1)]
    features: NDArray[np.float64] = np.concatenate(parts, axis=1)
    return features


def _labelled(windows: Windows) -> Windows:
    return windows.subset(np.flatnonzero(windows.labelled))


def _window_values(windows: Windows, modality: str) -> NDArray[np.float32]:
    return windows.take(np.arange(len(windows)))[modality]


def _series(windows: Windows, modality: str) -> NDArray[np.float64]:
    values = _window_values(windows, modality).astype(np.float64)
    series: NDArray[np.float64] = np.nan_to_num(values, nan=0.0).transpose(0, 2, 1)  # (N, C, T), as aeon wants it
    return series
