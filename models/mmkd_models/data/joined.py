"""A joined sensor of which one part is missing: in batches, in copies of windows, and in those that judge an export."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.spec import Values
from mmkd_models.data.windows import Floats, Rows, Windows, WindowSource


def presence_without(modality: ModalitySpec, missing: NDArray[np.int64]) -> Floats:
    """Return presence (B, 1, C), 0 in the channels of the part of this number (B,); a number beyond hides none."""
    part_of = np.repeat(np.arange(len(modality.sources)), [len(part.channels) for part in modality.sources])
    return np.asarray(missing[:, None, None] != part_of, dtype=np.float32)


def in_turn(windows: Values, modality: ModalitySpec) -> Values:
    """Return windows (N, T, C) of which, in turn, one is complete and one lacks each part; others as they are."""
    if not modality.parts:
        return windows
    kept = presence_without(modality, np.arange(-1, len(windows) - 1) % (len(modality.parts) + 1))
    return np.where(kept > 0, windows, np.float32(np.nan))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Copies:
    """Another source's rows, then again without the first part of a joined sensor, and so on."""

    source: WindowSource
    modality: ModalitySpec
    count: int

    @property
    def max_shift_s(self) -> float:
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: NDArray[np.float64] | None) -> Values:
        copy, row = np.divmod(rows, self.count)
        values = self.source.gather(modality, row, shift_s=shift_s)
        if modality.name != self.modality.name:
            return values
        missing = (copy - 1) % (len(self.modality.sources) + 1)
        return np.where(presence_without(self.modality, missing) > 0, values, np.float32(np.nan))


def with_copies(windows: Windows, modality: str) -> Windows:
    """Return the windows, then copies without each part of a joined sensor; those of another sensor as they are."""
    spec = windows.spec.modality(modality)
    if not spec.parts:
        return windows
    count = int(windows.rows.max(initial=0)) + 1
    copies = np.repeat(np.arange(len(spec.parts) + 1), len(windows))
    copied = windows.subset(np.tile(np.arange(len(windows)), len(spec.parts) + 1))
    source = _Copies(source=windows.source, modality=spec, count=count)
    return replace(copied, source=source, rows=copied.rows + count * copies)
