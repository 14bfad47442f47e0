"""Windows that share samples: the end of one is the beginning of another, as where a recording was cut with overlap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.kinds import Values, windows_at_once
from mmkd_models.data.labels import WRITE_GROUPS
from mmkd_models.data.sources import Rows
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Windows

_MOST_COMPARED = 16  # samples of a window's beginning that are looked for
# Values in different steps from sample to sample of what is shared: where a sensor rounds, two slopes are soon equal.
_LEAST_DIFFERENT = 8
_MOST_STEPS = 256  # that are looked at first
_MOST_CANDIDATES = 4  # places in one window that are compared value by value
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlaps:
    """Pairs of windows of one modality that share samples, each int64 (P,).

    Attributes:
        first: the number of the window whose end is shared.
        second: of the one whose beginning it is.
    """

    modality: ModalitySpec
    first: Rows
    second: Rows
    shift: Rows

    def subset(self, index: npt.NDArray[np.bool_]) -> Overlaps:
        """Return the pairs where the mask is true."""
        return Overlaps(
            modality=self.modality, first=self.first[index], second=self.second[index], shift=self.shift[index]
        )

    def words(self, windows: Windows) -> str:
        """Return the first of these pairs as the start of a sentence."""
        first, second = place(windows, int(self.first[0])), place(windows, int(self.second[0]))
        shared = self.modality.samples - int(self.shift[0])
        return (
            f"the last {shared} samples of {first} are the first of {second} in {self.modality.name!r} "
            f"({len(self.first)} such in all)"
        )


def overlaps_of(windows: Windows) -> Overlaps:
    """Find windows that share samples, in the modality with most samples; reads them twice, once asked.

    Looked for is where the first samples of a window lie inside others. That costs about as much as reading, and finds
    every overlap of a quarter of a window or 16 samples, unless what is shared hardly moves or was changed.
    """
    if windows not in _FOUND:
        _FOUND[windows] = _overlaps_of(windows)
    return _FOUND[windows]


_FOUND: WeakKeyDictionary[Windows, Overlaps] = WeakKeyDictionary()
"""Of windows that somebody still holds; those of a dataset live as long as it does."""


def _overlaps_of(windows: Windows) -> Overlaps:
    modality = max(windows.spec.modalities, key=lambda one: one.samples * len(one.channels))
    compared = min(_MOST_COMPARED, max(2, modality.samples // 4))
    pairs: list[tuple[int, int, int]] = []
    if modality.samples > compared:
        pairs = list(_pairs(windows, modality, compared))
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    return Overlaps(modality=modality, first=columns[:, 0], second=columns[:, 1], shift=columns[:, 2])


def split_problems(windows: Windows, overlaps: Overlaps) -> Iterator[str]:
    """Yield one text where windows of two splits, or of two folds of a dataset without groups, share samples."""
    parts = {"splits": windows.splits}
    if windows.folds is not None and not windows.has_groups:
        parts["folds"] = windows.folds
    for name, part in parts.items():
        leak = overlaps.subset(part[overlaps.first] != part[overlaps.second])
        if len(leak.first):
            yield (
                f"{leak.words(windows)}; {name} must not share samples: {WRITE_GROUPS} and put whole "
                f"groups into one of the {name}"
            )


def refuse_shared_samples(windows: Windows) -> None:
    """Raise DatasetError if windows that share samples are in two splits, or may be dealt into two folds."""
    overlaps = overlaps_of(windows)
    problems = [*split_problems(windows, overlaps), *(group_warnings(windows, overlaps) if windows.has_groups else ())]
    if problems:
        raise DatasetError(f"dataset {windows.spec.name!r}: {problems[0]}")


def group_warnings(windows: Windows, overlaps: Overlaps) -> Iterator[str]:
    """Yield one text where windows that share samples have different groups, or the dataset has none."""
    apart = overlaps.subset(
        (windows.splits[overlaps.first] == windows.splits[overlaps.second])
        & (windows.groups[overlaps.first] != windows.groups[overlaps.second])
    )
    if windows.has_groups:
        if len(apart.first):
            names = " and ".join(repr(windows.groups[rows[0]].item()) for rows in (apart.first, apart.second))
            yield f"groups {names} share samples: {apart.words(windows)}; give such windows one group"
    elif windows.max_shift_s == 0 and len(overlaps.first):
        share = len(np.unique(np.concatenate([overlaps.first, overlaps.second]))) / len(windows)
        yield (
            f"no groups, but {share:.0%} of the windows share samples with others: they were recorded together; "
            f"{WRITE_GROUPS}; without groups scores may be of people and machines that trained"
        )


def place(windows: Windows, row: int) -> str:
    """Return where a window of `Dataset.everything()` is: `valid window 3 (2026-11-02T06:00:00Z)`."""
    when = "" if windows.times is None else f" ({time_text(float(windows.times[row]))})"
    for split in SPLIT_NAMES:
        if row < windows.spec.splits[split]:
            return f"{split} window {row}{when}"
        row -= windows.spec.splits[split]
    raise AssertionError("a row beyond the last split")


def time_text(seconds: float) -> str:
    """Return UTC seconds since 1970 as text: `2026-11-02T06:00:00Z`."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pairs(windows: Windows, modality: ModalitySpec, compared: int) -> Iterator[tuple[int, int, int]]:
    heads = np.concatenate([_prints(values, compared)[:, 0] for _, values in _blocks(windows, modality, compared)])
    known, owner = np.unique(heads, return_index=True)
    for start, values in _blocks(windows, modality, None):
        prints = _prints(values, compared)[:, 1:]  # of every place but the beginning
        at = np.minimum(np.searchsorted(known, prints), len(known) - 1)
        rows, places = np.nonzero((known[at] == prints) & (prints != 0))
        tried = np.zeros(len(values), dtype=np.int64)
        for row, before in zip(rows.tolist(), places.tolist(), strict=True):
            first, second = start + row, int(owner[at[row, before]])
            if first != second and tried[row] < _MOST_CANDIDATES:
                tried[row] += 1
                if _is_shared(windows, modality, values[row], second, before + 1):
                    yield first, second, before + 1


def _blocks(windows: Windows, modality: ModalitySpec, samples: int | None) -> Iterator[tuple[int, Values]]:
    block_windows = windows_at_once(modality)
    for start in range(0, len(windows), block_windows):
        rows = windows.rows[start : start + block_windows]
        yield start, windows.source.gather(modality, rows, shift_s=None)[:, :samples]


def _sample_hashes(values: Values) -> Hashes:
    """(B, T) a hash of each sample (B, T, C) or frame (B, T, H, W, C)."""
    flat = np.ascontiguousarray(np.ma.filled(values, 0)).reshape(*values.shape[:2], -1)
    spare = -flat.shape[-1] * flat.itemsize % 4 // flat.itemsize
    bits = np.pad(flat, [(0, 0), (0, 0), (0, spare)]).view(np.uint32)  # (B, T, words)
    hashes: Hashes = np.zeros(bits.shape[:2], dtype=np.uint64)
    for word in range(bits.shape[-1]):
        hashes = (hashes ^ bits[:, :, word].astype(np.uint64)) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _prints(values: Values, compared: int) -> Hashes:
    """(B, T - compared + 1) a hash of so many samples from each on; 0 where they do not move."""
    hashes = _sample_hashes(values)
    count = values.shape[1] - compared + 1
    prints = np.zeros((len(hashes), count), dtype=np.uint64)
    moves = np.zeros((len(hashes), count), dtype=bool)
    for offset in range(compared):
        part = hashes[:, offset : offset + count]
        prints = prints * _FACTOR + part
        moves |= part != hashes[:, :count]
    return np.where(moves, prints, np.uint64(0))


def _is_shared(windows: Windows, modality: ModalitySpec, values: Values, second: int, shift: int) -> bool:
    """Whether the end of these values (T, C) is the beginning of the second window, and varied enough to tell."""
    other = np.ma.filled(windows.source.gather(modality, windows.rows[second : second + 1], shift_s=None)[0], 0)
    shared = np.ma.filled(values[shift:], 0)
    if not np.array_equal(shared, other[: len(shared)], equal_nan=modality.kind != "video"):
        return False
    if modality.kind == "video":  # frames of a camera are noisy: two that are equal, pixel by pixel, are one
        return bool((shared != shared[:1]).any())
    few = shared[:_MOST_STEPS]  # of sound that is shared, tens of thousands
    steps = np.unique(np.nan_to_num(np.diff(few, axis=0)), axis=0)
    if steps.size < _LEAST_DIFFERENT and len(few) < len(shared):
        steps = np.unique(np.nan_to_num(np.diff(shared, axis=0)), axis=0)
    return steps.size >= _LEAST_DIFFERENT
