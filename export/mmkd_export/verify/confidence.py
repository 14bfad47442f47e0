"""Confidence that means something: the temperature of a student, and the scores that label sets are made from.

Owns how both are fitted, on windows that never judge, and whether the temperature is kept. The temperature goes into
the graphs, so that every engine gives calibrated probabilities at no cost; the scores go into the manifest, so that a
device may choose any error level.
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
"""Fewer labelled windows fit no temperature: it would be the chance of a few, and they support no level of 5 %."""

_COLDEST, _HOTTEST = 0.05, 20.0
_DIGITS = 1e7


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature T for which softmax(logits / T) fits the labels best: the least log loss.

    As `fitted_temperature` says, within a range that so few windows can tell: the loss is convex in 1 / T, so that
    the nearest end is best where the least lies outside.

    Args:
        logits: (N, K) of a network without temperature.
        labels: (N,), -1 where unknown.

    Returns:
        1 where fewer than `FEWEST_WINDOWS` have a label.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) < FEWEST_WINDOWS:
        return 1.0
    found = fitted_temperature(logits[known], labels[known], kind="classification")
    return round(min(max(found, _COLDEST), _HOTTEST), 4)


def helpful_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], judge: NDArray[np.bool_]) -> float:
    """The temperature of the calibrating windows, if it also helps the judging ones; else 1.

    It helps if it lowers the log loss and does not raise the calibration error.

    Args:
        logits: (N, K) of a network without temperature.
        labels: (N,), -1 where unknown.
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


def confidence_of(probabilities: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float) -> Confidence:
    """What the manifest keeps of an artifact: its probabilities of the true labels of the calibration windows.

    Args:
        probabilities: (N, K), the artifact's; N > 0.
        labels: (N,), all known.
        temperature: in its graph.
    """
    rows = np.arange(min(len(labels), MOST_CONFIDENCE_WINDOWS))
    true = np.sort(probabilities[rows, labels[rows]].astype(np.float64))
    rounded = np.floor(np.clip(true, 0.0, 1.0) * _DIGITS) / _DIGITS  # downwards: a set may only become larger
    return Confidence(temperature=temperature, true_probabilities=tuple(rounded.tolist()))
