"""Sources of the values of windows: arrays of stored windows, or recordings that windows are cut from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import ArraysError, check_whole, let_go
from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.files import AnyArray
from mmkd_models.data.kinds import Values, decoded, with_present

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

LARGE_BYTES = 1 << 28
"""A mapped file from which on pages that were read are let go: smaller ones are no burden."""


class WindowSource(Protocol):
    """A reader of raw windows by row number."""

    @property
    def max_shift_s(self) -> float:
        """Seconds by which a window may be moved either way."""

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Return new float32 (B, T, C) in raw units, NaN and Inf as stored; of video uint8 (B, T, H, W, C)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWindows:
    """Windows stored in arrays, one part after the other.

    Attributes:
        parts: by modality (N_i, T, C), of video (N_i, T, H, W, C).
        offsets: number of the first window of each part.
        present: for video, by part, 1 if a frame is there (N_i, T); None if all are.
    """

    parts: Mapping[str, Sequence[AnyArray]]
    offsets: Rows
    present: Mapping[str, Sequence[AnyArray | None]] = field(default_factory=dict)

    @property
    def max_shift_s(self) -> float:
        """Always 0: the samples around a stored window are unknown."""
        return 0.0

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Return new windows; `shift_s` is ignored."""
        parts = self.parts[modality.name]
        _check_whole(parts)
        part_of = np.searchsorted(self.offsets, rows, side="right") - 1
        used = np.unique(part_of).tolist()
        if len(used) == 1:
            values = decoded(np.asarray(parts[used[0]][rows - self.offsets[used[0]]]), kind=modality.kind)
        else:
            values = np.empty((len(rows), *modality.shape), dtype=modality.dtype)
            for part in used:
                here = part_of == part
                values[here] = decoded(parts[part][rows[here] - self.offsets[part]], kind=modality.kind)
        for part in used:
            let_go(parts[part], least_bytes=LARGE_BYTES)
        return with_present(values, self._present(modality, rows, part_of)) if modality.kind == "video" else values

    def _present(self, modality: ModalitySpec, rows: Rows, part_of: Rows) -> AnyArray:
        present = np.ones((len(rows), modality.samples), dtype=np.uint8)
        for part, stored in enumerate(self.present.get(modality.name, ())):
            here = part_of == part
            if stored is not None:
                present[here] = stored[rows[here] - self.offsets[part]]
        return present


@dataclass(frozen=True, kw_only=True, eq=False)
class CutWindows:
    """Windows cut from recordings when they are read, at any offset.

    Attributes:
        samples: by modality, all recordings end to end: float32 or int16 (L, C), of video uint8 (L, H, W, C).
        scale: (C,) by int16 modality: the value of one count.
        offsets: by modality (R,): start of each recording in `samples`; its `lengths` likewise.
        recording: (N,) recording of each window.
        start_s: (N,) start of each window in its recording.
        latest_start_s: (R,) the latest start at which a whole window of every modality fits.
        present: for video uint8 (L,), 1 if the frame is there; without it all are.
    """

    samples: Mapping[str, AnyArray]
    scale: Mapping[str, Floats]
    offsets: Mapping[str, Rows]
    lengths: Mapping[str, Rows]
    recording: Rows
    start_s: npt.NDArray[np.float64]
    latest_start_s: npt.NDArray[np.float64]
    hop_s: float
    present: Mapping[str, AnyArray] = field(default_factory=dict)

    @property
    def max_shift_s(self) -> float:
        """Half a hop: further away a window is its neighbour."""
        return self.hop_s / 2

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Return new windows, each moved by its `shift_s` as far as its recording reaches."""
        recording = self.recording[rows]
        start_s = self.start_s[rows]
        if shift_s is not None:
            start_s = np.clip(start_s + shift_s, 0.0, np.maximum(self.latest_start_s[recording], start_s))
        first = first_sample(start_s, modality.rate_hz)
        first = np.minimum(first, self.lengths[modality.name][recording] - modality.samples)
        first = first + self.offsets[modality.name][recording]
        _check_whole([self.samples[modality.name]])
        present = self.present.get(modality.name)
        stored = _windows_at(self.samples[modality.name], first, modality.samples)
        let_go(self.samples[modality.name], least_bytes=LARGE_BYTES)
        values = decoded(stored, kind=modality.kind, scale=self.scale.get(modality.name))
        return values if present is None else with_present(values, _windows_at(present, first, modality.samples))


def _windows_at(flat: AnyArray, first: Rows, samples: int) -> AnyArray:
    """Return a new (B, T, ...): windows of an array (L, ...) from these first samples on."""
    width = int(np.prod(flat.shape[1:]))
    # (L - T + 1, T * width): row i is the window that starts at sample i, without a copy
    views = np.lib.stride_tricks.sliding_window_view(np.asarray(flat).reshape(-1), samples * width)[::width]
    return np.asarray(views[first].reshape(len(first), samples, *flat.shape[1:]))


def _check_whole(arrays: Sequence[AnyArray]) -> None:
    for array in arrays:
        try:
            check_whole(array)
        except ArraysError as error:
            cure = "copy the dataset again, and replace its files, never write into them"
            raise DatasetError(f"{error}; {cure}") from error


def first_sample(start_s: npt.NDArray[np.float64], rate_hz: float) -> Rows:
    """Return the number of the sample nearest to each start; halves go to the even number."""
    return np.rint(start_s * rate_hz).astype(np.int64)


def window_starts_s(lengths: Sequence[int], modalities: Sequence[ModalitySpec], *, hop_s: float) -> list[float]:
    """Return the starts k * hop_s of all windows of one recording that fit into every modality."""
    # Rounding to the nearest sample lets a window start up to half a sample late.
    latest_s = latest_start_s(lengths, modalities) + max(0.5 / modality.rate_hz for modality in modalities)
    starts: npt.NDArray[np.float64] = np.arange(max(int(latest_s / hop_s) + 2, 0), dtype=np.float64) * hop_s
    fits = np.ones(len(starts), dtype=bool)
    for length, modality in zip(lengths, modalities, strict=True):
        fits &= first_sample(starts, modality.rate_hz) + modality.samples <= length
    found: list[float] = starts[fits].tolist()
    return found


def latest_start_s(lengths: Sequence[int], modalities: Sequence[ModalitySpec]) -> float:
    """Return the latest start at which a whole window of every modality fits; negative if none does."""
    return min(
        (length - modality.samples) / modality.rate_hz for length, modality in zip(lengths, modalities, strict=True)
    )
