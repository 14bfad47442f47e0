"""The interchange form: one `.npz` of arrays (docs/datasets.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalityKind, ModalitySpec, TaskSpec
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.readers.array_files import read_arrays
from mmkd_models.data.spec import with_present

_COLUMNS = {"group": "groups", "fold": "folds", "time": "times", "episode": "episodes"}
METADATA = "column_"
_PREFIXES = ("x_", "rate_", "channels_", "unit_", "range_", "kind_", "frames_")


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowsForm:
    """Windows of a file: columns and metadata (N, ...) by name, and splits (N,), 0 train, 1 valid, 2 test.

    `infinite` counts the values by modality that became NaN, `left_out` names arrays that are no part of a dataset.
    """

    task: TaskSpec
    modalities: Sequence[ModalitySpec]
    columns: Mapping[str, AnyArray]
    metadata: Mapping[str, AnyArray]
    splits: AnyArray
    infinite: Mapping[str, int] = field(default_factory=dict)
    left_out: Sequence[str] = ()


def read_interchange(file: Path, *, target: str | None = None, unit: str = "") -> WindowsForm:
    """Read an interchange file: classes of `y`, or a target for a regression. Infinite values become NaN.

    Raise DatasetError if the file breaks the form, UsageError if there is none, or it has no such target.
    """
    if not file.is_file():
        raise UsageError(f"{file}: expected an interchange file (.npz), found no such file; check the path")
    arrays = read_arrays(file, "an interchange file")
    facts = {key.removeprefix(METADATA): key for key in arrays if key.startswith(METADATA)}
    names = [key.removeprefix("x_") for key in arrays if key.startswith("x_")]
    required = (*(("y", "classes") if target is None else ("targets", "target_names")), "split")
    _check(file, arrays, names, required=required, facts=list(facts.values()))
    if target is None:
        task, labels = TaskSpec(labels=tuple(str(label) for label in arrays["classes"].tolist())), arrays["y"]
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
        modalities.append(modality_of(file, arrays, modality, kind=kind))
    used = {*required, *_COLUMNS, *facts.values(), *(prefix + modality for prefix in _PREFIXES for modality in names)}
    return WindowsForm(
        task=task,
        modalities=modalities,
        columns=columns,
        metadata={fact: arrays[key] for fact, key in facts.items()},
        splits=arrays["split"],
        infinite=infinite,
        left_out=[key for key in arrays if key not in used],
    )


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


def modality_of(file: Path, arrays: Mapping[str, AnyArray], name: str, *, kind: ModalityKind) -> ModalitySpec:
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
    )
