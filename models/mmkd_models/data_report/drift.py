"""Channels whose level moves over the campaign."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mmkd_models.data.checking.scan import Scan
from mmkd_models.data.labels import strata_of
from mmkd_report.schema.data import DriftFacts, Finding

_PARTS = 10
_BLOCKS = 10  # of a fifth, for its standard error: neighbouring windows are alike
_LEAST_WINDOWS = 2 * _PARTS * _BLOCKS
_CLEAR_SHIFT = 1.0
_CLEAR_ERRORS = 4.0


def find_drift(scan: Scan) -> Iterator[DriftFacts]:
    """Yield the drift of each channel; nothing if there are no times or few windows."""
    windows = scan.windows
    if windows.times is None or len(windows) < _LEAST_WINDOWS:
        return
    order = np.argsort(windows.times, kind="stable")
    strata = strata_of(windows.labels)
    for name, figures in scan.modalities.items():
        for channel, level in zip(figures.modality.channels, figures.level.T, strict=True):
            rest = _without_classes(level, strata)[order]
            rest = rest[~np.isnan(rest)]
            if len(rest) < _LEAST_WINDOWS or rest.std() == 0:
                continue
            first, last = rest[: len(rest) // 5], rest[-(len(rest) // 5) :]
            shift = float((last.mean() - first.mean()) / rest.std())
            stderr = float(np.hypot(_stderr(first), _stderr(last)) / rest.std())
            yield DriftFacts(
                modality=name,
                channel=channel,
                levels=tuple(float(part.mean()) for part in np.array_split(rest, _PARTS)),
                shift=shift,
                is_clear=abs(shift) > max(_CLEAR_SHIFT, _CLEAR_ERRORS * stderr),
            )


def _without_classes(level: npt.NDArray[np.float64], strata: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the level (N,) with the mean of each class replaced by the mean of all."""
    rest: npt.NDArray[np.float64] = level.copy()
    known = ~np.isnan(level)
    for stratum in np.unique(strata[known]).tolist():
        here = known & (strata == stratum)
        rest[here] += level[known].mean() - level[here].mean()
    return rest


def _stderr(values: npt.NDArray[np.float64]) -> float:
    means = [part.mean() for part in np.array_split(values, _BLOCKS)]
    return float(np.std(means, ddof=1) / np.sqrt(len(means)))


def drift_findings(drift: DriftFacts) -> Iterator[Finding]:
    """Yield a note if the drift is clear."""
    if drift.is_clear:
        direction = "higher" if drift.shift > 0 else "lower"
        yield Finding(
            kind="drift",
            level="note",
            sentence=f"channel {drift.modality} {drift.channel} is {abs(drift.shift):.1f} standard deviations "
            f"{direction} in the last fifth of the campaign than in the first",
            advice="ask what changed (sensor, season, wear), and judge on the last part of the campaign",
        )
