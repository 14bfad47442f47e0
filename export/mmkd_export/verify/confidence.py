"""The temperature of a student, which goes into its graphs, and the scores in the manifest that label sets come from.

Both are fitted on windows that never judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmkd_edge.bundle.manifest import MOST_CONFIDENCE_WINDOWS, Confidence
from mmkd_models.evaluation.confidence import reliability
from mmkd_models.metrics.likelihood import fitted_temperature, probabilities_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_WINDOWS = 20
"""With fewer labelled windows the temperature is 1: a fit would be chance."""

_COLDEST, _HOTTEST = 0.05, 20.0
_DIGITS = 1e7


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Fit the temperature T of least log loss of softmax(logits / T), from 0.05 to 20.

    The loss is convex in 1 / T, so the nearest end is best if the least lies outside.

    Args:
        logits: (N, K) of a network without temperature.
        labels: (N,), -1 if unknown.
    """
    labelled = np.flatnonzero(labels >= 0)
    if len(labelled) < FEWEST_WINDOWS:
        return 1.0
    temperature = fitted_temperature(logits[labelled], labels[labelled], kind="classification")
    return round(min(max(temperature, _COLDEST), _HOTTEST), 4)


def helpful_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], judge: NDArray[np.bool_]) -> float:
    """Return the temperature of the calibrating windows if it also helps the judging ones, else 1.

    It helps if it lowers the log loss and does not raise the calibration error.

    Args:
        logits: (N, K) of a network without temperature.
        labels: (N,), -1 if unknown.
        judge: (N,) False calibrates, True judges.
    """
    judging = judge & (labels >= 0)
    temperature = fit_temperature(logits[~judge], labels[~judge])
    if temperature == 1.0 or not judging.any():
        return 1.0
    before, after = (
        reliability(probabilities_of(logits[judging] / divisor, kind="classification"), labels[judging])
        for divisor in (1.0, temperature)
    )
    helps = after.log_loss < before.log_loss and after.calibration_error <= before.calibration_error
    return temperature if helps else 1.0


def fit_confidence(probabilities: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float) -> Confidence:
    """Return an artifact's probabilities (N, K) of the true labels (N,), all known, as the manifest has them."""
    rows = np.arange(min(len(labels), MOST_CONFIDENCE_WINDOWS))
    true = np.sort(probabilities[rows, labels[rows]].astype(np.float64))
    rounded = np.floor(np.clip(true, 0.0, 1.0) * _DIGITS) / _DIGITS  # downwards: a set may only become larger
    return Confidence(temperature=temperature, true_probabilities=tuple(rounded.tolist()))
