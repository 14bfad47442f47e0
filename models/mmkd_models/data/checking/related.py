"""Windows that share samples, as from overlapping cuts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mmkd_documents.data import Finding, FindingKind
from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.labels import WRITE_GROUPS
from mmkd_models.data.spec import SPLIT_NAMES, Values
from mmkd_models.data.windows import Rows, Windows, raw_blocks

_MAX_COMPARED = 16  # first samples of a window, searched in the others
# Distinct steps from sample to sample in the shared part: two slopes of a sensor that rounds are soon equal.
_MIN_DISTINCT = 8
_MAX_STEPS = 256  # that are compared first
_MAX_NAMED = 3  # sections
_DROP_COPIES = "set drop_copies = true under [split] of the recipe, give both one group, or leave one file out"
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

    @property
    def period_s(self) -> float:
        """Time between two samples."""
        return 1 / self.modality.rate_hz

    @property
    def length_s(self) -> npt.NDArray[np.float64]:
        """Time (P,) that each pair shares."""
        return np.asarray((self.modality.samples - self.shift) * self.period_s, dtype=np.float64)

    def with_equal(self, windows: Windows, digests: Sequence[bytes]) -> Overlaps:
        """Add each window that equals another, with the first such one of the highest split."""
        owners: dict[bytes, int] = {}
        for row in np.argsort(-windows.splits, kind="stable").tolist():
            owners.setdefault(digests[row], row)
        equal = [(owners[digest], row) for row, digest in enumerate(digests) if digest and owners[digest] != row]
        first, second = np.array(equal, dtype=np.int64).reshape(-1, 2).T
        return replace(
            self,
            first=np.concatenate([self.first, first]),
            second=np.concatenate([self.second, second]),
            shift=np.concatenate([self.shift, np.zeros_like(first)]),
        )

    def sections(self, windows: Windows, index: npt.NDArray[np.bool_]) -> Iterator[tuple[str, Rows]]:
        """Yield the sections that two files of the mask (P,) share and their pairs; the longest section first."""
        starts = file_starts(windows)
        if starts is None or windows.episodes is None:
            return
        period_s, pairs = self.period_s, np.flatnonzero(index)
        rows = np.stack([self.first[pairs], self.second[pairs]])
        begins = np.stack([starts[rows[0]] + self.shift[pairs] * period_s, starts[rows[1]]])
        order = np.argsort(windows.episodes[rows], axis=0, kind="stable")
        rows, begins = (np.take_along_axis(values, order, axis=0) for values in (rows, begins))
        episodes, offsets = windows.episodes[rows], begins[1] - begins[0]
        known = (episodes[0] != episodes[1]) | (np.abs(offsets) > period_s)
        ordered = np.lexsort((offsets, episodes[1], episodes[0]))
        ordered = ordered[known[ordered]]
        is_new = (np.diff(episodes[:, ordered], axis=1) != 0).any(axis=0) | (np.diff(offsets[ordered]) > period_s)
        parts = np.split(ordered, np.flatnonzero(is_new) + 1) if len(ordered) else []
        for part in sorted(parts, key=len, reverse=True):
            lengths = self.length_s[pairs[part]]
            sides = []
            for row, begin in zip(rows[:, part], begins[:, part], strict=True):
                place = file_and_time(windows, int(row[0]), float(begin.min()), float((begin + lengths).max()))
                splits = " and ".join(SPLIT_NAMES[split] for split in np.unique(windows.splits[row]).tolist())
                sides.append(f"{place} ({splits})")
            yield " equals ".join(sides), pairs[part]

    def describe(self, windows: Windows, index: npt.NDArray[np.bool_]) -> str:
        """Describe the sections or the first pair of the mask (P,)."""
        if texts := [text for text, _ in self.sections(windows, index)]:
            more = f", and {len(texts) - _MAX_NAMED} more such sections" if len(texts) > _MAX_NAMED else ""
            return ", ".join(texts[:_MAX_NAMED]) + more
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


def list_first(values: Sequence[Any]) -> str:
    """Return `a, b, c and 4 more`."""
    more = f" and {len(values) - _MAX_NAMED} more" if len(values) > _MAX_NAMED else ""
    return ", ".join(map(str, values[:_MAX_NAMED])) + more


def exclude_text(file: str) -> str:
    """Return how a recipe leaves a file out, with the place where TOML takes the key."""
    return f"exclude = {json.dumps([file], ensure_ascii=False)} below version = 1"


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
    parts, unnamed = {"splits": windows.splits}, file_starts(windows) is None
    if windows.folds is not None and not windows.has_groups:
        parts["folds"] = windows.folds
    for name, part in parts.items():
        leak = part[overlaps.first] != part[overlaps.second]
        if leak.any():
            yield Finding(
                kind="leak",
                level="error",
                sentence=f"{overlaps.describe(windows, leak)}; {name} must not share samples",
                advice=f"{WRITE_GROUPS}, so that whole groups are in one of the {name}" if unnamed else _DROP_COPIES,
            )
    apart = (windows.splits[overlaps.first] == windows.splits[overlaps.second]) & (
        windows.groups[overlaps.first] != windows.groups[overlaps.second]
    )
    if windows.has_groups and apart.any():
        pair = int(np.flatnonzero(apart)[0])
        names = " and ".join(repr(windows.groups[rows[pair]].item()) for rows in (overlaps.first, overlaps.second))
        sentence = f"groups {names} share samples: {overlaps.describe(windows, apart)}"
        yield problem("leak", sentence, "give such windows one group" if unnamed else _DROP_COPIES)
    elif not windows.has_groups and windows.max_shift_s == 0:
        pairs = np.stack([overlaps.first, overlaps.second])
        if not unnamed:  # an import keeps the splits of one recording apart, however its windows overlap
            assert windows.episodes is not None  # `file_starts`
            pairs = pairs[:, windows.episodes[pairs[0]] != windows.episodes[pairs[1]]]
        if pairs.size:
            yield problem(
                "leak",
                f"no groups, but {len(np.unique(pairs)) / len(windows):.0%} of the windows share samples with others, "
                "so that scores may be of groups that trained",
                WRITE_GROUPS,
            )


def label_conflicts(windows: Windows, overlaps: Overlaps) -> Iterator[Finding]:
    """Yield sections that two files share under different labels."""
    both, count = windows.labelled[overlaps.first] & windows.labelled[overlaps.second], 0
    for text, pairs in overlaps.sections(windows, both):
        pairs = pairs[overlaps.shift[pairs] == overlaps.shift[pairs].min()]  # the windows that are most alike
        labels = [windows.labels[rows[pairs]] for rows in (overlaps.first, overlaps.second)]
        differ = (labels[0] != labels[1]).reshape(len(pairs), -1).any(axis=1)
        count += bool(differ.any())
        if differ.any() and count <= _MAX_NAMED:
            sentence = f"{text}, but {differ.mean():.0%} of the {len(pairs)} windows in it have different labels"
            assert windows.spec.episodes  # as sections have names
            assert windows.episodes is not None
            rows = [overlaps.first[pairs[0]], overlaps.second[pairs[0]]]
            out = windows.spec.episodes[int(windows.episodes[rows].max())]
            yield problem("labels", sentence, f"correct the labels, or leave one file out: {exclude_text(out)}")
    if count > _MAX_NAMED:
        sentence = f"{count} sections that two files share have different labels, the first {_MAX_NAMED} are named"
        yield problem("labels", sentence, "correct the labels, or leave files out")


def refuse_shared_samples(windows: Windows) -> None:
    """Raise DatasetError if windows in two splits share samples, or could be dealt into two folds."""
    for finding in leak_findings(windows, find_overlaps(windows)):
        if finding.level == "error" or windows.has_groups:
            raise DatasetError(f"dataset {windows.spec.name!r}: {finding.text}")


def describe_place(windows: Windows, row: int) -> str:
    """Return a window's place: `press/07.csv 2026-11-02T06:00:00Z to 06:00:04Z (valid)`, or `valid window 3`."""
    split = SPLIT_NAMES[int(windows.splits[row])]
    if (starts := file_starts(windows)) is not None:
        begin = float(starts[row])
        end = begin + max(modality.duration_s for modality in windows.spec.modalities)
        return f"{file_and_time(windows, row, begin, end)} ({split})"
    number = row - int((windows.splits < windows.splits[row]).sum())
    return f"{split} window {number}" + ("" if windows.times is None else f" ({time_text(float(windows.times[row]))})")


def file_starts(windows: Windows) -> npt.NDArray[np.float64] | None:
    """Return the start (N,) of each window in its file, in seconds; None if files or times are unknown."""
    return windows.clock_s if windows.episodes is not None and windows.spec.episodes else None


def file_and_time(windows: Windows, row: int, begin: float, end: float) -> str:
    """Return the file of a window and a time there: UTC, or seconds of the file's own clock."""
    assert windows.spec.episodes  # `file_starts`
    assert windows.episodes is not None
    if windows.times is None:
        times = f"{begin:.10g} to {end:.10g} s"
    else:
        spec = "milliseconds" if any(abs(time - round(time)) >= 1e-3 for time in (begin, end)) else "seconds"
        first, last = (time_text(time, spec) for time in (begin, end))
        times = f"{first} to {last.partition('T')[2] if first[:10] == last[:10] else last}"
    return f"{windows.spec.episodes[int(windows.episodes[row])]} {times}"


def time_text(seconds: float, timespec: str = "seconds") -> str:
    """Format UTC seconds: `2026-11-02T06:00:00Z`."""
    moment = datetime.fromtimestamp(0, tz=timezone.utc) + timedelta(microseconds=round(seconds * 1e6))
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def _pairs(windows: Windows, modality: ModalitySpec, compared: int) -> Iterator[tuple[int, int, int]]:
    heads = [_prints(values[:, :compared], compared)[:, 0] for values in raw_blocks(windows, modality)]
    known, owner = np.unique(np.concatenate(heads), return_index=True)
    start = 0
    for values in raw_blocks(windows, modality):
        prints = _prints(values, compared)[:, 1:]  # of every place but the beginning
        at = np.minimum(np.searchsorted(known, prints), len(known) - 1)
        is_other = owner[at] != start + np.arange(len(values))[:, None]
        is_match = (known[at] == prints) & (prints != 0) & is_other
        rows, places = np.nonzero(is_match & (np.cumsum(is_match, axis=1) <= _MAX_CANDIDATES))
        for row, before in zip(rows.tolist(), places.tolist(), strict=True):
            first, second = start + row, int(owner[at[row, before]])
            if _is_shared(windows, modality, values[row], second, before + 1):
                yield first, second, before + 1
        start += len(values)


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
    if len({*np.nan_to_num(np.diff(few[: 2 * _MIN_DISTINCT, 0])).tolist()}) >= _MIN_DISTINCT:
        return True
    steps = np.unique(np.nan_to_num(np.diff(few, axis=0)), axis=0)
    if steps.size < _MIN_DISTINCT and len(few) < len(shared):
        steps = np.unique(np.nan_to_num(np.diff(shared, axis=0)), axis=0)
    return steps.size >= _MIN_DISTINCT
