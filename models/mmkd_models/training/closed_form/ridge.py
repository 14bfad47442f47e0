"""Ridge regression in closed form, its penalty by leaving out each window once, and the elimination of features.

Owns the algebra; what the targets mean is the caller's. The errors of leaving one out follow from one decomposition:
(y - y^) / (1 - h) with h the diagonal of the hat matrix (D. Allen's PRESS; T. Hastie, R. Tibshirani, J. Friedman, "The
Elements of Statistical Learning", 2nd edition, equation 7.64), here with weights and an intercept without a penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in np.arange(-1.0, 6.01, 0.5))
"""Of features in standard deviations: from hardly any penalty to features that hardly count."""

_DROPPED = 0.1
"""Share of the features that one step of the elimination drops."""


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A linear map from features to scores.

    Attributes:
        weight: (F, K).
        bias: (K,).
        penalty: that was chosen.
        loss: weighted mean square error of the windows left out, under each penalty tried.
    """

    weight: Floats
    bias: Floats
    penalty: float
    loss: dict[float, float]

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """(N, F) -> (N, K)."""
        return features.astype(np.float64) @ self.weight + self.bias


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Centred rows times the square roots of their weights: inputs (N, F), targets (N, K), and what was taken off."""

    inputs: Floats
    targets: Floats
    centre: Floats
    middle: Floats
    share: Floats

    def bias(self, weight: Floats) -> Floats:
        found: Floats = self.middle - self.centre @ weight
        return found


def fit_ridge(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    penalties: tuple[float, ...] = PENALTIES,
) -> Ridge:
    """Fits (N, F) features to (N, K) targets with the penalty that predicts windows left out best.

    Args:
        weights: (N,) above 0, of each window's square error.
    """
    problem = _problem(features, targets, weights)
    parts = _decomposed(problem)
    loss = {}
    for penalty in penalties:
        shrink = parts.values / (parts.values + penalty)
        hat = problem.share + np.square(parts.left) @ shrink
        apart = problem.targets - parts.left @ (shrink[:, None] * parts.seen)
        residuals = apart / np.maximum(1.0 - hat, 1e-9)[:, None]
        loss[penalty] = float(np.square(residuals).sum() / (weights.sum() * targets.shape[1]))
    penalty = min(loss, key=lambda tried: loss[tried])
    weight = parts.weight(penalty)
    return Ridge(weight=weight, bias=problem.bias(weight), penalty=penalty, loss=loss)


def ridge_of_each(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    penalties: tuple[float, ...],
) -> dict[float, Ridge]:
    """Fits (N, F) features to (N, K) targets with each penalty, from one decomposition; no losses.

    Args:
        weights: as of `fit_ridge`.
    """
    problem = _problem(features, targets, weights)
    parts, found = _decomposed(problem), {}
    for penalty in penalties:
        weight = parts.weight(penalty)
        found[penalty] = Ridge(weight=weight, bias=problem.bias(weight), penalty=penalty, loss={})
    return found


def eliminations(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    penalty: float,
    most: int,
    fewest: int,
) -> Iterator[tuple[NDArray[np.int64], Ridge]]:
    """Gives ever fewer features (rows ascending) with the regression on them, from `most` down to `fewest`.

    Sequential feature detachment: G. Uribarri, F. Barone, A. Ansuini, E. Fransen, "Detach-ROCKET: Sequential feature
    selection for time series classification with random convolutional kernels", 2024 (arXiv 2309.14518), section 3:
    fit, drop the features whose coefficients are smallest (here: of all outputs together), fit anew.
    """
    problem = _problem(features, targets, weights)
    rows = np.arange(features.shape[1])
    tall = len(features) > len(rows)
    product = problem.inputs.T @ problem.inputs if tall else np.zeros((0, 0))
    while True:
        weight = _solved(problem, product, rows, penalty=penalty)
        if len(rows) <= most:
            bias = problem.middle - problem.centre[rows] @ weight
            yield rows, Ridge(weight=weight, bias=bias, penalty=penalty, loss={})
        if len(rows) <= fewest:
            return
        left = max(fewest, int(len(rows) * (1 - _DROPPED)))
        left = max(most, left) if len(rows) > most else left
        strength = np.square(weight).sum(axis=1)
        rows = np.sort(rows[np.argsort(-strength, kind="stable")[:left]])


def _problem(features: NDArray[np.floating], targets: NDArray[np.floating], weights: NDArray[np.floating]) -> _Problem:
    inputs, outputs, share = (np.asarray(part, dtype=np.float64) for part in (features, targets, weights))
    share = share / share.sum()
    centre, middle, root = share @ inputs, share @ outputs, np.sqrt(share * weights.sum())[:, None]
    return _Problem(
        inputs=root * (inputs - centre), targets=root * (outputs - middle), centre=centre, middle=middle, share=share
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The rows' eigenvalues (R,), orthonormal columns (N, R) and (F, R), and the targets seen through the first."""

    values: Floats
    left: Floats
    right: Floats
    seen: Floats

    def weight(self, penalty: float) -> Floats:
        """Gives the weights (F, K) under a penalty."""
        found: Floats = self.right @ ((np.sqrt(self.values) / (self.values + penalty))[:, None] * self.seen)
        return found


def _decomposed(problem: _Problem) -> _Parts:
    inputs = problem.inputs
    wide = inputs.shape[1] > len(inputs)
    values, vectors = np.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
    kept = values > max(float(values.max(initial=0.0)) * 1e-10, 1e-12)
    values, vectors = values[kept], vectors[:, kept]
    left = vectors if wide else inputs @ vectors / np.sqrt(values)
    right = inputs.T @ left / np.sqrt(values) if wide else vectors
    return _Parts(values=values, left=left, right=right, seen=left.T @ problem.targets)


def _solved(problem: _Problem, product: Floats, rows: NDArray[np.int64], *, penalty: float) -> Floats:
    """(F of `rows`, K): in the space of windows or of features, whichever is smaller."""
    inputs = problem.inputs[:, rows]
    if len(rows) > len(inputs):
        dual = np.linalg.solve(inputs @ inputs.T + penalty * np.eye(len(inputs)), problem.targets)
        return np.asarray(inputs.T @ dual)
    primal = product[np.ix_(rows, rows)] if len(product) else inputs.T @ inputs
    return np.linalg.solve(primal + penalty * np.eye(len(rows)), inputs.T @ problem.targets)
