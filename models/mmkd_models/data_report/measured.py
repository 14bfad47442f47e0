"""One more pass over every value: what each channel does inside each window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.scan import Scan
from mmkd_models.data.kinds import windows_at_once
from mmkd_models.data.sources import Floats
from mmkd_models.data.windows import Windows, valid_values

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_RUN = 3  # samples in a row at the lowest or highest value: of a free signal one alone is usual
LEAST_DIFFERENT = 8
"""Different values in a window, from which on a channel counts as continuous: one that is flat then may be stuck."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowMeasures:
    """What the channels of one modality do in each window, (N, C) each.

    Attributes:
        missing: share of the samples that are not there.
        flat: whether all samples that are there, two or more, are equal.
        at_limit: share of the samples in runs at the channel's lowest or highest value.
        level: mean; NaN without a sample.
        power: mean square; NaN without a sample.
        different: different values.
    """

    modality: ModalitySpec
    missing: Numbers
    flat: Flags
    at_limit: Numbers
    level: Numbers
    power: Numbers
    different: Numbers

    @property
    def continuous(self) -> Flags:
        """(C,) whether half of the windows in which a channel moves have many different values."""
        least = min(LEAST_DIFFERENT, self.modality.samples // 2)
        moving = np.where(self.flat | np.isnan(self.level), np.nan, self.different)
        known = ~np.isnan(moving).all(axis=0)
        found = np.zeros(len(known), dtype=bool)
        found[known] = np.nanmedian(moving[:, known], axis=0) >= least
        return found


def measured(windows: Windows, scan: Scan) -> dict[str, WindowMeasures]:
    """Measure every window, raw; `scan` is of the same windows."""
    return {one.name: _measured(windows, one, scan) for one in windows.spec.modalities}


def _measured(windows: Windows, modality: ModalitySpec, scan: Scan) -> WindowMeasures:
    found = scan.modalities[modality.name]
    parts = [_block(values, found.low, found.high) for values in _blocks(windows, modality)]
    missing, flat, at_limit, different = (np.concatenate(part) for part in zip(*parts, strict=True))
    return WindowMeasures(
        modality=modality,
        missing=missing,
        flat=flat.astype(bool),
        at_limit=at_limit,
        level=found.level,
        power=found.power,
        different=different,
    )


def _blocks(windows: Windows, modality: ModalitySpec) -> Iterator[Floats]:
    block = windows_at_once(modality)
    for start in range(0, len(windows), block):
        rows = windows.rows[start : start + block]
        yield valid_values(windows.source.gather(modality, rows, shift_s=None), modality=modality)


def _block(values: Floats, low: Numbers, high: Numbers) -> tuple[npt.NDArray[np.generic], ...]:
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    least = np.where(known, values, np.inf).min(axis=1)
    most = np.where(known, values, -np.inf).max(axis=1)
    ordered = np.sort(values, axis=1)  # NaN last
    steps = (np.diff(ordered, axis=1) > 0).sum(axis=1)
    limit = _in_runs(values == low.astype(np.float32)) | _in_runs(values == high.astype(np.float32))
    return (
        1 - count / values.shape[1],
        (count >= 2) & (least == most),
        limit.mean(axis=1),
        np.where(count > 0, steps + 1, 0).astype(np.float64),
    )


def _in_runs(there: Flags) -> Flags:
    """(B, T, C) whether a sample is one of `_RUN` in a row that are there."""
    samples = there.shape[1]
    if samples < _RUN:
        return np.zeros_like(there)
    whole = np.ones((len(there), samples - _RUN + 1, there.shape[2]), dtype=bool)
    for offset in range(_RUN):
        whole &= there[:, offset : samples - _RUN + 1 + offset]
    found = np.zeros_like(there)
    for offset in range(_RUN):
        found[:, offset : samples - _RUN + 1 + offset] |= whole
    return found
