"""What a dataset contains, as facts: for the table of `mmkd-data describe` and its JSON."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.data.checking.related import time_text
from mmkd_models.data.checking.scan import ModalityScan, scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import RECORDINGS
from mmkd_models.data.spec import SPLIT_NAMES, SplitName
from mmkd_models.data.windows import Windows, split_facts
from mmkd_report.schema.figures import Split


@dataclass(frozen=True, kw_only=True)
class ModalityFacts:
    """One modality.

    Attributes:
        missing: by split, fraction of the samples that are NaN, infinite or out of range.
        absent: by split, fraction of the windows without any valid value.
        low: smallest value of each channel in the unit, None if there is none; of video its mean brightness.
    """

    spec: ModalitySpec
    duration_s: float
    missing: dict[SplitName, float]
    absent: dict[SplitName, float]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """One split.

    Attributes:
        classes: windows of each class, or in which each label is on; empty of a regression.
        target: low, mean, std and high of a regression's labels in their unit; empty if none is labelled.
    """

    windows: int
    groups: int | None
    unlabelled: int
    classes: dict[str, int]
    target: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RecordingFacts:
    """The recordings that windows are cut from."""

    count: int
    total_s: float
    hop_s: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """A dataset in numbers.

    Attributes:
        metadata: number of values by name.
        times: first and last start of a window; empty if the dataset has no times.
    """

    name: str
    path: str
    sha256: str
    task: TaskSpec
    source: str
    licence: str
    splits: dict[SplitName, PartFacts]
    modalities: tuple[ModalityFacts, ...]
    groups: int | None
    split: Split
    folds: dict[str, int] | None
    recordings: RecordingFacts | None
    metadata: dict[str, int]
    times: str
    episodes: int | None


def describe_dataset(dataset: Dataset) -> Description:
    """Count what the dataset contains; reads every value once."""
    windows = dataset.everything()
    scan = scan_windows(windows)
    folds = None if windows.folds is None else np.unique(windows.folds, return_counts=True)
    return Description(
        name=dataset.spec.name,
        path=str(dataset.path),
        sha256=dataset.sha256,
        task=dataset.spec.task,
        source=dataset.spec.source,
        licence=dataset.spec.licence,
        splits={
            split: _part_facts(windows.subset(windows.splits == number)) for number, split in enumerate(SPLIT_NAMES)
        },
        modalities=tuple(
            _modality_facts(windows, modality, scan.modalities[modality.name]) for modality in dataset.spec.modalities
        ),
        groups=windows.group_count if windows.has_groups else None,
        split=split_facts(windows),
        folds=None if folds is None else {str(name): int(count) for name, count in zip(*folds, strict=True)},
        recordings=_recording_facts(dataset),
        metadata={name: len(np.unique(values)) for name, values in windows.metadata.items()},
        times=times_text(windows),
        episodes=None if windows.episodes is None else len(np.unique(windows.episodes)),
    )


def headline(windows: Windows) -> str:
    """Return how many windows, classes, groups and folds a dataset has, in a line."""
    task = windows.spec.task
    noun = {"classification": "classes", "multi_label": "labels"}
    parts = [f"{windows.spec.name}: {len(windows)} windows"]
    parts.append(f"{len(task.labels)} {noun[task.kind]}" if task.kind in noun else task_text(task))
    parts.append(f"{windows.group_count or 'no'} groups")
    return ", ".join(parts + ([] if windows.folds is None else [f"{len(np.unique(windows.folds))} folds"]))


def times_text(windows: Windows) -> str:
    """Return first and last start of a window, `2026-11-02T06:00:00Z to 2026-11-06T21:59:58Z`; empty without times."""
    times = windows.times
    return "" if times is None else f"{time_text(float(times.min()))} to {time_text(float(times.max()))}"


def _part_facts(windows: Windows) -> PartFacts:
    task, labels = windows.spec.task, windows.labels[windows.labelled]
    counts: list[int] = []
    target: dict[str, float] = {}
    if task.kind == "regression":
        if len(labels):
            known = labels.astype(np.float64)
            figures = known.min(), known.mean(), known.std(), known.max()
            target = dict(zip(("low", "mean", "std", "high"), map(float, figures), strict=True))
    elif task.kind == "multi_label":
        counts = labels.sum(axis=0, dtype=np.int64).tolist()
    else:
        counts = np.bincount(labels, minlength=len(task.labels)).tolist()
    return PartFacts(
        windows=len(windows),
        groups=windows.group_count if windows.has_groups else None,
        unlabelled=len(windows) - len(labels),
        classes=dict(zip(task.labels, counts, strict=True)) if counts else {},
        target=target,
    )


def _modality_facts(windows: Windows, modality: ModalitySpec, figures: ModalityScan) -> ModalityFacts:
    masks = {split: windows.splits == number for number, split in enumerate(SPLIT_NAMES)}
    return ModalityFacts(
        spec=modality,
        duration_s=modality.duration_s,
        missing={split: float(figures.missing[mask].mean()) for split, mask in masks.items()},
        absent={split: float(figures.absent[mask].mean()) for split, mask in masks.items()},
        low=tuple(None if np.isnan(value) else float(value) for value in figures.lowest),
        high=tuple(None if np.isnan(value) else float(value) for value in figures.highest),
    )


def _recording_facts(dataset: Dataset) -> RecordingFacts | None:
    lengths = dataset.arrays.get(f"{RECORDINGS}/lengths.npy")
    if lengths is None or dataset.spec.recordings is None:
        return None
    rates = np.array([modality.rate_hz for modality in dataset.spec.modalities])
    total_s = float((lengths / rates).max(axis=1).sum())
    return RecordingFacts(count=len(lengths), total_s=total_s, hop_s=dataset.spec.recordings.hop_s)
