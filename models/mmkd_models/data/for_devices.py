"""References of groups and whole recordings, for devices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, ReplayedRecording
from mmkd_models.data.checking.related import file_and_time, file_starts, find_overlaps
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.files import RECORDINGS, is_cut
from mmkd_models.data.spec import SPLIT_NAMES, decode_samples
from mmkd_models.data.windows import first_sample, mean_and_std, raw_values


@dataclass(frozen=True, kw_only=True)
class MeasuredReference:
    """A reference and its windows."""

    reference: Reference
    group: int | str
    windows: int
    windows_in_group: int


def measure_reference(
    dataset: Dataset, *, modality: str, group: int | str | None = None, seconds: float | None = None
) -> MeasuredReference:
    """Measure mean and std over a group or the first `seconds`. Raise UsageError without values."""
    spec = dataset.spec.modality(modality)
    modality = spec.name
    if spec.normalise != "per_group":
        raise UsageError(
            f"modality {modality!r}: expected one that is normalised per group, got one that takes raw values;"
            " it needs no reference"
        )
    if seconds is not None and not seconds > 0:
        raise UsageError(f"reference: expected seconds above 0, got {seconds:g}; take more seconds")
    windows = dataset.everything()
    names: list[int | str] = np.unique(windows.groups).tolist()
    chosen = next((name for name in names if str(name) == str(group) or (group is None and len(names) == 1)), None)
    if chosen is None:
        shown = ", ".join(map(str, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        got = f"got none and the dataset has {len(names)}" if group is None else f"got {group}, which is unknown"
        raise UsageError(f"group: expected one of the dataset, {got}; choose one of {shown}")
    rows = windows.rows[windows.groups == chosen]
    count = len(rows)
    if seconds is not None:
        hop_s = 2 * windows.max_shift_s or spec.duration_s
        count = min(count, 1 + math.ceil(max(0.0, seconds - spec.duration_s) / hop_s))
    values = raw_values(windows, modality=spec, rows=rows[:count])
    if np.isnan(values).all(axis=0).any():
        raise UsageError(
            f"modality {modality!r}: a channel has no valid value in the first {count} windows of group {chosen};"
            " take more seconds or another group"
        )
    mean, std = mean_and_std(values)
    reference = Reference(modality=modality, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return MeasuredReference(reference=reference, group=chosen, windows=count, windows_in_group=len(rows))


def read_recordings(path: str | Path, modality: ModalitySpec) -> list[ReplayedRecording]:
    """Return a student's recordings, named `recording 3` or `windows 3 to 9`. Raise UsageError if none fits."""
    dataset = open_dataset(path)
    stored = dataset.spec.modality(modality.name)
    if stored.sources:
        recorded = stored.recorded.name
        got = f"one derived from {recorded!r}; add --modality {recorded}"
        got = "two joined; write the channels of both into one CSV file" if stored.parts else got
        raise UsageError(f"{path}: modality {stored.title!r}: expected a recorded one to replay, got {got}")
    if stored.kind == "video":
        raise UsageError(
            f"{path}: modality {modality.name!r}: expected a series or sound, got video; replay a dataset without it"
        )
    if stored.rate_hz != modality.rate_hz or not set(modality.channels) <= set(stored.channels):
        raise UsageError(
            f"{path}: modality {modality.name!r}: expected {', '.join(modality.channels)} at {modality.rate_hz:g} Hz, "
            f"got {', '.join(stored.channels)} at {stored.rate_hz:g} Hz; import it like the student's data"
        )
    order = [stored.channels.index(name) for name in modality.channels]
    read = _read_recordings if is_cut(dataset.arrays) else _join_windows
    return list(read(dataset, stored, order))


def _read_recordings(dataset: Dataset, modality: ModalitySpec, order: list[int]) -> Iterator[ReplayedRecording]:
    assert dataset.spec.recordings is not None
    arrays = {name.removeprefix(f"{RECORDINGS}/").removesuffix(".npy"): array for name, array in dataset.arrays.items()}
    column = [spec.name for spec in dataset.spec.modalities].index(modality.name)
    lengths = arrays["lengths"][:, column].astype(np.int64)
    scale = dataset.spec.recordings.scale.get(modality.name)
    factors = None if scale is None else np.array(scale, dtype=np.float32)
    groups = arrays.get("groups")
    for number, (end, length) in enumerate(zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True)):
        stored = np.asarray(arrays[modality.name][end - length : end])
        yield ReplayedRecording(
            rows=decode_samples(stored, kind=modality.kind, scale=factors)[:, order],
            name=f"recording {number}",
            label=_label(dataset, arrays["labels"][number]),
            group="" if groups is None else str(groups[number]),
            split=SPLIT_NAMES[int(arrays["splits"][number])],
        )


def _join_windows(dataset: Dataset, modality: ModalitySpec, order: list[int]) -> Iterator[ReplayedRecording]:
    """Join consecutive windows of one split, group, label and episode; shared samples come once."""
    windows = dataset.everything()
    starts_s = windows.clock_s
    if starts_s is None:
        overlaps, steps_s = find_overlaps(windows), np.zeros(len(windows))
        follows = overlaps.second == overlaps.first + 1
        steps_s[overlaps.second[follows]] = overlaps.shift[follows] / overlaps.modality.rate_hz
        starts_s = np.cumsum(steps_s)

    def run_key(number: int) -> tuple[str, ...]:
        episode = "" if windows.episodes is None else str(windows.episodes[number])
        return tuple(map(str, (windows.splits[number], windows.groups[number], windows.labels[number], episode)))

    for _, numbers in itertools.groupby(range(len(windows)), key=run_key):
        run = list(numbers)
        values = windows.source.gather(modality, windows.rows[run], shift_s=None)  # (B, T, C)
        steps = np.diff(first_sample(starts_s[run] - starts_s[run[0]], modality.rate_hz))
        new = np.where((steps > 0) & (steps < modality.samples), steps, modality.samples)
        end_s = float(starts_s[run[-1]]) + modality.duration_s
        is_named = file_starts(windows) is not None
        parts = [window[modality.samples - count :] for window, count in zip(values[1:], new.tolist(), strict=True)]
        yield ReplayedRecording(
            rows=np.concatenate([values[0], *parts])[:, order],
            name=file_and_time(windows, run[0], float(starts_s[run[0]]), end_s)
            if is_named
            else f"windows {run[0]} to {run[-1]}",
            label=_label(dataset, windows.labels[run[0]]),
            group=str(windows.groups[run[0]]) if windows.has_groups else "",
            split=SPLIT_NAMES[int(windows.splits[run[0]])],
        )


def _label(dataset: Dataset, label: Any) -> str:
    is_known = dataset.spec.task.kind in ("classification", "normal") and int(label) >= 0
    return dataset.spec.task.labels[int(label)] if is_known else ""
