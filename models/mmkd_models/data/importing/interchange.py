"""The interchange form: one `.npz` of arrays (docs/datasets.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalityKind, ModalitySpec, TaskSpec
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.readers.array_files import read_arrays
from mmkd_models.data.spec import SPLIT_NAMES, with_present
from mmkd_models.data.writer import write_dataset

_COLUMNS = {"group": "groups", "fold": "folds", "time": "times", "episode": "episodes"}
METADATA = "column_"
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
    arrays = read_arrays(file, "an interchange file")
    facts = {key.removeprefix(METADATA): key for key in arrays if key.startswith(METADATA)}
    names = [key.removeprefix("x_") for key in arrays if key.startswith("x_")]
    required = (*(("y", "classes") if target is None else ("targets", "target_names")), "split")
    _check(file, arrays, names, required=required, facts=list(facts.values()))
    if target is None:
        task, labels = TaskSpec(labels=tuple(str(label) for label in arrays["classes"].tolist())), arrays["y"]
        if normal is not None:
            task, labels = normal_task(file, task.labels, arrays["y"], normal)
    else:
        task = TaskSpec(kind="regression", labels=(target,), unit=unit or None)
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
        kind = value_kind(file, arrays, modality)
        values = read_values(file, arrays, modality, kind=kind)
        if values.dtype.kind == "f" and (count := int(np.isinf(values).sum())):
            infinite[modality] = count
            values = np.where(np.isinf(values), np.float32(np.nan), values)
        columns[modality] = values
        modalities.append(modality_of(file, arrays, modality, kind=kind, per_group=modality in per_group))
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


def normal_task(file: Path, classes: tuple[str, ...], y: AnyArray, normal: str) -> tuple[TaskSpec, AnyArray]:
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


def value_kind(file: Path, arrays: Mapping[str, AnyArray], name: str) -> ModalityKind:
    """Return the kind of a modality. Raise DatasetError if the array has another form."""
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


def read_values(file: Path, arrays: Mapping[str, AnyArray], name: str, *, kind: ModalityKind) -> AnyArray:
    """Return the windows (N, ...) of a modality, missing frames masked. Raise DatasetError if they are no numbers."""
    array = arrays[f"x_{name}"]
    if kind != "video" and (array.ndim != 3 or array.dtype.kind not in "iuf"):
        raise DatasetError(
            f"{file}: x_{name}: expected numbers of shape (N, T, C), got {array.dtype} {array.shape}; reshape it"
        )
    if kind == "series":
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


def modality_of(
    file: Path, arrays: Mapping[str, AnyArray], name: str, *, kind: ModalityKind, per_group: bool
) -> ModalitySpec:
    """Return the entry of a modality. Raise DatasetError if its rate or range cannot be read."""
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
        height=int(shape[2]) if kind == "video" else None,
        width=int(shape[3]) if kind == "video" else None,
        range=limits,
        normalise="per_group" if per_group else "none",
    )
