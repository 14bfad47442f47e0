"""How windows came to be judged apart from those that trained: what is said of it, and what intervals resample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmkd_report.schema.figures import Split

if TYPE_CHECKING:
    from mmkd_models.data.windows import Windows

WRITE_GROUPS = "write groups.npy (the person, machine or session of each window)"
_NO_GROUPS = "no groups: may share people and machines with training"
# How alike the answers to neighbouring windows are taken to be: windows that overlap by half and more are close to it.
_CORRELATION = 0.8


OF_GROUPS = Split(by="groups", judged_on="people and machines never seen", resampled="whole groups")


def split_facts(windows: Windows, *, part: str = "test") -> Split:
    """Return what may be said of a part of these windows.

    Args:
        part: `test`, or another split of the dataset that judges in its place.
    """
    if windows.has_groups:
        return OF_GROUPS
    if windows.folds is not None:
        return Split(
            by="own folds", judged_on=f"the dataset's own folds; {_NO_GROUPS}", resampled=_resampled(windows, None)
        )
    return Split(
        by="own split",
        judged_on=f"windows of the dataset's own {part} split; {_NO_GROUPS}",
        resampled=_resampled(windows, part),
    )


def _resampled(windows: Windows, part: str | None) -> str:
    if windows.max_shift_s > 0:
        return "whole recordings"
    return f"blocks of {'' if part is None else f'{block_length(windows.spec.splits[part])} '}consecutive windows"


def block_length(count: int) -> int:
    """Return how many of so many consecutive windows make a block, for a bootstrap over blocks.

    Neighbouring windows tell much the same, so that resampling single ones makes an interval too narrow. The length is
    that of E. Carlstein, "The Use of Subseries Values for Estimating the Variance of a General Statistic from a
    Stationary Sequence", Annals of Statistics 14, 1986: (2 r / (1 - r^2))^(2/3) n^(1/3) for a first-order
    autoregressive series of correlation r.

    Example:
        >>> block_length(1000), block_length(1)
        (28, 1)
    """
    wanted: float = (2 * _CORRELATION / (1 - _CORRELATION**2)) ** (2 / 3) * count ** (1 / 3)
    return min(count, math.ceil(wanted))


def blocks_of(splits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return int64 (N,): the number of each window's block, from 0; no block is in two splits.

    Args:
        splits: (N,) the number of each window's split, ascending.
    """
    found: list[npt.NDArray[np.int64]] = []
    first = 0
    for count in np.bincount(splits).tolist():
        if count:
            found.append(first + np.arange(count) // block_length(count))
            first = int(found[-1][-1]) + 1
    return np.concatenate(found)
