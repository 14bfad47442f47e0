"""Array files of a dataset directory and their rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.files import lfs_pointer
from mmkd_edge.spec import label_dtype
from mmkd_models.arrays import ArraysError, map_array, read_npz
from mmkd_models.data.labels import UNKNOWN, UNLABELLED_MARKS, is_labelled
from mmkd_models.data.spec import SAMPLE_LETTERS, SPEC_FILE, SPLIT_NAMES, STORED_DTYPES, DatasetSpec

AnyArray = npt.NDArray[Any]
Arrays = Mapping[str, AnyArray]
"""By file name inside the dataset directory; an array of metadata is `train/metadata.npz:machine`."""

RECORDINGS = "recordings"
METADATA = "metadata.npz"
PER_WINDOW = {
    "groups": ("int64", "text"),
    "folds": ("int64",),
    "times": ("float64",),
    "starts": ("float64",),
    "episodes": ("int64",),
}
"""Optional arrays of one value per window, with the dtypes that they may have."""
MAX_SECONDS = (1 << 62) / 1e9
"""Distance of times from 1970 or a clock's start: 146 years."""


@dataclass(frozen=True, kw_only=True)
class ArrayRule:
    """Dtypes and shape of an array file; `letters` name axes."""

    name: str
    dtypes: tuple[str, ...]
    letters: str
    shape: tuple[int, ...]
    required: bool = True

    def problems(self, array: AnyArray) -> Iterator[str]:
        """Yield a message for a wrong dtype or shape."""
        is_text = array.dtype.kind == "U" and "text" in self.dtypes
        if not is_text and not any(array.dtype == dtype for dtype in self.dtypes if dtype != "text"):
            needed = " or ".join(self.dtypes)
            yield f"{self.name}: expected {needed}, got {array.dtype}; save it with .astype({self.dtypes[0]!r})"
        if array.shape != self.shape:
            is_transposed = array.ndim == 3 and array.transpose(0, 2, 1).shape == self.shape
            fix = "transpose it" if is_transposed else f"correct the array or {SPEC_FILE}"
            yield f"{self.name}: expected shape {self.letters}={self.shape}, got {array.shape}; {fix}"


def presence_file(folder: str, modality: str) -> str:
    """Return the file of a video's frame presence: `train/lips.frames.npy`."""
    return f"{folder}/{modality}.frames.npy"


def metadata_key(split: str, name: str) -> str:
    """Return the array key of metadata: `train/metadata.npz:machine`."""
    return f"{split}/{METADATA}:{name}"


def metadata_names(arrays: Arrays, split: str = "train") -> list[str]:
    """Return the metadata names of one split."""
    prefix = metadata_key(split, "")
    return [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]


def array_file(name: str) -> str:
    """Return the file of an array."""
    return name.partition(":")[0]


def is_cut(arrays: Arrays) -> bool:
    """Return whether windows are cut from recordings."""
    return f"{RECORDINGS}/splits.npy" in arrays


def _label_rule(spec: DatasetSpec, folder: str, letter: str, count: int) -> ArrayRule:
    task = spec.task
    several = task.kind == "multi_label"
    letters, shape = (f"({letter}, K)", (count, len(task.labels))) if several else (f"({letter},)", (count,))
    return ArrayRule(name=f"{folder}/labels.npy", dtypes=(label_dtype(task.kind),), letters=letters, shape=shape)


def _split_rules(spec: DatasetSpec, arrays: Arrays) -> Iterator[ArrayRule]:
    for split in SPLIT_NAMES:
        count = spec.splits[split]
        for modality in spec.modalities:
            yield ArrayRule(
                name=f"{split}/{modality.name}.npy",
                dtypes=STORED_DTYPES[modality.kind],
                letters=f"(N, T, {SAMPLE_LETTERS[modality.kind]})",
                shape=(count, *modality.shape),
            )
            if modality.kind == "video":
                name, shape = presence_file(split, modality.name), (count, modality.samples)
                yield ArrayRule(name=name, dtypes=("uint8",), letters="(N, T)", shape=shape, required=False)
        yield _label_rule(spec, split, "N", count)
        optional = {f"{split}/{name}.npy": dtypes for name, dtypes in PER_WINDOW.items()}
        for name in metadata_names(arrays, split):
            optional[metadata_key(split, name)] = ("text", "int64", "float64")
        for name, dtypes in optional.items():
            yield ArrayRule(name=name, dtypes=dtypes, letters="(N,)", shape=(count,), required=False)


def _recording_rules(spec: DatasetSpec, arrays: Arrays) -> Iterator[ArrayRule]:
    lengths = arrays.get(f"{RECORDINGS}/lengths.npy")
    names = (f"{RECORDINGS}/{name}.npy" for name in ("labels", "lengths", "splits"))
    count = next((len(arrays[name]) for name in names if name in arrays and arrays[name].ndim), 0)
    yield _label_rule(spec, RECORDINGS, "R", count)
    shape = (count, len(spec.modalities))
    yield ArrayRule(name=f"{RECORDINGS}/lengths.npy", dtypes=("int64",), letters="(R, M)", shape=shape)
    per_recording = {"groups": PER_WINDOW["groups"], "folds": PER_WINDOW["folds"], "splits": ("int8",)}
    for name, dtypes in per_recording.items():
        file, is_required = f"{RECORDINGS}/{name}.npy", name == "splits"
        yield ArrayRule(name=file, dtypes=dtypes, letters="(R,)", shape=(count,), required=is_required)
    for number, modality in enumerate(spec.modalities):
        name = f"{RECORDINGS}/{modality.name}.npy"
        if lengths is not None and lengths.shape == shape and lengths.min(initial=0) >= 0:
            rows = int(lengths[:, number].sum())
        else:  # then the lengths are wrong, not the samples
            rows = len(arrays[name]) if name in arrays and arrays[name].ndim else 0
        yield ArrayRule(
            name=name,
            dtypes=("float32", "int16") if modality.kind == "series" else STORED_DTYPES[modality.kind],
            letters=f"(sum of lengths, {SAMPLE_LETTERS[modality.kind]})",
            shape=(rows, *modality.shape[1:]),
        )
        if modality.kind == "video":
            name, letters = presence_file(RECORDINGS, modality.name), "(sum of lengths,)"
            yield ArrayRule(name=name, dtypes=("uint8",), letters=letters, shape=(rows,), required=False)


def load_arrays(path: Path, spec: DatasetSpec) -> tuple[dict[str, AnyArray], list[str]]:
    """Map every array file read-only. Return arrays and problems."""
    cut = spec.recordings is not None and not any((path / name).is_dir() for name in SPLIT_NAMES)
    if spec.recordings is None and (path / RECORDINGS).is_dir() and not (path / SPLIT_NAMES[0]).is_dir():
        return {}, [f"{SPEC_FILE}: 'recordings': expected how windows are cut, since {RECORDINGS}/ is there; add it"]
    rules = _recording_rules if cut else _split_rules
    required = {rule.name: rule.required for rule in rules(spec, {})}
    required |= {} if cut else {f"{split}/{METADATA}": False for split in SPLIT_NAMES}
    arrays: dict[str, AnyArray] = {}
    problems: list[str] = []
    for name, is_required in required.items():
        file = path / name
        if not file.is_file():
            if is_required:
                problems.append(f"{name}: the file is missing; write it or take it out of {SPEC_FILE}")
            continue
        try:
            if file.suffix == ".npz":
                arrays.update({f"{name}:{key}": array for key, array in read_npz(file).items()})
            else:
                arrays[name] = map_array(file)
        except ArraysError as error:
            got = lfs_pointer(file) or f"got something numpy cannot read ({error}); write it again"
            problems.append(f"{name}: expected a {file.suffix} array, {got}")
    return arrays, [*problems, *structure_problems(spec, arrays, cut=cut)]


def structure_problems(spec: DatasetSpec, arrays: Arrays, *, cut: bool) -> list[str]:
    """Return a message for every array that does not fit `dataset.json`; absent ones are ignored."""
    found = {
        rule.name: list(rule.problems(arrays[rule.name]))
        for rule in (_recording_rules if cut else _split_rules)(spec, arrays)
        if rule.name in arrays
    }
    problems = [text for texts in found.values() for text in texts]
    fitting = {name: arrays[name] for name, texts in found.items() if not texts}
    problems += _content_problems(spec, fitting)
    problems += _recording_problems(spec, fitting) if cut else _split_problems(arrays)
    needed = [f"{RECORDINGS}/splits.npy"] if cut else []
    needed += [f"{folder}/labels.npy" for folder in ((RECORDINGS,) if cut else SPLIT_NAMES)]
    if problems or any(name not in arrays for name in needed):
        return problems
    return list(_group_problems(spec, arrays))


def _content_problems(spec: DatasetSpec, arrays: Arrays) -> Iterator[str]:
    for name, array in arrays.items():
        if name.endswith("/labels.npy"):
            task, fix = spec.task, "correct the labels"
            if task.kind in ("classification", "normal"):
                highest = len(task.labels) - 1
                wrong, expected = (array < -1) | (array > highest), f"-1 (unlabelled) or a class from 0 to {highest}"
                fix = f"correct the labels or add the classes to {SPEC_FILE}"
            elif task.kind == "multi_label":
                wrong = ~(np.isin(array, (0, 1)).all(axis=1) | (array == UNKNOWN).all(axis=1))
                expected = f"a row of 0 (off) and 1 (on), or all {UNKNOWN} (unlabelled)"
            else:
                low, high = task.range or (-np.inf, np.inf)
                wrong = np.isinf(array) | (array < low) | (array > high)
                expected = f"NaN (unlabelled) or a number{f' from {low:g} to {high:g}' if task.range else ''}"
                fix = "correct the targets" + (f" or 'task.range' in {SPEC_FILE}" if task.range else "")
            rows = np.flatnonzero(wrong)
            if len(rows):
                got = array[rows[0]].tolist()
                yield f"{name}: expected {expected}, got {got} in row {int(rows[0])} ({len(rows)} in all); {fix}"
        elif name.endswith(".frames.npy") and (array > 1).any():
            yield f"{name}: expected 1 (the frame is there) or 0 (it is missing), got {array.max()}; correct it"
        elif name.endswith(("/times.npy", "/starts.npy")) and not (np.abs(array) <= MAX_SECONDS).all():
            row = int(np.flatnonzero(~(np.abs(array) <= MAX_SECONDS))[0])
            what = name.rpartition("/")[2].removesuffix(".npy")
            kind = "UTC seconds" if what == "times" else "seconds"
            yield f"{name}: expected {kind}, got {array[row]} in row {row}; leave {what} out, or give all"
        elif name.endswith("/episodes.npy") and spec.episodes is not None and len(array):
            low, high, count = int(array.min()), int(array.max()), len(spec.episodes)
            if low < 0 or high >= count:
                expected = f"numbers from 0 to {count - 1}, of 'episodes' in {SPEC_FILE}"
                yield f"{name}: expected {expected}, got {low} to {high}; name every episode, or none"


def _split_problems(arrays: Arrays) -> Iterator[str]:
    for name in PER_WINDOW:
        files = [f"{split}/{name}.npy" for split in SPLIT_NAMES]
        missing = [file for file in files if file not in arrays]
        if 0 < len(missing) < len(files):
            yield f"{', '.join(missing)}: missing while another split has {name}.npy; write it for all splits or none"
    expected = metadata_names(arrays)
    for split in SPLIT_NAMES[1:]:
        names = metadata_names(arrays, split)
        if set(names) != set(expected):
            yield (
                f"{split}/{METADATA}: expected the metadata of train, {', '.join(expected) or 'none'}, got"
                f" {', '.join(names) or 'none'}; write the same for all splits"
            )
    for title, key in {
        "groups": "{}/groups.npy",
        **{f"metadata {n!r}": metadata_key("{}", n) for n in expected},
    }.items():
        kinds = {arrays[name].dtype.kind for split in SPLIT_NAMES if (name := key.format(split)) in arrays}
        if len(kinds) > 1:
            yield f"{title}: expected one kind in all splits, text or numbers, got several; convert it"


def _recording_problems(spec: DatasetSpec, arrays: Arrays) -> Iterator[str]:
    assert spec.recordings is not None
    lengths, splits = arrays.get(f"{RECORDINGS}/lengths.npy"), arrays.get(f"{RECORDINGS}/splits.npy")
    if lengths is not None and bool((lengths < 0).any()):
        yield f"{RECORDINGS}/lengths.npy: expected numbers of samples, got {int(lengths.min())}; correct the lengths"
    for modality in spec.modalities:
        name = f"{RECORDINGS}/{modality.name}.npy"
        key, is_scaled = f"'recordings.scale.{modality.name}'", modality.name in spec.recordings.scale
        dtype = arrays[name].dtype if name in arrays else None
        if dtype == np.int16 and not is_scaled and modality.kind == "series":
            yield f"{name}: int16 samples need {key} in {SPEC_FILE}; add one number per channel"
        if dtype == np.float32 and is_scaled:
            yield f"{name}: float32 samples have no scale; remove {key} from {SPEC_FILE}"
    stray = [] if splits is None else splits[~np.isin(splits, (0, 1, 2))].tolist()
    if stray:
        yield f"{RECORDINGS}/splits.npy: expected 0 train, 1 valid or 2 test, got {stray[0]}; correct it"


def _group_problems(spec: DatasetSpec, arrays: Arrays) -> Iterator[str]:
    columns = join_splits(arrays)
    for number, split in enumerate(SPLIT_NAMES[1:], start=1):
        known = is_labelled(columns["labels"][columns["splits"] == number])
        unlabelled = int((~known).sum())
        if known.any() and unlabelled:
            where = f"{RECORDINGS if is_cut(arrays) else split}/labels.npy"
            yield (
                f"{where}: rows of {split} are unlabelled ({UNLABELLED_MARKS[spec.task.kind]}), {unlabelled} of"
                f" {len(known)}; only train may have some; label them, move their groups to train, or take all labels"
                f" of {split} out"
            )
    groups = columns.get("groups")
    if groups is None:
        for modality in spec.modalities:
            if modality.normalise == "per_group":
                yield f"modality {modality.name!r} is normalised per group, which needs groups.npy; write the groups"
        return
    if groups.dtype.kind == "U" and (groups == "").any():
        yield "groups: expected a name for every window, got an empty one; name the person, machine or session"
    shared = _groups_with_several(groups, columns["splits"])
    if shared:
        group, numbers = shared[0]
        names = " and ".join(SPLIT_NAMES[number] for number in numbers)
        yield (
            f"group {group!r} is in {names} ({len(shared)} in all); splits never share a group:"
            " move all its windows into one split"
        )
    torn = _groups_with_several(groups, columns["folds"]) if "folds" in columns else []
    if torn:
        group, numbers = torn[0]
        yield (
            f"group {group!r} is in folds {' and '.join(map(str, numbers))} ({len(torn)} in all); folds hold whole"
            " groups: give all its windows one fold"
        )


def join_splits(arrays: Arrays) -> dict[str, AnyArray]:
    """Return labels, splits (0 train, 1 valid, 2 test) and optional arrays, by window (N,) or recording."""
    names = ("labels", *PER_WINDOW)
    if is_cut(arrays):
        files = {name: f"{RECORDINGS}/{name}.npy" for name in (*names, "splits")}
        columns = {name: np.array(arrays[file]) for name, file in files.items() if file in arrays}
        return {**columns, "splits": columns["splits"].astype(np.int64)}
    columns = {
        name: np.concatenate([arrays[f"{split}/{name}.npy"] for split in SPLIT_NAMES])
        for name in names
        if f"train/{name}.npy" in arrays
    }
    counts = [len(arrays[f"{split}/labels.npy"]) for split in SPLIT_NAMES]
    return {**columns, "splits": np.repeat(np.arange(len(SPLIT_NAMES)), counts)}


def _groups_with_several(groups: AnyArray, numbers: npt.NDArray[np.int64]) -> list[tuple[int | str, list[int]]]:
    names, group = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.stack([group, numbers], axis=1), axis=0)
    several, counts = np.unique(pairs[:, 0], return_counts=True)
    return [(names[code].item(), pairs[pairs[:, 0] == code, 1].tolist()) for code in several[counts > 1]]
