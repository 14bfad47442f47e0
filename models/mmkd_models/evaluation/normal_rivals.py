"""Rivals on normal windows of one sensor: ROCKAD by aeon (BSD-3-Clause), and an average of six scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.rivals import rocket_threads, series_of
from mmkd_models.networks.intervals import fits_intervals
from mmkd_models.training.closed_form import convolution_features, draw_features, interval_features, measure_intervals

NormalRivalName = Literal["rockad", "average_of_six"]
NORMAL_RIVALS: tuple[NormalRivalName, ...] = get_args(NormalRivalName)

_COMPONENTS, _NEIGHBOURS = 64, 5
_MIN = 1e-12

Floats = NDArray[np.float64]
Scorer = Callable[[Windows], Floats]
"""From windows to log scores (N, 1)."""


def fit_normal_rival(name: NormalRivalName, train: Windows, valid: Windows, modality: str, *, seed: int) -> Scorer:
    """Fit a rival to the normal training windows. Raise UsageError for windows that it refuses."""
    normal = train.subset(train.labels == 0)
    try:
        score = _rockad(normal, modality, seed) if name == "rockad" else _average_of_six(normal, valid, modality, seed)
    except ValueError as error:  # aeon refuses windows that are too short for its kernels
        raise UsageError(f"--rival {name}: it refused these windows: {error}; leave it out") from error
    return lambda windows: score(windows)[:, None]


def _rockad(normal: Windows, modality: str, seed: int) -> Scorer:
    """Distance from neighbours in bagged ROCKET features (Theissler et al., IDA 2023)."""
    with rocket_threads():
        from aeon.anomaly_detection.collection import ROCKAD

        detector = ROCKAD(random_state=seed).fit(series_of(normal, modality))

    def score(windows: Windows) -> Floats:
        with rocket_threads():
            return np.asarray(np.log(np.maximum(detector.predict(series_of(windows, modality)), _MIN)))

    return score


def _average_of_six(normal: Windows, valid: Windows, modality: str, seed: int) -> Scorer:
    """Neighbours, Mahalanobis and residual on kernels and on intervals, in std of their logs on validation windows."""
    features = draw_features(normal, modality, seed=seed)
    views: list[Callable[[Windows], NDArray[np.float32]]] = [
        lambda windows: convolution_features(features, windows, modality, np.arange(len(windows)))
    ]
    if fits_intervals(normal.spec.modality(modality)):
        intervals = measure_intervals(normal, modality, seed=seed)
        views.append(lambda windows: interval_features(intervals, windows, modality, np.arange(len(windows))))
    scorers = [(view, three_scores(view(normal))) for view in views]

    def parts(windows: Windows) -> Floats:
        return np.concatenate([score(view(windows)) for view, score in scorers], axis=1)

    reference = parts(valid.subset(valid.labels == 0))
    mean, std = reference.mean(axis=0), np.maximum(reference.std(axis=0), _MIN)
    return lambda windows: np.asarray(((parts(windows) - mean) / std).mean(axis=1))


def three_scores(normal: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], Floats]:
    """Return a function from features (N, F) to log distances (N, 3) from the normal ones (M, F)."""
    from sklearn.neighbors import NearestNeighbors

    middle, std = normal.mean(axis=0, dtype=np.float64), normal.std(axis=0, dtype=np.float64)
    std = np.where(std > _MIN, std, 1.0)
    z = (normal - middle) / std
    _, values, vectors = np.linalg.svd(z, full_matrices=False)
    count = max(1, min(_COMPONENTS, len(z) // 2, int((values > values[0] * 1e-6).sum())))
    axes, spread = vectors[:count].T, values[:count] / np.sqrt(len(z))
    nearest = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(z))).fit(z @ axes / spread)

    def score(features: NDArray[np.float32]) -> Floats:
        z = (features - middle) / std
        white = z @ axes / spread
        apart = np.square(z).sum(axis=1) - np.square(z @ axes).sum(axis=1)
        far = nearest.kneighbors(white)[0].mean(axis=1)
        return np.asarray(np.log(np.maximum(np.stack([far, np.linalg.norm(white, axis=1), apart], axis=1), _MIN)))

    return score
