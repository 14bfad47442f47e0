"""Datasets from arrays: checked, written to a temporary sibling, then renamed."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError, os_reason
from mmkd_edge.spec import ModalitySpec, TaskSpec, label_dtype
from mmkd_models.arrays import let_go
from mmkd_models.data import files
from mmkd_models.data.checking.findings import refuse_errors, rule_findings, shared_findings
from mmkd_models.data.checking.levels import level_findings
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.dataset import Dataset, make_windows, open_dataset, window_counts
from mmkd_models.data.labels import UNKNOWN
from mmkd_models.data.spec import (
    FULL_SCALE,
    MISSING_COUNT,
    SPEC_FILE,
    SPLIT_NAMES,
    STORABLE,
    DatasetSpec,
    RecordingsSpec,
    SplitName,
    frame_presence,
    refuse,
    size_problems,
    spec_problems,
    storable,
    with_present,
)
from mmkd_models.data.spec import Values as Samples

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 26

Values = Mapping[str, npt.ArrayLike | Mapping[str, npt.ArrayLike]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One whole recording, longer than a window.

    Attributes:
        samples: by modality (L, C): float32, NaN = missing, or int16; video uint8 (L, H, W, C), perhaps masked.
        label: class number, -1 unlabelled; for other tasks a row of labels or a number.
        group: person, machine or session.
        fold: for all recordings or none; one per group.
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
    splits: Mapping[str, Values],
    source: str = "",
    licence: str = "",
    left_out: Mapping[str, int] = {},
    episode_names: Sequence[str] = (),
    episode_files: Mapping[str, Sequence[str]] = {},
    derived: Sequence[str] = (),
) -> Dataset:
    """Write a dataset directory from arrays of windows and open it; suspicious recordings are logged as warnings.

    Args:
        labels: class names by label number; a `TaskSpec` for other tasks.
        splits: for train, valid and test an array (N, T, C) per modality (video: uint8 (N, T, H, W, C)), NaN or masked
            if missing, and `labels` (N,); optional `groups`, `folds`, `times` (UTC seconds at the start), `starts`
            (seconds of another clock), `episodes`, (N,) each, and `metadata`, a mapping of (N,) texts or numbers.
        episode_files: files of modalities by episode, where they are not those of `episode_names`.
        derived: texts of cheaper sensors to compare, such as `acc@25Hz`.

    Raise DatasetError if arrays break the contract of docs/datasets.md, UsageError if `path` exists.
    """
    spec = DatasetSpec(
        name=name,
        task=labels if isinstance(labels, TaskSpec) else TaskSpec(labels=tuple(labels)),
        modalities=tuple(modalities),
        splits={},
        source=source,
        licence=licence,
        left_out=dict(left_out) or None,
        episodes=tuple(episode_names) or None,
        episode_files={name: tuple(its_files) for name, its_files in episode_files.items()} or None,
        derived=tuple(derived) or None,
    )
    return write_windows(Path(path), spec, splits)


def write_windows(path: Path, spec: DatasetSpec, splits: Mapping[str, Values]) -> Dataset:
    """Write a dataset of this description, but for the counts of `splits`; arrays and errors as `write_dataset`."""
    counts = {split: len(np.atleast_1d(np.asarray(arrays.get("labels", [])))) for split, arrays in splits.items()}
    spec = msgspec.structs.replace(spec, splits=counts)
    _check_spec(path, spec)
    problems: list[str] = []
    arrays: dict[str, files.AnyArray] = {}
    for split in SPLIT_NAMES:
        arrays.update(_arrays_of_split(spec, split, splits[split], problems))
    refuse(f"dataset {path}", problems)
    return _write_checked(path, spec, arrays, cut=False)


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
    """Write a dataset directory from whole recordings; windows are cut at every multiple of `hop_s`.

    For int16 series, `scale` is the value of one count of each channel. Raise DatasetError if recordings break the
    contract of docs/datasets.md, UsageError if `path` exists.
    """
    path = Path(path)
    spec = DatasetSpec(
        name=name,
        task=labels if isinstance(labels, TaskSpec) else TaskSpec(labels=tuple(labels)),
        modalities=tuple(modalities),
        splits=dict.fromkeys(SPLIT_NAMES, 1),  # counted below, when the lengths are known to be valid
        source=source,
        licence=licence,
        recordings=RecordingsSpec(hop_s=hop_s, scale={key: tuple(row) for key, row in (scale or {}).items()}),
    )
    _check_spec(path, spec)
    arrays = _arrays_of_recordings(path, spec, recordings)
    refuse(f"dataset {path}", files.structure_problems(spec, arrays, cut=True))
    spec = msgspec.structs.replace(spec, splits=window_counts(spec, arrays))
    _check_spec(path, spec)
    return _write_checked(path, spec, arrays, cut=True)


def check_absent(path: Path) -> None:
    """Raise UsageError if the path exists: a dataset is never replaced."""
    if path.exists():
        raise UsageError(f"{path}: already exists; remove it or choose another path")


def store_windows(
    file: Path, modality: ModalitySpec, blocks: Iterable[Samples], *, count: int, counts: bool = False
) -> Samples:
    """Write windows (count, ...), a block at a time, to a scratch file, and map it, masked where frames are missing.

    With `counts` sound is written as int16, of which one is a 32768th of full scale.
    """
    as_counts = counts and modality.kind == "audio"
    dtype = np.dtype("<i2" if as_counts else modality.dtype)
    present, first = np.ones((count, modality.samples), dtype=np.uint8), 0
    header = {"descr": dtype.str, "fortran_order": False, "shape": (count, *modality.shape)}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        for values in blocks:
            if modality.kind == "video" and (frames := frame_presence(values)) is not None:
                present[first : first + len(values)] = frames
            plain, first = values.view(np.ndarray), first + len(values)
            if as_counts:
                rounded = np.rint(np.nan_to_num(plain) * FULL_SCALE).clip(-FULL_SCALE + 1, FULL_SCALE - 1)
                plain = np.where(np.isnan(plain), MISSING_COUNT, rounded.astype(np.int16))
            stream.write(np.ascontiguousarray(plain, dtype=dtype).data)
    stored: Samples = np.load(file, mmap_mode="r" if count else None)
    return with_present(stored, present) if modality.kind == "video" else stored


def _check_spec(path: Path, spec: DatasetSpec) -> None:
    check_absent(path)
    refuse(f"dataset {path}", [*spec_problems(spec), *size_problems(spec)])


def _arrays_of_split(spec: DatasetSpec, split: str, given: Values, problems: list[str]) -> dict[str, files.AnyArray]:
    modalities = {modality.name: modality for modality in spec.modalities}
    allowed = ("labels", *files.PER_WINDOW, "metadata")
    arrays: dict[str, files.AnyArray] = {}
    problems += [
        f"splits[{split!r}]: array {key!r} is missing; give one per modality and labels"
        for key in (*modalities, "labels")
        if key not in given
    ]
    for key, values in given.items():
        where = f"splits[{split!r}][{key!r}]"
        if key == "metadata" and isinstance(values, Mapping):
            for name, metadata in values.items():
                array = np.asarray(metadata)
                text = _text(array)
                if text is None and array.dtype.kind in "biuf":
                    text = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
                if text is None:
                    problems.append(f"{where}[{name!r}]: expected text or numbers, got {array.dtype}; convert it")
                else:
                    arrays[files.metadata_key(split, name)] = text
        elif key in modalities and not isinstance(values, Mapping):
            arrays.update(_sample_arrays(where, split, modalities[key], [values], problems))
        elif key not in allowed:
            problems.append(
                f"splits[{split!r}]: {key!r} is no modality and not one of {', '.join(allowed)};"
                " describe it in 'modalities' or leave it out"
            )
        else:
            dtype = label_dtype(spec.task.kind) if key == "labels" else files.PER_WINDOW[key][0]
            array = np.asarray(values)
            text = _text(array) if key == "groups" else None
            stored = _convert(array, dtype=dtype) if text is None else text
            if stored is None:
                problems.append(f"{where}: expected numbers that fit {dtype}, got {array.dtype}; convert it")
            else:
                arrays[f"{split}/{key}.npy"] = stored
    return arrays


def _text(values: files.AnyArray) -> files.AnyArray | None:
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        return values.astype(np.str_)
    return values if values.dtype.kind == "U" else None


def _convert(values: files.AnyArray, *, dtype: str) -> files.AnyArray | None:
    allowed = "biuf" if dtype.startswith("float") else "biu"
    if values.dtype.kind not in allowed or (dtype == "uint8" and not np.isin(values, (0, 1, UNKNOWN)).all()):
        return None
    with np.errstate(over="ignore"):  # infinite, which the check refuses
        return np.ascontiguousarray(values, dtype=dtype)


def _sample_arrays(
    where: str, folder: str, modality: ModalitySpec, samples: Sequence[npt.ArrayLike], problems: list[str]
) -> dict[str, files.AnyArray]:
    is_video = modality.kind == "video"
    given = [part if isinstance(part, np.ma.MaskedArray) and is_video else np.asarray(part) for part in samples]
    stored: list[files.AnyArray] = []
    for number, array in enumerate(given):
        is_counts = folder == files.RECORDINGS and modality.kind == "series" and array.dtype == np.int16
        part = array if is_counts else storable(array, modality.kind)
        if part is None:
            needed = STORABLE[modality.kind]
            problems.append(f"{where.format(number)}: expected {needed}, got {array.dtype}; convert it")
        else:
            stored.append(part)
    if len(stored) < len(given):
        return {}
    arrays = {f"{folder}/{modality.name}.npy": stored[0] if len(stored) == 1 else np.concatenate(stored)}
    if is_video:
        axes = 4 if folder == files.RECORDINGS else 5  # of frames without other faults
        present = [frame_presence(array) if array.ndim == axes else None for array in given]
        if any(part is not None for part in present):
            rows = [
                np.ones(array.shape[: axes - 3], np.uint8) if part is None else part
                for part, array in zip(present, given, strict=True)
            ]
            arrays[files.presence_file(folder, modality.name)] = np.concatenate(rows)
    return arrays


def _arrays_of_recordings(path: Path, spec: DatasetSpec, recordings: Sequence[Recording]) -> dict[str, files.AnyArray]:
    names = [modality.name for modality in spec.modalities]
    problems = [
        f"recordings[{number}]: expected samples of {', '.join(names)}, got {', '.join(recording.samples)};"
        " give every modality and no other"
        for number, recording in enumerate(recordings)
        if set(recording.samples) != set(names)
    ]
    folds = [recording.fold for recording in recordings if recording.fold is not None]
    if 0 < len(folds) < len(recordings) or not recordings:
        problems.append(
            f"recordings: expected one or more, with a fold for all or none, got {len(recordings)},"
            f" {len(folds)} with a fold; complete them"
        )
    if len({isinstance(recording.group, str) for recording in recordings}) > 1:
        problems.append("recordings: expected groups that are all numbers or all names, got both; write names for all")
    dtype = label_dtype(spec.task.kind)
    try:
        labels = _convert(np.array([recording.label for recording in recordings]), dtype=dtype)
    except ValueError:  # rows of different lengths
        labels = None
    if labels is None and recordings:
        problems.append(f"recordings: expected labels that fit {dtype}, all of one shape, got others; convert them")
    arrays: dict[str, files.AnyArray] = {}
    for modality in spec.modalities if not problems else ():
        samples = [recording.samples[modality.name] for recording in recordings]
        where = f"recordings[{{}}]: samples of {modality.name!r}"
        arrays.update(_sample_arrays(where, files.RECORDINGS, modality, samples, problems))
    refuse(f"dataset {path}", problems)
    assert labels is not None  # else a problem, as no recordings are
    groups = [recording.group for recording in recordings]
    columns = {
        "lengths": np.array([[len(recording.samples[name]) for name in names] for recording in recordings], np.int64),
        "labels": labels,
        "groups": np.array(groups, dtype=np.str_ if isinstance(groups[0], str) else np.int64),
        "splits": np.array([SPLIT_NAMES.index(recording.split) for recording in recordings], dtype=np.int8),
    }
    columns |= {"folds": np.array(folds, dtype=np.int64)} if folds else {}
    return arrays | {f"{files.RECORDINGS}/{name}.npy": array for name, array in columns.items()}


def _write_checked(path: Path, spec: DatasetSpec, arrays: Mapping[str, files.AnyArray], *, cut: bool) -> Dataset:
    refuse(f"dataset {path}", files.structure_problems(spec, arrays, cut=cut))
    windows = make_windows(spec, arrays)
    scan = scan_windows(windows)
    findings = [*rule_findings(scan), *shared_findings(windows, scan), *level_findings(scan)]
    for finding in findings:  # all in one run; before an error that may be of the same section
        if finding.kind in ("labels", "unit", "dead channel"):
            _LOG.warning("warning: %s", finding.text)
    refuse_errors(path, findings)
    for finding in findings:
        if finding.kind == "leak":
            _LOG.warning("warning: dataset %r: %s", spec.name, finding.text)
    try:
        _write(path, spec, arrays)
    except OSError as error:
        raise UsageError(f"{path}: cannot write it: {os_reason(error)}; nothing is left of it") from error
    return open_dataset(path)


def _write(path: Path, spec: DatasetSpec, arrays: Mapping[str, files.AnyArray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for split in {name.partition("/")[0] for name in arrays}:
            (temporary / split).mkdir()
            names = files.metadata_names(arrays, split)
            if names:  # as `np.savez` does, which takes no array called `file`
                with zipfile.ZipFile(temporary / split / files.METADATA, "w") as archive:
                    for name in names:
                        with archive.open(f"{name}.npy", "w") as member:
                            array = arrays[files.metadata_key(split, name)]
                            np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]
        for name, array in arrays.items():
            if files.array_file(name) == name:
                _save(temporary / name, array)
        text = msgspec.json.format(msgspec.json.encode(spec), indent=2)
        (temporary / SPEC_FILE).write_bytes(text + b"\n")
        temporary.chmod(0o755)  # mkdtemp makes it private; a dataset is an ordinary directory
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _save(file: Path, array: files.AnyArray) -> None:
    """Write as `np.save` does, which does not notice that the disk is full at the very end of a file."""
    array = np.ascontiguousarray(array)
    with file.open("wb") as opened:
        header = np.lib.format.header_data_from_array_1_0(array)  # type: ignore[no-untyped-call]
        np.lib.format.write_array_header_1_0(opened, header)  # type: ignore[no-untyped-call]
        rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
        for first in range(0, len(array), rows):
            opened.write(array[first : first + rows].data)
            let_go(array)
