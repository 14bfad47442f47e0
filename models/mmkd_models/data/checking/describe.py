"""What a dataset holds, as facts: for the table of `mmkd-data describe` and its JSON."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.checking.check import split_numbers, times_text
from mmkd_models.data.checking.scan import ModalityScan, scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import RECORDINGS, is_cut_from_recordings
from mmkd_models.data.sources import Rows
from mmkd_models.data.spec import SPLIT_NAMES, SplitName
from mmkd_models.data.windows import Windows, split_facts
from mmkd_report.schema.figures import Split


@dataclass(frozen=True, kw_only=True)
class ModalityFacts:
    """One modality.

    Attributes:
        missing_share: by split, share of values that are NaN, infinite or out of range, from 0 to 1; of video share of
            frames that are missing.
        dead_share: by split, share of windows without any valid value, from 0 to 1.
        low: the smallest value of each channel in the unit, None where there is none.
    """

    spec: ModalitySpec
    duration_s: float
    missing_share: dict[SplitName, float]
    dead_share: dict[SplitName, float]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """The target of a regression in the labelled windows of one split, in its unit; None if none is labelled."""

    low: float | None
    mean: float | None
    std: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """One split.

    Attributes:
        classes: windows of each class, or in which each label is on; empty of a regression.
        target: of a regression; unset of other tasks.
    """

    windows: int
    groups: int | None
    unlabelled: int
    classes: dict[str, int]
    target: TargetFacts | msgspec.UnsetType


@dataclass(frozen=True, kw_only=True)
class RecordingFacts:
    """The recordings that windows are cut from: how many, how long altogether, and the hop between windows."""

    count: int
    total_s: float
    hop_s: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """A dataset in numbers.

    Attributes:
        times: the first and the last start of a window in words, empty where nobody knows.
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
    """Count what the dataset holds; reads every value once."""
    windows = dataset.everything()
    split_of = split_numbers(dataset.spec)
    scan = scan_windows(windows)
    folds = None if windows.folds is None else np.unique(windows.folds, return_counts=True)
    return Description(
        name=dataset.spec.name,
        path=str(dataset.path),
        sha256=dataset.sha256,
        task=dataset.spec.task,
        source=dataset.spec.source,
        licence=dataset.spec.licence,
        splits={split: _split_facts(windows.subset(split_of == number)) for number, split in enumerate(SPLIT_NAMES)},
        modalities=tuple(
            _modality_facts(modality, scan.modalities[modality.name], split_of) for modality in dataset.spec.modalities
        ),
        groups=windows.group_count if windows.has_groups else None,
        split=split_facts(windows),
        folds=None if folds is None else {str(name): int(count) for name, count in zip(*folds, strict=True)},
        recordings=_recording_facts(dataset),
        metadata={name: len(np.unique(values)) for name, values in windows.metadata.items()},
        times="" if windows.times is None else times_text(windows.times),
        episodes=None if windows.episodes is None else len(np.unique(windows.episodes)),
    )


def _split_facts(windows: Windows) -> PartFacts:
    return PartFacts(
        windows=len(windows),
        groups=windows.group_count if windows.has_groups else None,
        unlabelled=int((~windows.labelled).sum()),
        classes=_class_counts(windows),
        target=_target_facts(windows) if windows.spec.task.kind == "regression" else msgspec.UNSET,
    )


def _class_counts(windows: Windows) -> dict[str, int]:
    task, labels = windows.spec.task, windows.labels
    match task.kind:
        case "classification":
            return {name: int((labels == number).sum()) for number, name in enumerate(task.labels)}
        case "multi_label":
            return {name: int((labels[:, number] == 1).sum()) for number, name in enumerate(task.labels)}
        case "regression":
            return {}


def _target_facts(windows: Windows) -> TargetFacts:
    known = windows.labels[windows.labelled].astype(np.float64)
    if len(known) == 0:
        return TargetFacts(low=None, mean=None, std=None, high=None)
    return TargetFacts(
        low=float(known.min()), mean=float(known.mean()), std=float(known.std()), high=float(known.max())
    )


def _modality_facts(modality: ModalitySpec, found: ModalityScan, split_of: Rows) -> ModalityFacts:
    masks = {split: split_of == number for number, split in enumerate(SPLIT_NAMES)}
    return ModalityFacts(
        spec=modality,
        duration_s=modality.duration_s,
        missing_share={split: float(found.unusable[mask].mean()) / found.values for split, mask in masks.items()},
        dead_share={split: float((found.unusable[mask] == found.values).mean()) for split, mask in masks.items()},
        low=tuple(None if np.isnan(value) else float(value) for value in found.low),
        high=tuple(None if np.isnan(value) else float(value) for value in found.high),
    )


def _recording_facts(dataset: Dataset) -> RecordingFacts | None:
    recordings = dataset.spec.recordings
    if recordings is None or not is_cut_from_recordings(dataset.path, dataset.spec):
        return None
    lengths = dataset.arrays[f"{RECORDINGS}/lengths.npy"]
    rates = np.array([modality.rate_hz for modality in dataset.spec.modalities])
    return RecordingFacts(
        count=len(lengths), total_s=float((lengths / rates).max(axis=1).sum()), hop_s=recordings.hop_s
    )
