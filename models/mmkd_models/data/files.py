"""The array files of a dataset directory: which there are, how they are mapped, what they must look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import ArraysError, map_array, read_npz
from mmkd_edge.spec import ModalitySpec, TaskSpec, label_dtype
from mmkd_models.data.kinds import sample_letters, stored_dtypes
from mmkd_models.data.labels import UNKNOWN, is_labelled, unlabelled_mark
from mmkd_models.data.spec import SPEC_FILE, SPLIT_NAMES, DatasetSpec

AnyArray = npt.NDArray[Any]
Arrays = Mapping[str, AnyArray]  # by the file's name inside the dataset directory

RECORDINGS = "recordings"
_DTYPES = {
    "groups": ("int64", "text"),
    "folds": ("int64",),
    "splits": ("int8",),
    "times": ("float64",),
    "episodes": ("int64",),
}
_PER_WINDOW = ("groups", "folds", "times", "episodes")  # optional, and then in every split
METADATA = "metadata.npz"


def is_cut_from_recordings(path: Path, spec: DatasetSpec) -> bool:
    """Whether windows come from `recordings/`: it is described and no split has a folder of its own."""
    return spec.recordings is not None and not any((path / name).is_dir() for name in SPLIT_NAMES)


def load_arrays(path: Path, spec: DatasetSpec) -> tuple[dict[str, AnyArray], list[str]]:
    """Map every array file of the dataset.

    Returns:
        The arrays by file name, memory-mapped read-only, and a message for every file that is missing or damaged.
    """
    arrays: dict[str, AnyArray] = {}
    problems: list[str] = []
    if spec.recordings is None and (path / RECORDINGS).is_dir() and not (path / SPLIT_NAMES[0]).is_dir():
        problems.append(
            f"{SPEC_FILE}: 'recordings': expected how windows are cut, since {RECORDINGS}/ is there; add it"
        )
        return arrays, problems
    for name, is_required in _file_names(spec, cut=is_cut_from_recordings(path, spec)):
        file = path / name
        if not file.is_file():
            if is_required:
                problems.append(f"{name}: the file is missing; write it or take it out of {SPEC_FILE}")
            continue
        try:
            arrays.update(_map_metadata(file, name) if file.suffix == ".npz" else {name: map_array(file)})
        except ArraysError as error:
            problems.append(
                f"{name}: expected a {file.suffix} array, got something numpy cannot read ({error}); write it again"
            )
    return arrays, problems


def _file_names(spec: DatasetSpec, *, cut: bool) -> Iterator[tuple[str, bool]]:
    folders: tuple[str, ...] = (RECORDINGS,) if cut else SPLIT_NAMES
    for folder in folders:
        for modality in spec.modalities:
            yield f"{folder}/{modality.name}.npy", True
            if modality.kind == "video":
                yield presence_file(folder, modality.name), False
        yield f"{folder}/labels.npy", True
        yield f"{folder}/groups.npy", False
        yield f"{folder}/folds.npy", False
        if not cut:
            yield from ((f"{folder}/{column}.npy", False) for column in _per_window(spec)[2:])
            yield f"{folder}/{METADATA}", False
    if cut:
        yield f"{RECORDINGS}/lengths.npy", True
        yield f"{RECORDINGS}/splits.npy", True


def _per_window(spec: DatasetSpec) -> list[str]:
    """The optional files of one value per window; an old modality may have the name of one that came later."""
    names = [modality.name for modality in spec.modalities]
    return [column for column in _PER_WINDOW if column not in names]


def presence_file(folder: str, modality: str) -> str:
    """Return the name of the file that says which frames of a video are there: `train/lips.frames.npy`."""
    return f"{folder}/{modality}.frames.npy"


def metadata_key(split: str, column: str) -> str:
    """Return under which name an array of metadata is among the arrays of a dataset: `train/metadata.npz:machine`."""
    return f"{split}/{METADATA}:{column}"


def file_of(name: str) -> str:
    """Return the file in which an array of this name lies."""
    return name.partition(":")[0]


def metadata_names(arrays: Arrays, split: str = "train") -> list[str]:
    """Return the names of the metadata of one split, in the order of the file."""
    prefix = metadata_key(split, "")
    return [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]


def _map_metadata(file: Path, name: str) -> dict[str, AnyArray]:
    return {f"{name}:{column}": array for column, array in read_npz(file).items()}


def structure_problems(spec: DatasetSpec, arrays: Arrays, *, cut: bool) -> Iterator[str]:
    """Yield a message for every array that does not fit `dataset.json`; arrays that are not there are passed over."""
    found = list(_recording_problems(spec, arrays) if cut else _split_problems(spec, arrays))
    yield from found
    needed = (
        [f"{RECORDINGS}/labels.npy", f"{RECORDINGS}/splits.npy"] if cut else [f"{s}/labels.npy" for s in SPLIT_NAMES]
    )
    if not found and all(name in arrays for name in needed):
        yield from _group_problems(spec, arrays, cut=cut)


def _split_problems(spec: DatasetSpec, arrays: Arrays) -> Iterator[str]:
    for split in SPLIT_NAMES:
        count = spec.splits[split]
        for modality in spec.modalities:
            letters = f"(N, T, {sample_letters(modality.kind)})"
            yield from _dtype_and_shape_problems(
                arrays,
                f"{split}/{modality.name}.npy",
                dtypes=stored_dtypes(modality.kind),
                letters=letters,
                shape=(count, *modality.shape),
            )
            yield from _presence_problems(
                arrays, presence_file(split, modality.name), letters="(N, T)", shape=(count, modality.samples)
            )
        yield from _label_problems(spec, arrays, f"{split}/labels.npy", letter="N", count=count)
        for column in _per_window(spec):
            name = f"{split}/{column}.npy"
            yield from _dtype_and_shape_problems(arrays, name, dtypes=_DTYPES[column], letters="(N,)", shape=(count,))
    yield from _metadata_problems(spec, arrays)
    for column in _per_window(spec):
        names = [f"{split}/{column}.npy" for split in SPLIT_NAMES]
        missing = [name for name in names if name not in arrays]
        if 0 < len(missing) < len(names):
            yield f"{', '.join(missing)}: missing while another split has {column}.npy; write it for all splits or none"
    kinds = {arrays[name].dtype.kind for split in SPLIT_NAMES if (name := f"{split}/groups.npy") in arrays}
    if kinds == {"i", "U"}:
        yield "groups: expected numbers in all splits or names in all, got both; write names in all"


def _metadata_problems(spec: DatasetSpec, arrays: Arrays) -> Iterator[str]:
    """What is wrong with times and metadata."""
    for split in SPLIT_NAMES:
        times = arrays.get(f"{split}/times.npy") if "times" in _per_window(spec) else None
        if times is not None and not np.isfinite(times).all():
            row = int(np.flatnonzero(~np.isfinite(times))[0])
            yield (
                f"{split}/times.npy: expected UTC seconds, got {times[row]} in row {row}; leave times out, or give all"
            )
        names, expected = metadata_names(arrays, split), metadata_names(arrays)
        if set(names) != set(expected):
            yield (
                f"{split}/{METADATA}: expected the metadata of train, {', '.join(expected) or 'none'}, got"
                f" {', '.join(names) or 'none'}; write the same for all splits"
            )
        for name in names:
            yield from _dtype_and_shape_problems(
                arrays,
                metadata_key(split, name),
                dtypes=("text", "int64", "float64"),
                letters="(N,)",
                shape=(spec.splits[split],),
            )
    for name in metadata_names(arrays):
        kinds = {arrays[key].dtype.kind for split in SPLIT_NAMES if (key := metadata_key(split, name)) in arrays}
        if len(kinds) > 1:
            yield f"metadata {name!r}: expected one kind in all splits, text or numbers, got several; convert it"


def _recording_problems(spec: DatasetSpec, arrays: Arrays) -> Iterator[str]:
    labels = arrays.get(f"{RECORDINGS}/labels.npy")
    count = 0 if labels is None or labels.ndim == 0 else len(labels)
    yield from _label_problems(spec, arrays, f"{RECORDINGS}/labels.npy", letter="R", count=count)
    for column in ("groups", "folds", "splits"):
        name = f"{RECORDINGS}/{column}.npy"
        yield from _dtype_and_shape_problems(arrays, name, dtypes=_DTYPES[column], letters="(R,)", shape=(count,))
    lengths_name = f"{RECORDINGS}/lengths.npy"
    shape = (count, len(spec.modalities))
    lengths_found = list(
        _dtype_and_shape_problems(arrays, lengths_name, dtypes=("int64",), letters="(R, M)", shape=shape)
    )
    yield from lengths_found
    lengths = None if lengths_found else arrays.get(lengths_name)
    if lengths is not None and bool((lengths < 0).any()):
        yield f"{lengths_name}: expected numbers of samples, got {int(lengths.min())}; correct the lengths"
    for number, modality in enumerate(spec.modalities):
        rows = None if lengths is None else int(lengths[:, number].sum())
        yield from _samples_problems(spec, arrays, modality, rows=rows)
    splits = arrays.get(f"{RECORDINGS}/splits.npy")
    stray = [] if splits is None else splits[~np.isin(splits, (0, 1, 2))].tolist()
    if stray:
        yield f"{RECORDINGS}/splits.npy: expected 0 train, 1 valid or 2 test, got {stray[0]}; correct it"


def _samples_problems(spec: DatasetSpec, arrays: Arrays, modality: ModalitySpec, *, rows: int | None) -> Iterator[str]:
    name = f"{RECORDINGS}/{modality.name}.npy"
    array = arrays.get(name)
    if array is None:
        return
    scaled = spec.recordings is not None and modality.name in spec.recordings.scale
    key = f"'recordings.scale.{modality.name}'"
    if array.dtype == np.int16 and not scaled and modality.kind == "series":
        yield f"{name}: int16 samples need {key} in {SPEC_FILE}; add one number per channel"
    if array.dtype == np.float32 and scaled:
        yield f"{name}: float32 samples have no scale; remove {key} from {SPEC_FILE}"
    count = array.shape[0] if rows is None and array.ndim else rows or 0
    yield from _dtype_and_shape_problems(
        arrays,
        name,
        dtypes=("float32", "int16") if modality.kind == "series" else stored_dtypes(modality.kind),
        letters=f"(sum of lengths, {sample_letters(modality.kind)})",
        shape=(count, *modality.shape[1:]),
    )
    yield from _presence_problems(
        arrays, presence_file(RECORDINGS, modality.name), letters="(sum of lengths,)", shape=(count,)
    )


def _presence_problems(arrays: Arrays, name: str, *, letters: str, shape: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with the file of the frames that are there, where there is one."""
    found = list(_dtype_and_shape_problems(arrays, name, dtypes=("uint8",), letters=letters, shape=shape))
    yield from found
    stray = [] if found or name not in arrays else arrays[name][arrays[name] > 1].tolist()
    if stray:
        yield f"{name}: expected 1 (the frame is there) or 0 (it is missing), got {stray[0]}; correct it"


def _dtype_and_shape_problems(
    arrays: Arrays, name: str, *, dtypes: tuple[str, ...], letters: str, shape: tuple[int, ...]
) -> Iterator[str]:
    array = arrays.get(name)
    if array is None:
        return
    if not any(array.dtype.kind == "U" if dtype == "text" else array.dtype == np.dtype(dtype) for dtype in dtypes):
        yield f"{name}: expected {' or '.join(dtypes)}, got {array.dtype}; save it with .astype({dtypes[0]!r})"
    if array.shape == shape:
        return
    if array.ndim == 3 and array.transpose(0, 2, 1).shape == shape:
        fix = "transpose it"
    else:
        fix = f"correct the array or {SPEC_FILE}"
    yield f"{name}: expected shape {letters}={shape}, got {array.shape}; {fix}"


def _label_problems(spec: DatasetSpec, arrays: Arrays, name: str, *, letter: str, count: int) -> Iterator[str]:
    task = spec.task
    several = task.kind == "multi_label"
    letters, shape = (f"({letter}, K)", (count, len(task.labels))) if several else (f"({letter},)", (count,))
    dtype = label_dtype(task.kind)
    found = list(_dtype_and_shape_problems(arrays, name, dtypes=(dtype,), letters=letters, shape=shape))
    yield from found
    labels = arrays.get(name)
    if found or labels is None:
        return
    wrong, expected, fix = _wrong_labels(labels, task)
    rows = np.flatnonzero(wrong)
    if len(rows):
        got = labels[rows[0]].tolist()
        yield f"{name}: expected {expected}, got {got} in row {int(rows[0])} ({len(rows)} in all); {fix}"


def _wrong_labels(labels: AnyArray, task: TaskSpec) -> tuple[npt.NDArray[np.bool_], str, str]:
    """Which labels break the task's rule (N,), what the rule is, and what to do."""
    match task.kind:
        case "classification":
            highest = len(task.labels) - 1
            expected = f"-1 (unlabelled) or a class from 0 to {highest}"
            fix = f"correct the labels or add the classes to {SPEC_FILE}"
            return (labels < -1) | (labels > highest), expected, fix
        case "multi_label":
            sound = np.isin(labels, (0, 1)).all(axis=1) | (labels == UNKNOWN).all(axis=1)
            return ~sound, f"a row of 0 (off) and 1 (on), or all {UNKNOWN} (unlabelled)", "correct the labels"
        case "regression":
            low, high = task.range or (-np.inf, np.inf)
            wrong = np.isinf(labels) | (labels < low) | (labels > high)
            expected = f"NaN (unlabelled) or a number{f' from {low:g} to {high:g}' if task.range else ''}"
            return wrong, expected, "correct the targets" + (f" or 'task.range' in {SPEC_FILE}" if task.range else "")


def _group_problems(spec: DatasetSpec, arrays: Arrays, *, cut: bool) -> Iterator[str]:
    columns = columns_of(arrays, cut=cut)
    for split in SPLIT_NAMES[1:]:
        known = is_labelled(columns["labels"][columns["splits"] == SPLIT_NAMES.index(split)])
        unlabelled = int((~known).sum())
        if known.any() and unlabelled:  # one without any label is a new machine's, which nobody has labelled yet
            mark = unlabelled_mark(spec.task.kind)
            where = f"{RECORDINGS}/labels.npy" if cut else f"{split}/labels.npy"
            yield (
                f"{where}: rows of {split} are unlabelled ({mark}), {unlabelled} of {len(known)}; only train may have"
                f" some; label them, move their groups to train, or take all labels of {split} out"
            )
    if "groups" not in columns:
        for modality in spec.modalities:
            if modality.normalise == "per_group":
                yield f"modality {modality.name!r} is normalised per group, which needs groups.npy; write the groups"
        return
    if columns["groups"].dtype.kind == "U" and (columns["groups"] == "").any():
        yield "groups: expected a name for every window, got an empty one; name the person, machine or session"
    shared = _groups_with_several(columns["groups"], columns["splits"])
    if shared:
        group, numbers = shared[0]
        names = " and ".join(SPLIT_NAMES[number] for number in numbers)
        yield (
            f"group {group!r} is in {names} ({len(shared)} in all); splits never share a group:"
            " move all its windows into one split"
        )
    torn = _groups_with_several(columns["groups"], columns["folds"]) if "folds" in columns else []
    if torn:
        group, numbers = torn[0]
        names = " and ".join(str(number) for number in numbers)
        yield (
            f"group {group!r} is in folds {names} ({len(torn)} in all); folds hold whole groups:"
            " give all its windows one fold"
        )


def columns_of(arrays: Arrays, *, cut: bool) -> dict[str, AnyArray]:
    """Return labels, splits and, where they exist, groups and folds: one row per window, or per recording when cut."""
    if cut:
        names = {column: f"{RECORDINGS}/{column}.npy" for column in ("labels", "splits", "groups", "folds")}
        found = {column: np.array(arrays[name]) for column, name in names.items() if name in arrays}
        return {**found, "splits": found["splits"].astype(np.int64)}
    columns = {
        column: np.concatenate([arrays[f"{split}/{column}.npy"] for split in SPLIT_NAMES])
        for column in ("labels", *_PER_WINDOW)
        # an old modality may be called as a column that came later
        if f"train/{column}.npy" in arrays and (column == "labels" or arrays[f"train/{column}.npy"].ndim == 1)
    }
    counts = [len(arrays[f"{split}/labels.npy"]) for split in SPLIT_NAMES]
    return {**columns, "splits": np.repeat(np.arange(len(SPLIT_NAMES)), counts)}


def metadata_of(arrays: Arrays) -> dict[str, AnyArray]:
    """Return the metadata of a dataset of stored windows, one value per window, train, valid and test in this order."""
    return {
        name: np.concatenate([arrays[metadata_key(split, name)] for split in SPLIT_NAMES])
        for name in metadata_names(arrays)
    }


def _groups_with_several(groups: AnyArray, numbers: npt.NDArray[np.int64]) -> list[tuple[int | str, list[int]]]:
    names, group = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.stack([group, numbers], axis=1), axis=0)
    found, counts = np.unique(pairs[:, 0], return_counts=True)
    return [(names[one].item(), pairs[pairs[:, 0] == one, 1].tolist()) for one in found[counts > 1]]
