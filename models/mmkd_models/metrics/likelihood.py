"""Probabilities of logits, their likelihood and temperature, and jackknife standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind

Floats = NDArray[np.float64]

BLOCKS = 10
"""Blocks of neighbouring windows that replace groups if those are too few."""

_HOTTEST, _COLDEST = 1e3, 1e-3
_MIN_PROBABILITY = 1e-12  # a probability whose logarithm is finite


def probabilities_of(logits: NDArray[Any], *, kind: TaskKind) -> Floats:
    """Return probabilities (N, K) of logits (N, K); numbers stay."""
    values = np.asarray(logits, dtype=np.float64)
    if kind == "regression":
        return values
    if kind == "multi_label":
        return np.asarray(0.5 * (1 + np.tanh(values / 2)))
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def logits_of_probabilities(probabilities: Floats, *, kind: TaskKind) -> Floats:
    """Return finite logits of probabilities."""
    known = np.clip(probabilities, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return np.asarray(np.log(known / (1 - known)) if kind == "multi_label" else np.log(known))


def log_likelihood(logits: NDArray[Any], labels: NDArray[Any], *, kind: TaskKind) -> Floats:
    """Return log-likelihoods of the truth: (N,), for several labels (N K,); a regression's errors are normal."""
    z = np.asarray(logits, dtype=np.float64)
    if kind == "classification":
        shifted = z - z.max(-1, keepdims=True)
        total = np.log(np.exp(shifted).sum(-1))
        return np.asarray(shifted[np.arange(len(z)), labels] - total)
    if kind == "multi_label":
        return np.asarray(-np.logaddexp(0.0, np.where(labels > 0, -z, z))).ravel()
    error = z[:, 0] - labels
    spread = max(float(np.sqrt(np.mean(error**2))), 1e-12)
    return np.asarray(-0.5 * (error / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi)))


def significantly_likelier(
    values: Floats, references: Floats, groups: NDArray[Any], *, of_one_group: bool = False
) -> bool:
    """Return whether log-likelihoods (answers,) exceed others by more than a standard error over groups (N,).

    With `of_one_group` a single group's windows are independent; otherwise it gives False.
    """
    differences = values - references
    owner = np.unique(np.repeat(groups, len(values) // len(groups)), return_inverse=True)[1].reshape(-1)
    if owner.max() == 0:
        if not of_one_group:
            return False
        owner = np.arange(len(differences))
    sums = np.bincount(owner, weights=differences - differences.mean())
    count = len(sums)
    error = math.sqrt(float((sums**2).sum()) * count / max(1, count - 1)) / len(differences)
    return bool(differences.mean() > error)


def fitted_temperature(logits: NDArray[Any], labels: NDArray[Any], *, kind: TaskKind) -> float:
    """Return the T for which logits / T have the least log loss; 1 for a regression, and without windows.

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, ICML 2017, section 4.2. The target of the true class is
    1 - 1 / (n + 2) (J. Platt, 1999), or T would be 0 if every answer is right. Labels (N,) or (N, K) are all known.

    Example:
        >>> logits = np.array([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
        >>> round(3 / fitted_temperature(logits, np.array([0, 0, 0, 1]), kind="classification"), 4)  # log 2
        0.6931
    """
    from scipy.optimize import brentq  # imported late, since it takes a while

    if kind == "regression" or len(logits) == 0:
        return 1.0
    values = np.asarray(logits, dtype=np.float64)
    classes, unsure = values.shape[1], 1 / (len(labels) + 2)
    if kind == "multi_label":
        targets = np.where(labels > 0, 1 - unsure, unsure)
    else:
        targets = np.full((len(labels), classes), unsure / max(classes - 1, 1))
        targets[np.arange(len(labels)), labels] = 1 - unsure
    low, high = np.log(1 / _HOTTEST), np.log(1 / _COLDEST)

    def slope(power: float) -> float:
        factor = np.exp(power)
        return float(((probabilities_of(factor * values, kind=kind) - targets) * values).sum())

    if slope(low) >= 0:
        return _HOTTEST
    if slope(high) <= 0:
        return _COLDEST
    return float(np.exp(-brentq(slope, low, high, xtol=1e-12)))


def helpful_temperature(logits: NDArray[Any], labels: NDArray[Any], groups: NDArray[Any], *, kind: TaskKind) -> float:
    """Return the fitted temperature if, fitted to the other groups, it makes each group likelier on average; else 1.

    With fewer than three groups, blocks of neighbouring windows take their place.
    """
    if kind == "regression" or len(logits) == 0:
        return 1.0
    parts, part = _parts(groups, fewest=3)
    gain = 0.0
    for number in range(parts):
        out = part == number
        temperature = fitted_temperature(logits[~out], labels[~out], kind=kind)
        after, before = (log_likelihood(logits[out] / each, labels[out], kind=kind) for each in (temperature, 1.0))
        gain += float((after - before).sum())
    return fitted_temperature(logits, labels, kind=kind) if gain > 0 else 1.0


def _parts(groups: NDArray[Any], *, fewest: int) -> tuple[int, NDArray[np.intp]]:
    """Number of groups and the group of each row (N,); of blocks of rows if there are fewer than `fewest`."""
    names, member = np.unique(groups, return_inverse=True)
    if len(names) >= fewest:
        return len(names), member.reshape(-1)
    count = min(BLOCKS, len(groups))
    return count, np.arange(len(groups)) * count // max(len(groups), 1)


def jackknife_error(figure: Callable[[NDArray[np.bool_]], float], groups: NDArray[Any], *, fewest_groups: int) -> float:
    """Return the standard error of a figure of the remaining rows (N,); infinite if none can be left out.

    Leaves out groups; with fewer than `fewest_groups`, blocks of windows (B. Efron, C. Stein, Annals of Statistics 9,
    1981).
    """
    count, member = _parts(groups, fewest=fewest_groups)
    if count < 2:
        return np.inf
    without = np.array([figure(member != number) for number in range(count)])
    return float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
