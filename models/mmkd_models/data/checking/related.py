"""Windows that share samples, as from overlapping cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.labels import WRITE_GROUPS
from mmkd_models.data.spec import SPLIT_NAMES, Values, windows_at_once
from mmkd_models.data.windows import Rows, Windows
from mmkd_report.schema.data import Finding, FindingKind

_MAX_COMPARED = 16  # first samples of a window, searched in the others
# Distinct steps from sample to sample in the shared part: two slopes of a sensor that rounds are soon equal.
_MIN_DISTINCT = 8
_MAX_STEPS = 256  # that are compared first
_MAX_CANDIDATES = 4  # places per window compared value by value
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlaps:
    """Pairs (P,) of windows: the end of `first` is the beginning of `second`, `shift` samples later."""

    modality: ModalitySpec
    first: Rows
    second: Rows
    shift: Rows

    def describe(self, windows: Windows, index: npt.NDArray[np.bool_]) -> str:
        """Describe the first pair of the mask (P,)."""
        pair = int(np.flatnonzero(index)[0])
        first, second = describe_place(windows, int(self.first[pair])), describe_place(windows, int(self.second[pair]))
        shared = self.modality.samples - int(self.shift[pair])
        return (
            f"the last {shared} samples of {first} are the first of {second} in {self.modality.name!r} "
            f"({int(index.sum())} such in all)"
        )


def problem(kind: FindingKind, sentence: str, advice: str) -> Finding:
    """Return a finding that makes scores or students wrong."""
    return Finding(kind=kind, level="problem", sentence=sentence, advice=advice)


def note(kind: FindingKind, sentence: str, advice: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(kind=kind, level="note", sentence=sentence, advice=advice)


_CACHE: WeakKeyDictionary[Windows, Overlaps] = WeakKeyDictionary()


def find_overlaps(windows: Windows) -> Overlaps:
    """Find moving windows that share a quarter of a window or 16 samples in the largest modality."""
    if windows not in _CACHE:
        modality = max(windows.spec.modalities, key=lambda one: one.samples * len(one.channels))
        compared = min(_MAX_COMPARED, max(2, modality.samples // 4))
        pairs = list(_pairs(windows, modality, compared)) if modality.samples > compared else []
        first, second, shift = np.array(pairs, dtype=np.int64).reshape(-1, 3).T
        _CACHE[windows] = Overlaps(modality=modality, first=first, second=second, shift=shift)
    return _CACHE[windows]


def leak_findings(windows: Windows, overlaps: Overlaps) -> Iterator[Finding]:
    """Yield findings about samples shared across splits, folds or groups."""
    parts = {"splits": windows.splits}
    if windows.folds is not None and not windows.has_groups:
        parts["folds"] = windows.folds
    for name, part in parts.items():
        leak = part[overlaps.first] != part[overlaps.second]
        if leak.any():
            yield Finding(
                kind="leak",
                level="error",
                sentence=f"{overlaps.describe(windows, leak)}; {name} must not share samples",
                advice=f"{WRITE_GROUPS} and put whole groups into one of the {name}",
            )
    apart = (windows.splits[overlaps.first] == windows.splits[overlaps.second]) & (
        windows.groups[overlaps.first] != windows.groups[overlaps.second]
    )
    if windows.has_groups and apart.any():
        pair = int(np.flatnonzero(apart)[0])
        names = " and ".join(repr(windows.groups[rows[pair]].item()) for rows in (overlaps.first, overlaps.second))
        sentence = f"groups {names} share samples: {overlaps.describe(windows, apart)}"
        yield problem("leak", sentence, "give such windows one group")
    elif not windows.has_groups and windows.max_shift_s == 0 and len(overlaps.first):
        fraction = len(np.unique(np.concatenate([overlaps.first, overlaps.second]))) / len(windows)
        yield problem(
            "leak",
            f"no groups, but {fraction:.0%} of the windows share samples with others, so that scores may be of people "
            "and machines that trained",
            WRITE_GROUPS,
        )


def refuse_shared_samples(windows: Windows) -> None:
    """Raise DatasetError if windows in two splits share samples, or could be dealt into two folds."""
    for finding in leak_findings(windows, find_overlaps(windows)):
        if finding.level == "error" or windows.has_groups:
            raise DatasetError(f"dataset {windows.spec.name!r}: {finding.text}")


def describe_place(windows: Windows, row: int) -> str:
    """Return a window's place: `valid window 3 (2026-11-02T06:00:00Z)`."""
    split = SPLIT_NAMES[int(windows.splits[row])]
    number = row - int((windows.splits < windows.splits[row]).sum())
    return f"{split} window {number}" + ("" if windows.times is None else f" ({time_text(float(windows.times[row]))})")


def time_text(seconds: float, timespec: str = "seconds") -> str:
    """Format UTC seconds: `2026-11-02T06:00:00Z`."""
    moment = datetime.fromtimestamp(0, tz=timezone.utc) + timedelta(microseconds=round(seconds * 1e6))
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def _pairs(windows: Windows, modality: ModalitySpec, compared: int) -> Iterator[tuple[int, int, int]]:
    heads = np.concatenate([_prints(values, compared)[:, 0] for _, values in _blocks(windows, modality, compared)])
    known, owner = np.unique(heads, return_index=True)
    for start, values in _blocks(windows, modality, None):
        prints = _prints(values, compared)[:, 1:]  # of every place but the beginning
        at = np.minimum(np.searchsorted(known, prints), len(known) - 1)
        rows, places = np.nonzero((known[at] == prints) & (prints != 0))
        candidates = np.zeros(len(values), dtype=np.int64)
        for row, before in zip(rows.tolist(), places.tolist(), strict=True):
            first, second = start + row, int(owner[at[row, before]])
            if first != second and candidates[row] < _MAX_CANDIDATES:
                candidates[row] += 1
                if _is_shared(windows, modality, values[row], second, before + 1):
                    yield first, second, before + 1


def _blocks(windows: Windows, modality: ModalitySpec, samples: int | None) -> Iterator[tuple[int, Values]]:
    block_windows = windows_at_once(modality)
    for start in range(0, len(windows), block_windows):
        rows = windows.rows[start : start + block_windows]
        yield start, windows.source.gather(modality, rows, shift_s=None)[:, :samples]


def _prints(values: Values, compared: int) -> Hashes:
    """Hash (B, T - compared + 1) runs of samples (B, T, C) or frames (B, T, H, W, C); 0 at rest."""
    flat = np.ascontiguousarray(np.ma.filled(values, 0)).reshape(*values.shape[:2], -1)
    spare = -flat.shape[-1] * flat.itemsize % 4 // flat.itemsize
    bits = np.pad(flat, [(0, 0), (0, 0), (0, spare)]).view(np.uint32)  # (B, T, words)
    hashes: Hashes = np.zeros(bits.shape[:2], dtype=np.uint64)
    for word in range(bits.shape[-1]):
        hashes = (hashes ^ bits[:, :, word].astype(np.uint64)) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    count = values.shape[1] - compared + 1
    prints = np.zeros((len(hashes), count), dtype=np.uint64)
    moves = np.zeros((len(hashes), count), dtype=bool)
    for offset in range(compared):
        part = hashes[:, offset : offset + count]
        prints = prints * _FACTOR + part
        moves |= part != hashes[:, :count]
    return np.where(moves, prints, np.uint64(0))


def _is_shared(windows: Windows, modality: ModalitySpec, values: Values, second: int, shift: int) -> bool:
    """Return whether values (T, C) end as the second window begins, with enough variation to tell."""
    other = np.ma.filled(windows.source.gather(modality, windows.rows[second : second + 1], shift_s=None)[0], 0)
    shared = np.ma.filled(values[shift:], 0)
    if not np.array_equal(shared, other[: len(shared)], equal_nan=modality.kind != "video"):
        return False
    if modality.kind == "video":  # frames are noisy: two equal ones are one
        return bool((shared != shared[:1]).any())
    few = shared[:_MAX_STEPS]  # shared audio has tens of thousands
    steps = np.unique(np.nan_to_num(np.diff(few, axis=0)), axis=0)
    if steps.size < _MIN_DISTINCT and len(few) < len(shared):
        steps = np.unique(np.nan_to_num(np.diff(shared, axis=0)), axis=0)
    return steps.size >= _MIN_DISTINCT
