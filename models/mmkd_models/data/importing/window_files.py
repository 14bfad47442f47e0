"""A dataset from windows of a file, or from those of another dataset and labelled ones that extend it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.kept_windows import (
    METADATA,
    KeptWindows,
    WindowsForm,
    read_interchange,
    read_labelled,
    read_labels,
)
from mmkd_models.data.spec import SPLIT_NAMES, Values, decode_samples, with_present
from mmkd_models.data.windows import Rows, Windows, raw_blocks
from mmkd_models.data.writer import check_absent, store_windows, write_dataset, write_windows


def import_windows(
    file: Path,
    path: Path,
    *,
    name: str | None = None,
    per_group: Sequence[str] = (),
    source: str = "",
    licence: str = "",
    target: str | None = None,
    unit: str = "",
    normal: str | None = None,
) -> tuple[Dataset, WindowsForm]:
    """Write a dataset of an interchange file (.npz), or of an export of labels of kept windows (.json).

    Args:
        per_group: modalities to z-score by group.
        target: the file's target for a regression; None makes classes of `y`.
        normal: the class of normal running; the others are known faults, which judge.

    Raise DatasetError if the file breaks its form, UsageError if an option names what is missing, or `path` exists.
    """
    if unit and target is None:
        raise UsageError("--unit: expected a --target that has it, got none; name the target")
    if normal is not None and target is not None:
        raise UsageError("--normal: cannot be combined with --target; leave one of them out")
    form = read_labels(file) if file.suffix == ".json" else read_interchange(file, target=target, unit=unit)
    task, columns, names = form.task, form.columns, [modality.name for modality in form.modalities]
    if normal is not None:
        task, labels = _normal_task(file, task.labels, columns["labels"], normal)
        columns = {**columns, "labels": labels}
    for unknown in sorted(set(per_group) - set(names)):
        raise UsageError(f"{file}: modality {unknown!r} is not in it; choose one of {', '.join(names)}")
    splits: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    for number, split in enumerate(SPLIT_NAMES):
        rows = form.splits == number
        splits[split] = {key: array[rows] for key, array in columns.items()}
        if form.metadata:
            splits[split]["metadata"] = {fact: array[rows] for fact, array in form.metadata.items()}
    dataset = write_dataset(
        path,
        name=file.stem if name is None else name,
        labels=task,
        modalities=[
            msgspec.structs.replace(modality, normalise="per_group" if modality.name in per_group else "none")
            for modality in form.modalities
        ],
        splits=splits,
        source=source,
        licence=licence,
    )
    return dataset, form


def _normal_task(file: Path, classes: tuple[str, ...], y: AnyArray, normal: str) -> tuple[TaskSpec, AnyArray]:
    """Return the task of normal running, whose first label is `normal`, and the labels `y` (N,) by it."""
    if normal not in classes:
        raise UsageError(f"--normal {normal}: {file} has no such class; choose one of {', '.join(classes)}")
    if y.dtype.kind not in "iu" or (len(y) and not -1 <= int(y.min()) <= int(y.max()) < len(classes)):
        raise DatasetError(
            f"{file}: y: expected class numbers from -1 to {len(classes) - 1}, got {y.dtype} {y.min()} to {y.max()};"
            " correct it"
        )
    names = (normal, *(name for name in classes if name != normal))
    numbers = np.array([*map(names.index, classes), -1], dtype=np.int64)  # the last one is that of -1
    return TaskSpec(kind="normal", labels=names), numbers[y]


def add_labels(dataset: Dataset, file: Path, path: Path, *, name: str | None = None) -> tuple[Dataset, dict[str, int]]:
    """Write a dataset with the labelled windows of an export too, and return it with their number by split.

    Its other sensors are missing in them. A station is a group: windows of a group that the dataset has go into its
    split and fold, those of others into train. Raise UsageError if they do not fit, or `path` exists.
    """
    check_absent(path)
    kept, classes, numbers = read_labelled(file)
    spec, windows = dataset.spec, dataset.everything()
    _check_form(dataset, kept.modality, file)
    used = [classes[number] for number in numbers.tolist()]
    labels = (*spec.task.labels, *sorted({*used} - {*spec.task.labels}))
    columns = _new_columns(windows, kept.facts["group"])
    columns["labels"] = np.array([labels.index(label) for label in used], dtype=np.int64)
    if windows.times is not None:
        columns["times"] = kept.facts["time"]
    into, stations = columns.pop("splits"), np.unique(kept.facts["group"]).tolist()
    splits: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        for number, split in enumerate(SPLIT_NAMES):
            part, rows = windows.subset(windows.splits == number), np.flatnonzero(into == number)
            arrays: dict[str, AnyArray | dict[str, AnyArray]] = {
                key: np.concatenate([np.asarray(getattr(part, key)).astype(values.dtype), values[rows]])
                for key, values in columns.items()
            }
            for item in spec.modalities:
                blocks = itertools.chain(raw_blocks(part, item), [_new_windows(item, kept.take(rows))])
                stored = Path(scratch) / f"{split}-{item.name}.npy"
                arrays[item.name] = store_windows(stored, item, blocks, count=len(part) + len(rows))
            arrays["metadata"] = {
                key: _join_fact(values, kept.facts.get(METADATA + key), rows) for key, values in part.metadata.items()
            }
            splits[split] = arrays
        extended = msgspec.structs.replace(
            spec,
            name=spec.name if name is None else name,
            task=msgspec.structs.replace(spec.task, labels=labels),
            recordings=None,
            episodes=spec.episodes and (*spec.episodes, *(f"{file.name}: {station}" for station in stations)),
            episode_files=None,
        )
        joined = write_windows(path, extended, splits)
    return joined, {split: int((into == number).sum()) for number, split in enumerate(SPLIT_NAMES)}


def _check_form(dataset: Dataset, modality: ModalitySpec, file: Path) -> None:
    spec = dataset.spec
    if spec.task.kind not in ("classification", "normal"):
        raise UsageError(
            f"--add-to {dataset.path}: expected a dataset of classes or of normal running, got {task_text(spec.task)};"
            " name the one that the student was trained on"
        )
    if not any(item.name == modality.name and _form(item) == _form(modality) for item in spec.modalities):
        sensors = "; ".join(f"{item.name}, {_form(item)}" for item in spec.modalities)
        raise UsageError(
            f"--add-to {dataset.path}: expected a dataset that has the sensor of {file}, {modality.name},"
            f" {_form(modality)}, got {sensors}; name the one that the student was trained on"
        )


def _form(modality: ModalitySpec) -> str:
    unit, shape = f" in {modality.unit}" if modality.unit else "", " x ".join(map(str, modality.shape))
    return f"{modality.kind} of {' '.join(modality.channels)}{unit}, {shape} at {modality.rate_hz:g} Hz"


def _new_columns(windows: Windows, stations: AnyArray) -> dict[str, AnyArray]:
    """Return split, and where the dataset has them group, fold and episode, of new windows (N,)."""
    columns: dict[str, AnyArray] = {"splits": np.zeros(len(stations), dtype=np.int64)}
    names, station = np.unique(stations, return_inverse=True)
    if windows.has_groups:
        groups = windows.groups.astype(np.str_)
        columns["groups"] = stations.astype(np.result_type(groups, stations))
        for number, name in enumerate(names.tolist()):
            rows = np.flatnonzero(groups == name)
            if len(rows):
                columns["splits"][station == number] = windows.splits[rows[0]]
        if windows.folds is not None:
            folds, counts = np.unique(windows.folds, return_counts=True)
            columns["folds"] = np.full(len(stations), folds[counts.argmin()])
            for number, name in enumerate(names.tolist()):
                rows = np.flatnonzero(groups == name)
                if len(rows):
                    columns["folds"][station == number] = windows.folds[rows[0]]
    if windows.episodes is not None:
        columns["episodes"] = int(windows.episodes.max()) + 1 + station
    return columns


def _join_fact(values: AnyArray, new: AnyArray | None, rows: Rows) -> AnyArray:
    if values.dtype.kind == "U":
        texts = np.full(len(rows), "") if new is None or new.dtype.kind != "U" else new[rows]
        return np.concatenate([values, texts])
    numbers = np.full(len(rows), np.nan) if new is None or new.dtype.kind == "U" else new[rows]
    return np.concatenate([values.astype(np.float64), numbers])


def _new_windows(modality: ModalitySpec, kept: KeptWindows) -> Values:
    """Return the values of new windows, all missing if they lack the modality."""
    if kept.modality.name == modality.name:
        return decode_samples(kept.values, kind=modality.kind)
    shape = (len(kept.values), *modality.shape)
    if modality.kind == "video":
        return with_present(np.zeros(shape, dtype=np.uint8), np.zeros(shape[:2]))
    return np.full(shape, np.nan, dtype=np.float32)
