"""The temperature by which scores become logits whose probabilities fit, for classes and for several labels.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind
from mmkd_models.training.closed_form.targets import answers_from_logits

_HOTTEST, _COLDEST = 1e3, 1e-3
_HALVINGS = 60


def fitted_temperature(kind: TaskKind, scores: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Gives the T for which scores / T have the least log loss; 1 for a regression, and without windows.

    The loss is convex in 1 / T, so its slope is halved to zero. n windows do not prove that nothing ever errs, so
    what is sure counts as 1 - 1 / (n + 2) (J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999).

    Args:
        scores: (N, K).
        truth: (N, K), 1 and 0.
    """
    if kind == "regression" or len(scores) == 0:
        return 1.0
    values, unsure = scores.astype(np.float64), 1 / (len(scores) + 2)
    others = scores.shape[1] - 1 if kind == "classification" else 1
    targets = np.where(truth > 0, 1 - unsure, unsure / others)
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = ((answers_from_logits(kind, middle * values) - targets) * values).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(2 / (low + high))
