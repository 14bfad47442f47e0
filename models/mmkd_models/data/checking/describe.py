"""Facts for `mmkd-data describe` and the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmkd_documents.data import ChannelFacts, SplitFacts
from mmkd_edge.spec import TaskKind, task_text
from mmkd_models.data.checking.findings import is_continuous
from mmkd_models.data.checking.related import time_text
from mmkd_models.data.checking.scan import Scan, scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.labels import name_strata
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Windows, split_facts


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return all facts of a dataset by name; reads every value once."""
    windows, spec = dataset.everything(), dataset.spec
    folds, counts = np.unique([] if windows.folds is None else windows.folds, return_counts=True)
    return {
        "name": spec.name,
        "path": str(dataset.path),
        "sha256": dataset.sha256,
        "task": spec.task,
        "source": spec.source,
        "licence": spec.licence,
        "modalities": spec.modalities,
        "derived": spec.derived or (),
        "splits": list(count_splits(windows)),
        "channels": list(describe_channels(scan_windows(windows))),
        "split": split_facts(windows),
        "folds": {str(fold): int(count) for fold, count in zip(folds.tolist(), counts.tolist(), strict=True)},
        "hop_s": None if spec.recordings is None else spec.recordings.hop_s,
        "metadata": {name: len(np.unique(values)) for name, values in windows.metadata.items()},
        "times": times_text(windows),
    }


def headline(windows: Windows) -> str:
    """Return the number of windows, classes, groups and folds as text."""
    task = windows.spec.task
    noun: dict[TaskKind, str] = {"classification": "classes", "multi_label": "labels"}
    parts = [f"{windows.spec.name}: {len(windows)} windows"]
    parts.append(f"{len(task.labels)} {noun[task.kind]}" if task.kind in noun else task_text(task))
    parts.append(f"{windows.group_count or 'no'} groups")
    return ", ".join(parts + ([] if windows.folds is None else [f"{len(np.unique(windows.folds))} folds"]))


def times_text(windows: Windows) -> str:
    """Return first and last window start, `2026-11-02T06:00:00Z to 2026-11-06T21:59:58Z`; empty without times."""
    times = windows.times
    return "" if times is None else f"{time_text(float(times.min()))} to {time_text(float(times.max()))}"


def count_splits(windows: Windows) -> Iterator[SplitFacts]:
    """Yield each split's windows and groups, and windows by class, label or decile."""
    task = windows.spec.task
    strata, names = name_strata(windows.labels, task)
    for number, split in enumerate(SPLIT_NAMES):
        here = windows.splits == number
        groups, sizes = np.unique(windows.groups[here], return_counts=True)
        if task.kind == "multi_label":
            names, counts = task.labels, (windows.labels[here] == 1).sum(axis=0)
        else:
            counts = np.bincount(strata[here & (strata >= 0)], minlength=len(names))
        yield SplitFacts(
            split=split,
            windows=int(here.sum()),
            unlabelled=int((strata[here] < 0).sum()),
            groups=len(groups) if windows.has_groups else 0,
            largest_group=float(sizes.max() / sizes.sum()) if windows.has_groups else None,
            classes=dict(zip(names, counts.tolist(), strict=True)),
        )


def describe_channels(scan: Scan) -> Iterator[ChannelFacts]:
    """Yield the figures of each channel."""
    for modality in scan.windows.spec.modalities:
        figures = scan.modalities[modality.name]
        continuous = is_continuous(scan.windows, figures)
        for number, channel in enumerate(modality.channels):
            present = ~np.isnan(figures.level[:, number])
            missing = figures.missing[:, number]
            low = high = mean = std = None
            if present.any():
                low, high = float(figures.lowest[number]), float(figures.highest[number])
                weights = 1 - missing[present]
                mean = float(np.average(figures.level[present, number], weights=weights))
                power = float(np.average(figures.power[present, number], weights=weights))
                std = float(np.sqrt(max(0.0, power - mean**2)))
            yield ChannelFacts(
                modality=modality.name,
                channel=channel,
                unit=modality.unit,
                rate_hz=modality.rate_hz,
                samples=modality.samples,
                low=low,
                high=high,
                mean=mean,
                std=std,
                missing={
                    split: float(missing[scan.windows.splits == place].mean())
                    for place, split in enumerate(SPLIT_NAMES)
                },
                flat=float(figures.flat[present, number].mean()) if present.any() else 0.0,
                at_limit=float(figures.at_limit[:, number].mean()),
                is_continuous=bool(continuous[number]),
            )
