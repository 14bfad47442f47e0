"""A sensor whose clock is a little early or late against the others'."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.spec import Values
from mmkd_models.data.windows import Rows, Windows, WindowSource


@dataclass(frozen=True, kw_only=True, eq=False)
class _OffClock:
    source: WindowSource
    modality: str
    largest_s: float
    seed: int

    @property
    def max_shift_s(self) -> float:
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: NDArray[np.float64] | None) -> Values:
        if modality.name == self.modality:
            moved = np.zeros(len(rows)) if shift_s is None else shift_s
            # A new position of the same window, as in every epoch, has a new error.
            seeds = zip(rows.tolist(), np.abs(moved * 1e9).astype(np.int64).tolist(), strict=True)
            errors = [np.random.default_rng([self.seed, *seed]).uniform(-1, 1) for seed in seeds]
            shift_s = moved + self.largest_s * np.array(errors)
        return self.source.gather(modality, rows, shift_s=shift_s)


def with_clock_error(windows: Windows, modality: str, largest_s: float, *, seed: int) -> Windows:
    """Move a sensor's windows by up to `largest_s` seconds either way, as far as recordings reach; 0 moves none.

    Raise UsageError for cut windows, and for more than half a window.
    """
    if not largest_s:
        return windows
    half_s = windows.spec.modality(modality).duration_s / 2
    if windows.max_shift_s == 0:
        raise UsageError(
            "--clock-error: expected a dataset of recordings, in which a window can be moved, got one of cut windows; "
            "import the recordings (mmkd-data import), or leave the option out"
        )
    if largest_s > half_s:
        raise UsageError(
            f"--clock-error: expected at most half a window, {half_s:g} s, got {largest_s:g} s; name a smaller one, or "
            "cut longer windows"
        )
    source = _OffClock(source=windows.source, modality=modality, largest_s=largest_s, seed=seed)
    return replace(windows, source=source)
