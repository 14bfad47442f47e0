"""Windows of files: those of `mmkd-run --keep-uncertain` with their tasks and labels, and the interchange form.

Kept windows and exports come from other machines and people. Only regular files of a bounded size are read, links
followed, one at a time, and every array is checked before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.files import open_file, read_exactly, write_file
from mmkd_edge.errors import DatasetError, UsageError, first_line
from mmkd_edge.spec import ModalityKind, ModalitySpec, TaskSpec
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.keys import MAX_KEPT_BYTES, MAX_LABELLED_BYTES, MAX_TIME_NS, RATES_HZ
from mmkd_models.data.importing.readers.array_files import read_arrays
from mmkd_models.data.importing.recipe import SplitRule
from mmkd_models.data.importing.window_labels import split_by_time
from mmkd_models.data.label_tasks import label_config, label_task
from mmkd_models.data.spec import (
    SPLIT_NAMES,
    STORABLE,
    DatasetSpec,
    refuse,
    size_problem,
    spec_problems,
    storable,
    with_present,
)

_EXPECTED = "kept windows (.npz)"
_FACTS = {"group": "U", "column_answer": "U", "column_reason": "U", "column_probability": "f", "time": "f"}
_MAX_TIME_S = MAX_TIME_NS / 1e9
_MIN_SOUND_HZ, _MAX_SOUND_BYTES_PER_S = 1.0, 1 << 32  # of a WAV file's header
_VALID, _TEST = 1, 2
_COLUMNS = {"group": "groups", "fold": "folds", "time": "times", "episode": "episodes"}
METADATA = "column_"
_PREFIXES = ("x_", "rate_", "channels_", "unit_", "range_", "kind_", "frames_")


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptWindows:
    """Checked windows (N, ...) of one sensor, masked where frames are missing, and their facts (N,) by array name."""

    modality: ModalitySpec
    classes: tuple[str, ...]
    values: AnyArray
    facts: Mapping[str, AnyArray]

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> KeptWindows:
        """Return the windows of these rows."""
        chosen = np.asarray(rows, dtype=np.int64)
        facts = {name: array[chosen] for name, array in self.facts.items()}
        return replace(self, values=self.values[chosen], facts=facts)


class _Value(msgspec.Struct):
    choices: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1)]


class _Result(msgspec.Struct):
    value: _Value


class _Annotation(msgspec.Struct):
    result: tuple[_Result, ...]


class _Window(msgspec.Struct):
    file: str
    row: Annotated[int, msgspec.Meta(ge=0)]


class _Task(msgspec.Struct):
    data: _Window
    annotations: tuple[_Annotation, ...]


def kept_tasks(folder: Path) -> tuple[Iterator[dict[str, Any]], str]:
    """Return Label Studio's tasks for kept windows, read file by file, and the labelling interface."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UsageError(f"{folder}: expected windows of mmkd-run --keep-uncertain, found none; check the path")
    first = read_kept(files[0])
    return _tasks(files), label_config([first.modality], _task(first.classes))


def _task(classes: tuple[str, ...]) -> TaskSpec:
    return TaskSpec(kind="normal" if len(classes) == 1 else "classification", labels=classes)


def _tasks(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file, kept in zip(files, _read_alike(files), strict=True):
        columns = [kept.facts[name].tolist() for name in ("time", "group", "column_answer", "column_reason")]
        rows = zip(kept.values, *columns, kept.facts["column_probability"].tolist(), strict=True)
        for row, (window, start_s, group, answer, reason, probability) in enumerate(rows):
            facts = {"group": group, "reason": reason, "file": file.name, "row": row}
            windows = {kept.modality.name: window}
            yield label_task(windows, [kept.modality], start_s, likely=answer, probability=probability, **facts)


def write_tasks(out: Path, tasks: Iterable[dict[str, Any]], interface: str) -> None:
    """Write tasks, and the interface beside them. Raise UsageError if they are more than an import of them takes."""
    parts, total = list[bytes](), 0
    for task in tasks:
        parts.append(msgspec.json.encode(task))
        total += len(parts[-1])
        if total > MAX_KEPT_BYTES:
            raise UsageError(
                f"{out}: expected tasks of at most {MAX_KEPT_BYTES:,} bytes, got more; move some of the windows to"
                " another folder, and label them apart"
            )
    write_file(out, b"[" + b",\n".join(parts) + b"]\n")
    write_file(out.with_suffix(".xml"), interface.encode())


def read_kept(file: Path) -> KeptWindows:
    """Read a file of kept windows. Raise UsageError if it is no regular file, DatasetError if it breaks the form."""
    size = _refuse_large(file, expected=_EXPECTED)
    arrays = read_arrays(file, "kept windows", most_bytes=size)  # numpy.savez, which wrote them, does not compress
    names = [name.removeprefix("x_") for name in arrays if name.startswith("x_")]
    required = [f"{prefix}{name}" for name in names for prefix in ("rate_", "channels_")]
    missing = [name for name in (*required, "classes", *_FACTS) if name not in arrays]
    if len(names) != 1 or missing:
        got = f"no {', '.join(missing)}" if missing else f"{len(names)} sensors"
        raise DatasetError(f"{file}: expected kept windows of one sensor, got {got}; copy the file again")
    modality, values = _read_modality(file, arrays, names[0])
    kind = modality.kind
    facts = {name: _fact(file, name, arrays[name], count=len(values)) for name in _FACTS}
    classes = arrays["classes"]
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise DatasetError(f"{file}: classes: expected names (K,), got {classes.dtype} {classes.shape}; correct them")
    if kind != "video" and values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, np.float32(np.nan))
    if storable(values, kind) is None:
        raise DatasetError(f"{file}: x_{names[0]}: expected {STORABLE[kind]}, got {values.dtype}; copy the file again")
    kept = KeptWindows(modality=modality, classes=tuple(classes.tolist()), values=values, facts=facts)
    refuse(file, list(_problems(kept)))
    return kept


def _problems(kept: KeptWindows) -> Iterator[str]:
    modality, splits = kept.modality, dict[str, int](zip(SPLIT_NAMES, (1, 1, 1), strict=True))
    spec = DatasetSpec(name="kept windows", task=_task(kept.classes), modalities=(modality,), splits=splits)
    yield from (text.removeprefix("dataset.json: ") for text in spec_problems(spec))
    if text := size_problem(modality):
        yield text
    if kept.values.shape[1:] != modality.shape:
        yield f"expected a name for each channel, got {len(modality.channels)} for windows {kept.values.shape[1:]}"
    if not RATES_HZ[0] <= modality.rate_hz <= RATES_HZ[1]:
        yield f"expected a rate from {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz, got {modality.rate_hz:g}; correct it"
        return
    bytes_per_s = 2 * modality.rate_hz * len(modality.channels)
    if modality.kind == "audio" and not (modality.rate_hz >= _MIN_SOUND_HZ and bytes_per_s < _MAX_SOUND_BYTES_PER_S):
        yield f"expected sound that a WAV file can hold, got {modality.rate_hz:g} Hz; correct its rate"
    times = kept.facts["time"]
    far = times[~(np.abs(times) + modality.duration_s <= _MAX_TIME_S)]
    if len(far):
        yield f"time: expected UTC seconds within {_MAX_TIME_S:.3g} s of 1970, got {far[0]:g}; correct it"


def _fact(file: Path, name: str, array: AnyArray, *, count: int) -> AnyArray:
    kind = _FACTS[name]
    if array.shape != (count,) or (array.dtype.kind != kind and not (kind == "f" and array.dtype.kind in "iu")):
        what = "text" if kind == "U" else "a number"
        raise DatasetError(
            f"{file}: {name}: expected {what} for each of {count} windows, got {array.dtype} {array.shape}; copy the"
            " file again"
        )
    if kind == "U":
        return array
    numbers = array.astype(np.float64)
    return numbers if name == "time" else np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 1)


def _read_alike(files: Sequence[Path]) -> Iterator[KeptWindows]:
    """Yield the windows of each file. Raise DatasetError if sensor or classes differ."""
    first: KeptWindows | None = None
    for file in files:
        kept = read_kept(file)
        first = first or kept
        if (kept.modality, kept.classes) != (first.modality, first.classes):
            raise DatasetError(
                f"{file}: expected the sensor and the classes of {files[0].name}, got others; move it to another folder"
            )
        yield kept


def _refuse_large(file: Path, *, expected: str) -> int:
    descriptor = open_file(file, expected=expected)
    try:
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if size > MAX_KEPT_BYTES:
        raise DatasetError(
            f"{file}: expected {expected} of at most {MAX_KEPT_BYTES:,} bytes, got {size:,}; label fewer windows at a"
            " time"
        )
    return size


def read_labelled(file: Path) -> tuple[KeptWindows, tuple[str, ...], npt.NDArray[np.int64]]:
    """Read an export of the tasks, and the windows beside it. Raise DatasetError or UsageError if they do not fit.

    Return the labelled windows in order of time, the classes, and the number of each window's class.
    """
    answers = _read_answers(file)
    if not answers:
        raise UsageError(f"{file}: expected labels of the tasks of mmkd-data tasks, found none; label some, and export")
    files = [file.with_name(name) for name in sorted(answers)]
    parts, labels, total = list[KeptWindows](), list[str](), 0
    for place, kept in zip(files, _read_alike(files), strict=True):
        rows = sorted(answers[place.name])
        if rows[-1] >= len(kept.values):
            raise DatasetError(
                f"{file}: row {rows[-1]} of {place.name}: expected one of its {len(kept.values)} windows; export the"
                " labels of this folder's tasks"
            )
        parts.append(kept.take(rows))
        labels += [answers[place.name][row] for row in rows]
        total += parts[-1].values.nbytes
        if total > MAX_LABELLED_BYTES:
            raise DatasetError(
                f"{file}: expected labelled windows of at most {MAX_LABELLED_BYTES:,} bytes, got more; import it in"
                " parts, with --add-to from the second on"
            )
    first = parts[0]
    facts = {name: np.concatenate([part.facts[name] for part in parts]) for name in first.facts}
    join = np.ma.concatenate if any(isinstance(part.values, np.ma.MaskedArray) for part in parts) else np.concatenate
    values: AnyArray = join([part.values for part in parts])
    order = np.argsort(facts["time"], kind="stable")
    classes = (*first.classes, *sorted({*labels} - {*first.classes}))
    numbers = np.array([classes.index(label) for label in labels], dtype=np.int64)
    return replace(first, values=values, facts=facts).take(order), classes, numbers[order]


def _read_answers(file: Path) -> dict[str, dict[int, str]]:
    """Return the label of each row by file."""
    size = _refuse_large(file, expected="labels of kept windows (.json)")
    descriptor = open_file(file, expected="labels of kept windows (.json)")
    try:
        tasks = msgspec.json.decode(read_exactly(descriptor, size, offset=0), type=tuple[_Task, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(
            f"{file}: expected an export in JSON of the tasks of mmkd-data tasks, with one choice each, got another "
            f"({first_line(error).replace('`', repr('')[0])}); a recipe reads other exports"
        ) from error
    finally:
        os.close(descriptor)
    answers: dict[str, dict[int, str]] = {}
    for task in tasks:
        name, row = task.data.file, task.data.row
        if Path(name).name != name or not name.endswith(".npz") or not name.isprintable():
            raise DatasetError(
                f"{file}: 'data.file': expected the name of a file of kept windows beside it, got {name[:100]!a};"
                " export the tasks of mmkd-data tasks"
            )
        for label in (result.value.choices[0] for annotation in task.annotations for result in annotation.result):
            earlier = answers.setdefault(name, {}).setdefault(row, label)
            if earlier != label:
                raise DatasetError(
                    f"{file}: row {row} of {name}: expected one label, got {earlier!r} and {label!r}; keep one in the"
                    " export"
                )
    return answers


def read_labels(file: Path) -> WindowsForm:
    """Return the labelled windows of an export with the classes in use alone.

    The last fifths in time of each class are valid and test; train has every class. Raise DatasetError if export or
    windows break the form, UsageError if the labels are too few for that.
    """
    kept, classes, numbers = read_labelled(file)
    used, labels = np.unique(numbers, return_inverse=True)
    names, counts = tuple(classes[number] for number in used.tolist()), np.bincount(labels)
    if len(names) < 2 or len(labels) < len(names) + 2:
        got = ", ".join(f"{count} of {name}" for name, count in zip(names, counts.tolist(), strict=True))
        raise UsageError(
            f"{file}: expected labels of two classes or more, and two windows more than classes, to split into train,"
            f" valid and test, got {got}; label more, or join them to the dataset that they extend: --add-to DATA"
        )
    splits = split_by_time(np.zeros(len(labels), dtype=np.int64), labels, SplitRule())
    for number in (_TEST, _VALID):
        if not (splits == number).any():
            in_train = np.bincount(labels[splits == 0], minlength=len(names))
            splits[np.flatnonzero((splits == 0) & (in_train[labels] > 1))[-1]] = number
    facts = {key.removeprefix(METADATA): array for key, array in kept.facts.items() if key.startswith(METADATA)}
    return WindowsForm(
        task=TaskSpec(labels=names),
        modalities=[kept.modality],
        columns={kept.modality.name: kept.values, "labels": labels, "times": kept.facts["time"]},
        metadata=facts | {"station": kept.facts["group"]},  # splits never share a group
        splits=splits,
    )


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
    for name in names:
        modality, values = _read_modality(file, arrays, name)
        if values.dtype.kind == "f" and (count := int(np.isinf(values).sum())):
            infinite[name] = count
            values = np.where(np.isinf(values), np.float32(np.nan), values)
        columns[name] = values
        modalities.append(modality)
    used = {*required, *_COLUMNS, *facts.values(), *(prefix + name for prefix in _PREFIXES for name in names)}
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


def _read_modality(file: Path, arrays: Mapping[str, AnyArray], name: str) -> tuple[ModalitySpec, AnyArray]:
    """Return a modality and its windows (N, ...), missing frames masked. Raise DatasetError if they break the form."""
    array = arrays[f"x_{name}"]
    is_video = array.ndim == 5
    given = str(arrays.get(f"kind_{name}", "video" if is_video else "series"))
    allowed: tuple[ModalityKind, ...] = ("video",) if is_video else ("series", "audio")
    kind = next((kind for kind in allowed if kind == given), None)
    if kind is None:
        raise DatasetError(
            f"{file}: kind_{name}: expected {' or '.join(allowed)} of an array of shape {array.shape}, got"
            f" {given!r}; correct it, or the array"
        )
    if not is_video and (array.ndim != 3 or array.dtype.kind not in "iuf"):
        raise DatasetError(
            f"{file}: x_{name}: expected numbers of shape (N, T, C), got {array.dtype} {array.shape}; reshape it"
        )
    present = arrays.get(f"frames_{name}") if is_video else None
    if present is not None and (present.shape != array.shape[:2] or present.dtype.kind not in "biu"):
        raise DatasetError(
            f"{file}: frames_{name}: expected 1 or 0 for each frame, {array.shape[:2]}, got {present.dtype}"
            f" {present.shape}; reshape it"
        )
    bounds = arrays[f"range_{name}"].tolist() if f"range_{name}" in arrays else None
    try:
        rate_hz = float(str(arrays[f"rate_{name}"][()]))  # through its shortest text: a float32 0.1 stays 0.1
        limits = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    except (TypeError, ValueError, IndexError) as error:
        raise DatasetError(
            f"{file}: modality {name!r}: rate_ or range_ cannot be read ({error}); correct it"
        ) from error
    modality = ModalitySpec(
        name=name,
        kind=kind,
        channels=tuple(str(channel) for channel in np.atleast_1d(arrays[f"channels_{name}"]).tolist()),
        unit=str(arrays.get(f"unit_{name}", "")),
        rate_hz=rate_hz,
        samples=int(array.shape[1]),
        height=int(array.shape[2]) if is_video else None,
        width=int(array.shape[3]) if is_video else None,
        range=limits,
    )
    if kind == "series":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is counted as such
            return modality, array.astype(np.float32)
    return modality, array if present is None else with_present(array, present)
