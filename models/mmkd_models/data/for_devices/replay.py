"""The recordings of a dataset as they were recorded: whole, in order, with their labels.

Where a dataset has windows alone, those in a row of one split, group, label and episode are taken as one recording, end
to end. What a window shares with the one before is left out: by their times, or where there are none by equal samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.related import overlaps_of
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.files import RECORDINGS
from mmkd_models.data.kinds import decoded
from mmkd_models.data.sources import Floats, first_sample
from mmkd_models.data.spec import SPLIT_NAMES, SplitName
from mmkd_models.data.windows import Windows


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """One recording of one modality.

    Attributes:
        rows: float32 (n, C), NaN = missing.
        name: `recording 3`, or `windows 3 to 9`, counted from 0.
        label: name of its class; of other tasks, and where nobody knows, empty.
        group: whom it is of; empty where the dataset has no groups.
        split: train, valid or test.
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
    shared = overlaps_of(windows)
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
