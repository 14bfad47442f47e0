"""Datasets from arrays: checked first, written to a temporary sibling, then renamed. All or nothing."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import DatasetError, UsageError, fault_of
from mmkd_edge.spec import ModalitySpec, TaskSpec, label_dtype
from mmkd_models.data.checking.check import content_problems
from mmkd_models.data.checking.odd_recordings import ODD_ADVICE, odd_warnings
from mmkd_models.data.checking.related import group_warnings, overlaps_of
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.dataset import Dataset, open_dataset, window_counts, windows_of
from mmkd_models.data.files import (
    METADATA,
    RECORDINGS,
    AnyArray,
    file_of,
    metadata_key,
    metadata_names,
    presence_file,
    structure_problems,
)
from mmkd_models.data.kinds import present_of, storable, storable_text
from mmkd_models.data.labels import UNKNOWN
from mmkd_models.data.spec import (
    SPEC_FILE,
    SPLIT_NAMES,
    DatasetSpec,
    RecordingsSpec,
    SplitName,
    problem_message,
    size_problems,
    spec_problems,
)

_LOG = logging.getLogger(__name__)
_COLUMNS = ("labels", "groups", "folds", "times", "episodes")
_METADATA = "metadata"
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One whole recording, longer than a window.

    Attributes:
        samples: for each modality (L, C), float32 in its unit with NaN for missing, or int16 counts to be scaled. Of
            sound float32 from -1 to 1, or int16; of video uint8 (L, H, W, C), masked where a frame is missing.
        label: class number, or -1 for unlabelled; of other tasks a row of labels or a number, see docs/datasets.md.
        group: the person, machine or session, a number or a name; it never straddles splits.
        fold: for cross-validation; the same for the whole group. Give it for all recordings or none.
    """

    samples: Mapping[str, npt.NDArray[Any]]
    label: int | float | Sequence[int]
    group: int | str
    split: SplitName
    fold: int | None = None


def write_dataset(
    path: str | Path,
    *,
    name: str,
    labels: Sequence[str] | TaskSpec,
    modalities: Sequence[ModalitySpec],
    splits: Mapping[str, Mapping[str, npt.ArrayLike | Mapping[str, npt.ArrayLike]]],
    source: str = "",
    licence: str = "",
    left_out: Mapping[str, int] = {},
    episode_names: Sequence[str] = (),
) -> Dataset:
    """Write a dataset directory from arrays of windows and opens it.

    Args:
        labels: class names in the order of the label numbers; a `TaskSpec` where the task is no classification.
        splits: for train, valid and test a mapping with one array (N, T, C) per modality, NaN for missing; of sound
            floats from -1 to 1, or int16; of video uint8 (N, T, H, W, C), a masked array where frames are missing.
            Beside them `labels` (N,) with class numbers (of other tasks as in docs/datasets.md), `groups` (N,), numbers
            or names of the person, machine or session of each window, and, if there are any, `folds` (N,), `times`
            (N,), UTC seconds at the window's start, `episodes` (N,), the number of the run it is of, and `metadata`, a
            mapping of facts such as machine or campaign, (N,) text or numbers each. Numbers are converted to the
            dtypes of the contract. Without groups nothing is dealt into folds, and nobody knows
            whether scores are of people and machines never seen; windows that overlap and have none are named in the
            log, as are recordings of another unit or gain.
        left_out: number of windows that are not in the dataset, by reason.

    Raises:
        DatasetError: the arrays break the contract of docs/datasets.md; nothing is written.
        UsageError: `path` exists.
    """
    spec = DatasetSpec(
        name=name,
        task=labels if isinstance(labels, TaskSpec) else TaskSpec(labels=tuple(labels)),
        modalities=tuple(modalities),
        splits={split: len(np.atleast_1d(np.asarray(arrays.get("labels", [])))) for split, arrays in splits.items()},
        source=source,
        licence=licence,
        left_out=dict(left_out) or msgspec.UNSET,
    )
    _check_spec(Path(path), spec)
    arrays = _arrays_of_splits(Path(path), spec, splits)
    return _write_checked(Path(path), spec, arrays, cut=False, episode_names=episode_names)


def write_recordings(
    path: str | Path,
    *,
    name: str,
    labels: Sequence[str] | TaskSpec,
    modalities: Sequence[ModalitySpec],
    recordings: Sequence[Recording],
    hop_s: float,
    scale: Mapping[str, Sequence[float]] | None = None,
    source: str = "",
    licence: str = "",
) -> Dataset:
    """Write a dataset directory from whole recordings, from which windows are cut at every multiple of `hop_s`.

    Args:
        scale: for modalities given as int16, what one count of each channel is worth in its unit.

    Raises:
        DatasetError: the recordings break the contract of docs/datasets.md; nothing is written.
        UsageError: `path` exists.
    """
    path = Path(path)
    spec = DatasetSpec(
        name=name,
        task=labels if isinstance(labels, TaskSpec) else TaskSpec(labels=tuple(labels)),
        modalities=tuple(modalities),
        splits=dict.fromkeys(SPLIT_NAMES, 1),  # counted below, when the lengths are known to be sound
        source=source,
        licence=licence,
        recordings=RecordingsSpec(hop_s=hop_s, scale={key: tuple(row) for key, row in (scale or {}).items()}),
    )
    _check_spec(path, spec)
    arrays = _arrays_of_recordings(path, spec, recordings)
    problems = list(structure_problems(spec, arrays, cut=True))
    if problems:
        raise DatasetError(problem_message(path, problems))
    spec = msgspec.structs.replace(spec, splits=window_counts(spec, arrays))
    _check_spec(path, spec)
    return _write_checked(path, spec, arrays, cut=True)


def check_absent(path: Path) -> None:
    """Refuse a directory that exists: a dataset is never replaced.

    Raise UsageError if there is something at the path.
    """
    if path.exists():
        raise UsageError(
            f"{path}: expected a path where nothing is yet, got one that exists; remove it or choose another"
        )


def _check_spec(path: Path, spec: DatasetSpec) -> None:
    check_absent(path)
    problems = [*spec_problems(spec), *size_problems(spec)]
    if problems:
        raise DatasetError(problem_message(path, problems))


def _arrays_of_splits(
    path: Path, spec: DatasetSpec, splits: Mapping[str, Mapping[str, npt.ArrayLike | Mapping[str, npt.ArrayLike]]]
) -> dict[str, AnyArray]:
    names = [modality.name for modality in spec.modalities]
    arrays: dict[str, AnyArray] = {}
    problems: list[str] = []
    for split in SPLIT_NAMES:
        given = splits[split]
        problems += [
            f"splits[{split!r}]: array {key!r} is missing; give one per modality and labels"
            for key in (*names, "labels")
            if key not in given
        ]
        for key, values in given.items():
            if isinstance(values, Mapping) and key == _METADATA:
                arrays.update(_metadata(split, values, problems))
                continue
            if key not in (*names, *_COLUMNS):
                problems.append(
                    f"splits[{split!r}]: {key!r} is no modality and none of {', '.join((*_COLUMNS, _METADATA))};"
                    " describe it in 'modalities' or leave it out"
                )
                continue
            if key in names and not isinstance(values, Mapping):
                arrays.update(_stored(f"splits[{split!r}][{key!r}]", split, spec.modality(key), values, problems))
                continue
            dtype = _dtype(spec, key)
            converted = _names(np.asarray(values)) if key == "groups" else None
            converted = _converted(np.asarray(values), dtype=dtype) if converted is None else converted
            if converted is None:
                got = np.asarray(values).dtype
                problems.append(f"splits[{split!r}][{key!r}]: expected numbers that fit {dtype}, got {got}; convert it")
            else:
                arrays[f"{split}/{key}.npy"] = converted
    if problems:
        raise DatasetError(problem_message(path, problems))
    return arrays


def _stored(
    where: str, folder: str, modality: ModalitySpec, values: npt.ArrayLike, problems: list[str]
) -> dict[str, AnyArray]:
    """The files of one modality in one folder; values that cannot be stored are added to the problems."""
    array = values if isinstance(values, np.ma.MaskedArray) and modality.kind == "video" else np.asarray(values)
    stored = storable(array, modality.kind)
    if stored is None:
        problems.append(f"{where}: expected {storable_text(modality.kind)}, got {array.dtype}; convert it")
        return {}
    found = {f"{folder}/{modality.name}.npy": stored}
    present = present_of(array) if modality.kind == "video" and array.ndim > 3 else None
    return found if present is None else {**found, presence_file(folder, modality.name): present}


def _metadata(split: str, values: Mapping[str, npt.ArrayLike], problems: list[str]) -> dict[str, AnyArray]:
    """The metadata of one split as they are stored; what cannot be is added to the problems."""
    found: dict[str, AnyArray] = {}
    for name, given in values.items():
        array = np.asarray(given)
        text = _names(array)
        if text is not None:
            found[metadata_key(split, name)] = text
        elif array.dtype.kind in "biuf":
            found[metadata_key(split, name)] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        else:
            problems.append(
                f"splits[{split!r}]['metadata'][{name!r}]: expected text or numbers, got {array.dtype}; convert it"
            )
    return found


def _dtype(spec: DatasetSpec, key: str) -> str:
    if key == "times":
        return "float64"
    if key == "labels":
        return label_dtype(spec.task.kind)
    return "int64"


def _names(values: AnyArray) -> AnyArray | None:
    """Return text as text, also where it comes as objects, as pandas has it; None if it is no text."""
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        return values.astype(np.str_)
    return values if values.dtype.kind == "U" else None


def _converted(values: AnyArray, *, dtype: str) -> AnyArray | None:
    """Return the values in that dtype, or None where that would lose more than precision."""
    allowed = "biuf" if dtype.startswith("float") else "biu"
    if values.dtype.kind not in allowed or (dtype == "uint8" and not np.isin(values, (0, 1, UNKNOWN)).all()):
        return None
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the check refuses
        return np.ascontiguousarray(values, dtype=dtype)


def _arrays_of_recordings(path: Path, spec: DatasetSpec, recordings: Sequence[Recording]) -> dict[str, AnyArray]:
    names = [modality.name for modality in spec.modalities]
    problems = [
        f"recordings[{number}]: expected samples of {', '.join(names)}, got {', '.join(recording.samples)};"
        " give every modality and no other"
        for number, recording in enumerate(recordings)
        if set(recording.samples) != set(names)
    ]
    with_fold = [recording.fold for recording in recordings if recording.fold is not None]
    if 0 < len(with_fold) < len(recordings) or not recordings:
        problems.append(
            f"recordings: expected one or more, with a fold for all or none, got {len(recordings)},"
            f" {len(with_fold)} with a fold; complete them"
        )
    if problems:
        raise DatasetError(problem_message(path, problems))
    arrays: dict[str, AnyArray] = {}
    for modality in spec.modalities:
        arrays.update(_end_to_end(modality, [recording.samples[modality.name] for recording in recordings], problems))
    if problems:
        raise DatasetError(problem_message(path, problems))
    lengths = [[len(recording.samples[name]) for name in names] for recording in recordings]
    arrays[f"{RECORDINGS}/lengths.npy"] = np.array(lengths, dtype=np.int64)
    arrays[f"{RECORDINGS}/labels.npy"] = _labels(path, spec, recordings)
    arrays[f"{RECORDINGS}/groups.npy"] = _groups(path, [recording.group for recording in recordings])
    numbers = [SPLIT_NAMES.index(recording.split) for recording in recordings]
    arrays[f"{RECORDINGS}/splits.npy"] = np.array(numbers, dtype=np.int8)
    if with_fold:
        arrays[f"{RECORDINGS}/folds.npy"] = np.array(with_fold, dtype=np.int64)
    return arrays


def _groups(path: Path, groups: Sequence[int | str]) -> AnyArray:
    named = {isinstance(group, str) for group in groups}
    if len(named) > 1:
        problem = "recordings: expected groups that are all numbers or all names, got both; write names for all"
        raise DatasetError(problem_message(path, [problem]))
    return np.array(groups, dtype=np.str_ if named == {True} else np.int64)


def _labels(path: Path, spec: DatasetSpec, recordings: Sequence[Recording]) -> AnyArray:
    dtype = label_dtype(spec.task.kind)
    try:
        labels = _converted(np.array([recording.label for recording in recordings]), dtype=dtype)
    except ValueError:  # rows of different lengths
        labels = None
    if labels is None:
        problem = f"recordings: expected labels that fit {dtype}, all of one shape, got others; convert them"
        raise DatasetError(problem_message(path, [problem]))
    return labels


def _end_to_end(
    modality: ModalitySpec, samples: Sequence[npt.NDArray[Any]], problems: list[str]
) -> dict[str, AnyArray]:
    """The files of one modality of all recordings; what cannot be stored is added to the problems."""
    parts: list[AnyArray] = []
    for number, one in enumerate(samples):
        is_counts = modality.kind == "series" and one.dtype == np.int16
        stored = one if is_counts else storable(one, modality.kind)
        if stored is None:
            wanted = storable_text(modality.kind)
            problems.append(
                f"recordings[{number}]: samples of {modality.name!r}: expected {wanted}, got {one.dtype}; convert them"
            )
        else:
            parts.append(stored)
    if problems:
        return {}
    found = {f"{RECORDINGS}/{modality.name}.npy": np.concatenate(parts)}
    present = [present_of(one) if modality.kind == "video" else None for one in samples]
    if any(one is not None for one in present):
        there = [np.ones(len(part), np.uint8) if one is None else one for one, part in zip(present, parts, strict=True)]
        found[presence_file(RECORDINGS, modality.name)] = np.concatenate(there)
    return found


def _write_checked(
    path: Path, spec: DatasetSpec, arrays: Mapping[str, AnyArray], *, cut: bool, episode_names: Sequence[str] = ()
) -> Dataset:
    problems = list(structure_problems(spec, arrays, cut=cut))
    if not problems:
        windows = windows_of(spec, arrays, cut=cut)
        scan, overlaps = scan_windows(windows), overlaps_of(windows)
        problems = list(content_problems(windows, scan, overlaps, cut=cut))
    if problems:
        raise DatasetError(problem_message(path, problems))
    odd = (f"{text}; {ODD_ADVICE}" for text in odd_warnings(windows, scan, names=episode_names))
    for warning in (*group_warnings(windows, overlaps), *odd):
        _LOG.warning("dataset %s: %s", path, warning)
    try:
        _write(path, spec, arrays)
    except OSError as error:
        raise UsageError(f"{path}: cannot write it: {fault_of(error)}; nothing is left of it") from error
    return open_dataset(path)


def _write(path: Path, spec: DatasetSpec, arrays: Mapping[str, AnyArray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for split in {name.partition("/")[0] for name in arrays}:
            (temporary / split).mkdir()
            metadata = {name: arrays[metadata_key(split, name)] for name in metadata_names(arrays, split)}
            if metadata:
                _save_metadata(temporary / split / METADATA, metadata)
        for name, array in arrays.items():
            if file_of(name) == name:
                _save(temporary / name, array)
        text = msgspec.json.format(msgspec.json.encode(spec), indent=2)
        (temporary / SPEC_FILE).write_bytes(text + b"\n")
        temporary.chmod(0o755)  # mkdtemp lets nobody else in; a dataset is an ordinary directory
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _save_metadata(file: Path, metadata: Mapping[str, AnyArray]) -> None:
    """Write an archive as `np.savez` does, which takes no array by a name of its own parameters, such as `file`."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in metadata.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def _save(file: Path, array: AnyArray) -> None:
    """Write an array as `np.save` does, which takes a file for whole when the disk was full at its very end."""
    array = np.ascontiguousarray(array)
    with file.open("wb") as opened:
        header = np.lib.format.header_data_from_array_1_0(array)  # type: ignore[no-untyped-call]
        np.lib.format.write_array_header_1_0(opened, header)  # type: ignore[no-untyped-call]
        rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
        for first in range(0, len(array), rows):
            opened.write(array[first : first + rows].data)
            let_go(array)
