"""The standard error of any figure of windows, by leaving out whole groups in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCKS = 10
"""Of neighbouring windows, in place of groups where there are too few."""


def jackknife_error(figure: Callable[[NDArray[np.bool_]], float], groups: NDArray[Any], *, fewest_groups: int) -> float:
    """Return the standard error of a figure of the rows (N,) that remain; infinite if none can be left out.

    Source: B. Efron, C. Stein, "The Jackknife Estimate of Variance", Annals of Statistics 9, 1981; whole groups are
    left out, since windows of one are alike.

    Args:
        groups: (N,) owner of each window.
        fewest_groups: with fewer, blocks of neighbouring windows replace them.
    """
    names, member = np.unique(groups, return_inverse=True)
    count = len(names)
    if count < fewest_groups:
        count = min(BLOCKS, len(groups))
        member = np.arange(len(groups)) * count // len(groups)
    if count < 2:
        return np.inf
    without = np.array([figure(member != number) for number in range(count)])
    return float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
