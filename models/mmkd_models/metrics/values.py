"""Errors and correlation of a regression."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class ValueScores(msgspec.Struct, frozen=True, kw_only=True):
    """Errors in the target's unit, and two figures without one.

    Attributes:
        r2: fraction of the truth's variance that the answers explain; below 0 for worse than its mean.
        pearson: correlation; 0 if either never changes.
    """

    mae: float
    rmse: float
    r2: float
    pearson: float
    windows: int

    def metric(self, name: str) -> float:
        """Return one figure by its name."""
        figure: float = getattr(self, name)
        return figure

    def standard_error(self, name: str) -> float:
        """Return the large-sample standard error of `r2` or `pearson`, windows taken as independent.

        Source: J. Wishart, "The Mean and Second Moment Coefficient of the Multiple Correlation Coefficient", Biometrika
        22, 1931: 2 R (1 - R^2) / sqrt(n) of R^2, and (1 - r^2) / sqrt(n) of r.
        """
        if name == "pearson":
            return (1 - self.pearson**2) / math.sqrt(self.windows)
        explained = max(self.r2, 0.0)
        return 2 * math.sqrt(explained) * (1 - explained) / math.sqrt(self.windows)


def value_scores(truth: NDArray[np.floating[Any]], answers: NDArray[np.floating[Any]]) -> ValueScores:
    """Score answers (N,) with the truth (N,), N > 0."""
    y, x = truth.astype(np.float64), answers.astype(np.float64)
    squared = float(np.square(x - y).mean())
    variance = float(y.var())
    spread = float(y.std() * x.std())
    return ValueScores(
        mae=float(np.abs(x - y).mean()),
        rmse=math.sqrt(squared),
        r2=1 - squared / variance if variance > 0 else float(squared == 0),
        pearson=float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0,
        windows=len(y),
    )
