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
from mmkd_models.data_report.probes import alike_labels
from mmkd_report.schema.data import DriftFacts

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


_PARTS = 10
_BLOCKS = 10  # of a fifth, for its standard error: neighbouring windows tell much the same
_LEAST_WINDOWS = 2 * _PARTS * _BLOCKS
_CLEAR_SHIFT = 1.0
_CLEAR_ERRORS = 4.0


def drift_of(windows: Windows, found: WindowMeasures) -> Iterator[DriftFacts]:
    """Yield the drift of each channel of a modality; nothing without times or of few windows."""
    if windows.times is None or len(windows) < _LEAST_WINDOWS:
        return
    order = np.argsort(windows.times, kind="stable")
    codes, _ = alike_labels(windows)
    for number, channel in enumerate(found.modality.channels):
        rest = _without_classes(found.level[:, number], codes)[order]
        rest = rest[~np.isnan(rest)]
        if len(rest) < _LEAST_WINDOWS or rest.std() == 0:
            continue
        first, last = rest[: len(rest) // 5], rest[-(len(rest) // 5) :]
        shift = float((last.mean() - first.mean()) / rest.std())
        errors = float(np.hypot(_error(first), _error(last)) / rest.std())
        yield DriftFacts(
            modality=found.modality.name,
            channel=channel,
            levels=tuple(float(part.mean()) for part in np.array_split(rest, _PARTS)),
            shift=shift,
            is_clear=abs(shift) > max(_CLEAR_SHIFT, _CLEAR_ERRORS * errors),
        )


def _without_classes(level: npt.NDArray[np.float64], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The level with the mean of all in place of the mean of each class."""
    rest: npt.NDArray[np.float64] = level.copy()
    middle = np.nanmean(level) if not np.isnan(level).all() else np.nan
    for code in np.unique(codes).tolist():
        here = codes == code
        if not np.isnan(level[here]).all():
            rest[here] += middle - np.nanmean(level[here])
    return rest


def _error(values: npt.NDArray[np.float64]) -> float:
    means = [part.mean() for part in np.array_split(values, _BLOCKS)]
    return float(np.std(means, ddof=1) / np.sqrt(len(means)))
