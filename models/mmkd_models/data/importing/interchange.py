"""The interchange form: one `.npz` of arrays (docs/datasets.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_edge.cli.label_tasks import label_config, label_task
from mmkd_edge.errors import DatasetError, UsageError, first_line
from mmkd_edge.spec import ModalityKind, ModalitySpec, TaskSpec
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.readers.array_files import read_arrays
from mmkd_models.data.spec import SPLIT_NAMES, with_present
from mmkd_models.data.writer import write_dataset

_COLUMNS = {"group": "groups", "fold": "folds", "time": "times", "episode": "episodes"}
_METADATA = "column_"
_OF_WINDOWS = ("x_", "frames_", _METADATA, "y", "split", "time", "group", "file", "row")
_OF_TASKS = {
    "start_s": "time",
    "group": "group",
    "likely": "column_answer",
    "probability": "column_probability",
    "reason": "column_reason",
    "file": "file",
    "row": "row",
}
_PREFIXES = ("x_", "rate_", "channels_", "unit_", "range_", "kind_", "frames_")


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The dataset, infinite values turned NaN by modality, and arrays left out."""

    dataset: Dataset
    infinite: dict[str, int]
    left_out: tuple[str, ...]


def import_interchange(
    file: str | Path,
    path: str | Path,
    *,
    name: str | None = None,
    per_group: Sequence[str] = (),
    source: str = "",
    licence: str = "",
    target: str | None = None,
    unit: str = "",
    normal: str | None = None,
) -> ImportReport:
    """Write a dataset directory from an interchange file. Infinite values become NaN.

    Args:
        per_group: modalities to z-score by group.
        target: the file's target for a regression; None makes classes of `y`.
        normal: the class of normal running; the others are known faults, which judge.

    Raise DatasetError if the file breaks the form, UsageError if an option names what is missing, or `path` exists.
    """
    if unit and target is None:
        raise UsageError("--unit: expected a --target that has it, got none; name the target")
    if normal is not None and target is not None:
        raise UsageError("--normal: cannot be combined with --target; leave one of them out")
    file = Path(file)
    if not file.is_file():
        raise UsageError(f"{file}: expected an interchange file (.npz), found no such file; check the path")
    arrays = _read_export(file) if file.suffix == ".json" else read_arrays(file, "an interchange file")
    facts = {key.removeprefix(_METADATA): key for key in arrays if key.startswith(_METADATA)}
    names = [key.removeprefix("x_") for key in arrays if key.startswith("x_")]
    required = (*(("y", "classes") if target is None else ("targets", "target_names")), "split")
    _check(file, arrays, names, required=required, facts=list(facts.values()))
    if target is None:
        task, labels = TaskSpec(labels=tuple(str(label) for label in arrays["classes"].tolist())), arrays["y"]
        if normal is not None:
            task, labels = _normal(file, task.labels, arrays, normal)
    else:
        task = TaskSpec(kind="regression", labels=(target,), unit=unit or msgspec.UNSET)
        targets = [str(known) for known in np.atleast_1d(arrays["target_names"]).tolist()]
        if target not in targets:
            raise UsageError(f"{file}: target {target!r} is not in it; choose one of {', '.join(targets)}")
        values = arrays["targets"]
        if values.dtype.kind not in "biuf" or values.ndim != 2 or values.shape[1] != len(targets):
            raise DatasetError(
                f"{file}: targets: expected numbers of shape (N, {len(targets)}), one column for each of target_names,"
                f" got {values.dtype} {values.shape}; reshape it"
            )
        labels = np.asarray(values[:, targets.index(target)], dtype=np.float32)
    for unknown in sorted(set(per_group) - set(names)):
        raise UsageError(f"{file}: modality {unknown!r} is not in it; choose one of {', '.join(names)}")
    columns: dict[str, AnyArray] = {"labels": labels}
    columns |= {column: arrays[key] for key, column in _COLUMNS.items() if key in arrays}
    infinite, modalities = {}, []
    for modality in names:
        kind = _kind(file, arrays, modality)
        values = _values(file, arrays, modality, kind=kind)
        if values.dtype.kind == "f" and (count := int(np.isinf(values).sum())):
            infinite[modality] = count
            values = np.where(np.isinf(values), np.float32(np.nan), values)
        columns[modality] = values
        modalities.append(_modality(file, arrays, modality, kind=kind, per_group=modality in per_group))
    splits: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    for number, split in enumerate(SPLIT_NAMES):
        rows = arrays["split"] == number
        splits[split] = {key: array[rows] for key, array in columns.items()}
        if facts:
            splits[split]["metadata"] = {fact: arrays[key][rows] for fact, key in facts.items()}
    dataset = write_dataset(
        path,
        name=file.stem if name is None else name,
        labels=task,
        modalities=modalities,
        splits=splits,
        source=source,
        licence=licence,
    )
    used = {*required, *_COLUMNS, *facts.values(), *(prefix + modality for prefix in _PREFIXES for modality in names)}
    return ImportReport(dataset=dataset, infinite=infinite, left_out=tuple(key for key in arrays if key not in used))


def kept_tasks(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return Label Studio's tasks for the windows of `mmkd-run --keep-uncertain`, and the labelling interface."""
    file, arrays = folder, _read_ring(sorted(folder.glob("*.npz")), folder)
    (name,) = (key.removeprefix("x_") for key in arrays if key.startswith("x_"))
    kind = _kind(file, arrays, name)
    spec = _modality(file, arrays, name, kind=kind, per_group=False)
    rows: Iterator[Any] = zip(*(arrays[key].tolist() for key in _OF_TASKS.values()), strict=True)
    windows = zip(_values(file, arrays, name, kind=kind), rows, strict=True)
    tasks = [label_task({name: window}, [spec], **dict(zip(_OF_TASKS, row, strict=True))) for window, row in windows]
    return tasks, label_config([spec], TaskSpec(labels=tuple(arrays["classes"].tolist())))


def _read_export(file: Path) -> dict[str, AnyArray]:
    """Return a Label Studio export's windows; the last fifths in time are valid and test."""
    answers: dict[tuple[str, int], str] = {}
    try:
        for task in msgspec.json.decode(file.read_bytes()):
            for result in (result for annotation in task["annotations"] for result in annotation["result"]):
                (answers[Path(task["data"]["file"]).name, task["data"]["row"]],) = result["value"]["choices"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file}: expected an export in JSON of the tasks of mmkd-data tasks, with one choice each, got another "
            f"({first_line(error)}); a recipe reads other exports"
        ) from error
    arrays = _read_ring([file.with_name(name) for name in sorted({name for name, _ in answers})], file)
    places = zip(arrays.pop("file").tolist(), arrays.pop("row").tolist(), strict=True)
    arrays[f"{_METADATA}station"] = arrays.pop("group")  # splits never share a group
    labels, classes = [answers.get(place) for place in places], arrays["classes"].tolist()
    classes += sorted({label for label in labels if label is not None} - {*classes})
    rows = [row for row in np.argsort(arrays["time"], kind="stable").tolist() if labels[row] is not None]
    windows = {key: array[rows] for key, array in arrays.items() if key.startswith(_OF_WINDOWS)}
    windows |= {"y": np.array([classes.index(labels[row]) for row in rows]), "classes": np.array(classes)}
    fifth = max(1, len(rows) // 5)
    return arrays | windows | {"split": np.repeat([0, 1, 2], [len(rows), fifth, fifth])[2 * fifth :]}


def _read_ring(files: Sequence[Path], place: Path) -> dict[str, AnyArray]:
    if not files:
        raise UsageError(f"{place}: expected windows of mmkd-run --keep-uncertain, or their labels, found none")
    parts = [dict(read_arrays(file, "kept windows")) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.keys() != parts[0].keys() or part["classes"].tolist() != parts[0]["classes"].tolist():
            raise DatasetError(
                f"{file}: expected the sensor and the classes of {files[0].name}, got others; move it to another folder"
            )
        part["file"], part["row"] = np.repeat(file.name, len(part["y"])), np.arange(len(part["y"]))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key.startswith(_OF_WINDOWS)}
    return parts[0] | joined


def _normal(
    file: Path, classes: tuple[str, ...], arrays: Mapping[str, AnyArray], normal: str
) -> tuple[TaskSpec, AnyArray]:
    if normal not in classes:
        raise UsageError(f"--normal {normal}: {file} has no such class; choose one of {', '.join(classes)}")
    y = arrays["y"]
    if y.dtype.kind not in "iu" or (len(y) and not -1 <= int(y.min()) <= int(y.max()) < len(classes)):
        raise DatasetError(
            f"{file}: y: expected class numbers from -1 to {len(classes) - 1}, got {y.dtype} {y.min()} to {y.max()};"
            " correct it"
        )
    names = (normal, *(name for name in classes if name != normal))
    numbers = np.array([*map(names.index, classes), -1], dtype=np.int64)  # the last one is that of -1
    return TaskSpec(kind="normal", labels=names), numbers[y]


def _check(
    file: Path, arrays: Mapping[str, AnyArray], names: Sequence[str], *, required: Sequence[str], facts: Sequence[str]
) -> None:
    expected = [*required, *(f"{prefix}{name}" for name in names for prefix in ("rate_", "channels_"))]
    missing = [key for key in expected if key not in arrays] + ([] if names else ["x_<modality>"])
    if missing:
        raise DatasetError(
            f"{file}: expected arrays {', '.join(missing)}, which are missing; docs/datasets.md describes the form"
        )
    rows = "labels in y" if required[0] == "y" else "rows of targets"
    count = arrays[required[0]].shape[:1]
    for key in ("split", *_COLUMNS, *facts, *(f"{prefix}{name}" for name in names for prefix in ("x_", "frames_"))):
        if key in arrays and arrays[key].shape[:1] != count:
            raise DatasetError(
                f"{file}: {key}: expected one row for each of the {count[0] if count else 0} {rows},"
                f" got shape {arrays[key].shape}; make them equally long"
            )
    wrong = arrays["split"][~np.isin(arrays["split"], (0, 1, 2))].tolist()
    if wrong:
        raise DatasetError(f"{file}: split: expected 0 train, 1 valid or 2 test, got {wrong[0]}; correct it")


def _kind(file: Path, arrays: Mapping[str, AnyArray], name: str) -> ModalityKind:
    is_video = arrays[f"x_{name}"].ndim == 5
    given = str(arrays[f"kind_{name}"]) if f"kind_{name}" in arrays else "video" if is_video else "series"
    allowed: tuple[ModalityKind, ...] = ("video",) if is_video else ("series", "audio")
    for kind in allowed:
        if given == kind:
            return kind
    raise DatasetError(
        f"{file}: kind_{name}: expected {' or '.join(allowed)} of an array of shape {arrays[f'x_{name}'].shape}, got"
        f" {given!r}; correct it, or the array"
    )


def _values(file: Path, arrays: Mapping[str, AnyArray], name: str, *, kind: ModalityKind) -> AnyArray:
    array = arrays[f"x_{name}"]
    if kind == "series":
        if array.ndim != 3 or array.dtype.kind not in "iuf":
            raise DatasetError(
                f"{file}: x_{name}: expected numbers of shape (N, T, C), got {array.dtype} {array.shape}; reshape it"
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is counted as such
            return array.astype(np.float32)
    present = arrays.get(f"frames_{name}") if kind == "video" else None
    if present is None:
        return array
    if present.shape != array.shape[:2] or present.dtype.kind not in "biu":
        raise DatasetError(
            f"{file}: frames_{name}: expected 1 or 0 for each frame, {array.shape[:2]}, got {present.dtype}"
            f" {present.shape}; reshape it"
        )
    return with_present(array, present)


def _modality(
    file: Path, arrays: Mapping[str, AnyArray], name: str, *, kind: ModalityKind, per_group: bool
) -> ModalitySpec:
    bounds = arrays[f"range_{name}"].tolist() if f"range_{name}" in arrays else None
    try:
        rate_hz = float(str(arrays[f"rate_{name}"][()]))  # through its shortest text: a float32 0.1 stays 0.1
        limits = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    except (TypeError, ValueError, IndexError) as error:
        raise DatasetError(
            f"{file}: modality {name!r}: rate_ or range_ cannot be read ({error}); correct it"
        ) from error
    shape = arrays[f"x_{name}"].shape
    return ModalitySpec(
        name=name,
        kind=kind,
        channels=tuple(str(channel) for channel in np.atleast_1d(arrays[f"channels_{name}"]).tolist()),
        unit=str(arrays.get(f"unit_{name}", "")),
        rate_hz=rate_hz,
        samples=int(shape[1]),
        height=int(shape[2]) if kind == "video" else msgspec.UNSET,
        width=int(shape[3]) if kind == "video" else msgspec.UNSET,
        range=limits,
        normalise="per_group" if per_group else "none",
    )
