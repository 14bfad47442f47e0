"""What a device takes from a dataset: the reference of a group, and recordings as they were recorded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.related import find_overlaps
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.files import RECORDINGS
from mmkd_models.data.kinds import decoded
from mmkd_models.data.sources import Floats, first_sample
from mmkd_models.data.spec import SPLIT_NAMES, SplitName
from mmkd_models.data.windows import Windows, mean_and_std, raw_values


@dataclass(frozen=True, kw_only=True)
class MeasuredReference:
    """A reference and what it was measured on."""

    reference: Reference
    group: int | str
    windows: int
    windows_in_group: int


def measure_reference(
    dataset: Dataset,
    *,
    modality: str,
    group: int | str | None = None,
    windows: int | None = None,
    seconds: float | None = None,
) -> MeasuredReference:
    """Measure mean and standard deviation over the first windows of a group, in the order of the dataset.

    Args:
        group: whose windows, a number also as text; None if the dataset has one group only.
        seconds: instead of `windows`: as many as cover this time. Ready windows are counted as if they did not overlap.

    Raise UsageError if the modality takes raw values, the group is not there or not named, or has no valid value.
    """
    spec = dataset.spec.modality(modality)
    if spec.normalise != "per_group":
        raise UsageError(
            f"modality {modality!r}: expected one that is normalised per group, got one that takes raw values;"
            " it needs no reference"
        )
    everything = dataset.everything()
    chosen = _group(dataset, group)
    rows = everything.rows[everything.groups == chosen]
    count = _count(dataset, modality=modality, windows=windows, seconds=seconds, available=len(rows))
    values = raw_values(everything, modality=spec, rows=rows[:count])
    if np.isnan(values).all(axis=0).any():
        raise UsageError(
            f"modality {modality!r}: a channel has no valid value in the first {count} windows of group {chosen};"
            " take more windows or another group"
        )
    mean, std = mean_and_std(values)
    reference = Reference(modality=modality, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return MeasuredReference(reference=reference, group=chosen, windows=count, windows_in_group=len(rows))


def _group(dataset: Dataset, group: int | str | None) -> int | str:
    names: list[int | str] = np.unique(dataset.everything().groups).tolist()
    shown = ", ".join(str(name) for name in names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if group is None and len(names) == 1:
        return names[0]
    if group is None:
        raise UsageError(f"group: expected one, got none and the dataset has {len(names)}; choose one of {shown}")
    for name in names:
        if str(name) == str(group):
            return name
    raise UsageError(f"group {group}: the dataset has no such group; choose one of {shown}")


def _count(dataset: Dataset, *, modality: str, windows: int | None, seconds: float | None, available: int) -> int:
    if windows is not None and seconds is not None:
        raise UsageError(f"expected a number of windows or of seconds, got both ({windows}, {seconds:g}); give one")
    if windows is None and seconds is None:
        return available
    if windows is not None:
        wanted = windows
    else:
        assert seconds is not None  # the two cases above
        length_s = dataset.spec.modality(modality).duration_s
        hop_s = 2 * dataset.everything().max_shift_s or length_s
        wanted = 1 + math.ceil(max(0.0, seconds - length_s) / hop_s) if seconds > 0 else 0
    if wanted < 1:
        raise UsageError(f"reference: expected one window or more, got {wanted}; ask for more windows or seconds")
    return min(wanted, available)


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """One recording of one modality.

    Attributes:
        rows: float32 (n, C), NaN = missing.
        name: `recording 3`, or `windows 3 to 9`, counted from 0.
    """

    rows: Floats
    name: str
    label: str
    group: str
    split: SplitName


def replayed(path: str | Path, modality: ModalitySpec) -> list[Replayed]:
    """Return the recordings of a dataset for the modality of a student, channels in the student's order.

    Raises:
        DatasetError: it is no dataset.
        UsageError: it has no such modality, as video, at another rate, or without one of the channels.
    """
    dataset = open_dataset(path)
    here = dataset.spec.modality(modality.name)
    if here.kind == "video":
        raise UsageError(
            f"{path}: modality {modality.name!r}: expected a series or sound, got video; replay a dataset without it"
        )
    lacking = [name for name in modality.channels if name not in here.channels]
    if lacking or here.rate_hz != modality.rate_hz:
        raise UsageError(
            f"{path}: modality {modality.name!r}: expected {', '.join(modality.channels)} at {modality.rate_hz:g} Hz, "
            f"got {', '.join(here.channels)} at {here.rate_hz:g} Hz; import it like the student's data"
        )
    order = [here.channels.index(name) for name in modality.channels]
    cut = f"{RECORDINGS}/lengths.npy" in dataset.arrays
    return list(_recordings(dataset, here, order) if cut else _windows(dataset, here, order))


def _recordings(dataset: Dataset, modality: ModalitySpec, order: list[int]) -> Iterator[Replayed]:
    assert dataset.spec.recordings is not None
    column = [one.name for one in dataset.spec.modalities].index(modality.name)
    lengths = np.asarray(dataset.arrays[f"{RECORDINGS}/lengths.npy"])[:, column].astype(np.int64)
    ends = np.cumsum(lengths)
    samples = dataset.arrays[f"{RECORDINGS}/{modality.name}.npy"]
    labels, groups = (dataset.arrays.get(f"{RECORDINGS}/{name}.npy") for name in ("labels", "groups"))
    splits = dataset.arrays[f"{RECORDINGS}/splits.npy"]
    scale = dataset.spec.recordings.scale.get(modality.name)
    worth = None if scale is None else np.array(scale, dtype=np.float32)
    for number, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        yield Replayed(
            rows=decoded(np.asarray(samples[end - length : end]), kind=modality.kind, scale=worth)[:, order],
            name=f"recording {number}",
            label=_label(dataset, None if labels is None else labels[number]),
            group="" if groups is None else str(groups[number]),
            split=SPLIT_NAMES[int(splits[number])],
        )


def _windows(dataset: Dataset, modality: ModalitySpec, order: list[int]) -> Iterator[Replayed]:
    windows = dataset.everything()
    starts_s = np.cumsum(_shared_steps_s(windows)) if windows.times is None else windows.times

    def kind(number: int) -> tuple[str, ...]:
        episode = "" if windows.episodes is None else str(windows.episodes[number])
        facts = (windows.splits[number], windows.groups[number], windows.labels[number], episode)
        return tuple(str(fact) for fact in facts)

    for _, numbers in itertools.groupby(range(len(windows)), key=kind):
        run = list(numbers)
        values = windows.source.gather(modality, windows.rows[run], shift_s=None)  # (B, T, C)
        steps = np.diff(first_sample(starts_s[run] - starts_s[run[0]], modality.rate_hz))
        yield Replayed(
            rows=np.concatenate(_new_samples(values, steps))[:, order],
            name=f"windows {run[0]} to {run[-1]}",
            label=_label(dataset, windows.labels[run[0]]),
            group=str(windows.groups[run[0]]) if windows.has_groups else "",
            split=SPLIT_NAMES[int(windows.splits[run[0]])],
        )


def _shared_steps_s(windows: Windows) -> npt.NDArray[np.float64]:
    """(N,) seconds from the start of the window before to that of each, by the samples they share; 0 where none."""
    steps_s = np.zeros(len(windows))
    shared = find_overlaps(windows)
    next_ones = shared.second == shared.first + 1
    steps_s[shared.second[next_ones]] = shared.shift[next_ones] / shared.modality.rate_hz
    return steps_s


def _new_samples(values: Floats, steps: npt.NDArray[np.int64]) -> list[Floats]:
    """Return of each window (B, T, C) the samples that the one before, so many steps (B - 1,) ago, does not have."""
    samples = values.shape[1]
    new = np.where((steps > 0) & (steps < samples), steps, samples)
    return [values[0], *(window[samples - count :] for window, count in zip(values[1:], new.tolist(), strict=True))]


def _label(dataset: Dataset, label: Any) -> str:
    is_known = dataset.spec.task.kind == "classification" and label is not None and int(label) >= 0
    return dataset.spec.task.labels[int(label)] if is_known else ""
