"""What changes over the campaign: the level of each channel in order of time, of what the classes do not explain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mmkd_models.data.windows import Windows
from mmkd_models.data_report.measured import WindowMeasures
from mmkd_models.data_report.probes import alike_labels
from mmkd_report.schema.data import DriftFacts

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
