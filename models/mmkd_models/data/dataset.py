"""A dataset directory: opened, memory-mapped, and given out as windows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.files import (
    RECORDINGS,
    Arrays,
    columns_of,
    file_of,
    is_cut_from_recordings,
    load_arrays,
    metadata_of,
    presence_file,
    structure_problems,
)
from mmkd_models.data.labels import blocks_of
from mmkd_models.data.sources import CutWindows, Rows, StoredWindows, WindowSource, latest_start_s, window_starts_s
from mmkd_models.data.spec import SPEC_FILE, SPLIT_NAMES, DatasetSpec, SplitName, problem_message, read_dataset_spec
from mmkd_models.data.windows import Windows, group_statistics

_HASHED_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """An opened dataset directory."""

    path: Path
    spec: DatasetSpec
    arrays: Arrays

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {self.spec.splits[split]}" for split in SPLIT_NAMES)
        return f"Dataset({str(self.path)!r}, {self.spec.name!r}, {counts}: {self.spec.shapes_text})"

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        """Pickle it as its directory: another process opens it once, and finds the same content."""
        return _open_same, (self.path.resolve(), self.sha256)

    @cached_property
    def sha256(self) -> str:
        """Hash over the content of `dataset.json` and of every array file; where the directory lies is not in it."""
        digest = hashlib.sha256()
        for name in sorted({SPEC_FILE, *map(file_of, self.arrays)}):
            digest.update(f"{name}\n{(self.path / name).stat().st_size}\n".encode())
            with (self.path / name).open("rb") as file:
                while block := file.read(_HASHED_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()

    def split(self, name: SplitName) -> Windows:
        """Return the windows of one split. Raise UsageError if the name is none of train, valid and test."""
        if name not in SPLIT_NAMES:
            raise UsageError(f"split {name!r}: expected train, valid or test; choose one of them")
        first = sum(self.spec.splits[earlier] for earlier in SPLIT_NAMES[: SPLIT_NAMES.index(name)])
        return self._everything.subset(np.arange(first, first + self.spec.splits[name]))

    def everything(self) -> Windows:
        """Return the windows of train, valid and test, in this order: for cross-validation."""
        return self._everything

    @cached_property
    def _everything(self) -> Windows:
        cut = is_cut_from_recordings(self.path, self.spec)
        windows = windows_of(self.spec, self.arrays, cut=cut)
        return replace(windows, statistics=group_statistics(windows))


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory: checks `dataset.json`, dtypes, shapes, labels and groups, and maps the arrays.

    The values of the windows are not read; `check_dataset` does that.

    Raise DatasetError if the directory breaks its contract; the message lists every problem found.
    """
    path = located(path)
    spec, arrays, _ = loaded(path)
    return Dataset(path=path, spec=spec, arrays=arrays)


@lru_cache(maxsize=2)
def _open_same(path: Path, sha256: str) -> Dataset:
    dataset = open_dataset(path)
    if dataset.sha256 != sha256:
        raise UsageError(
            f"{path}: expected dataset {sha256[:12]}, got {dataset.sha256[:12]}; use the same files on every host"
        )
    return dataset


def loaded(path: Path) -> tuple[DatasetSpec, Arrays, bool]:
    """Return `dataset.json`, the arrays, and whether windows are cut from recordings; errors as `open_dataset`."""
    spec = read_dataset_spec(path)
    cut = is_cut_from_recordings(path, spec)
    arrays, problems = load_arrays(path, spec)
    problems += structure_problems(spec, arrays, cut=cut)
    if (path / "train" / "columns.npz").exists():
        problems.append("columns.npz: the file is called metadata.npz now; rename it in every split")
    if not problems and cut:
        problems += _count_problems(spec, arrays)
    if problems:  # the windows can only be read when dtypes and shapes are right
        raise DatasetError(problem_message(path, problems))
    return spec, arrays, cut


def located(path: str | Path) -> Path:
    """Return a dataset directory: the path itself or, if it does not exist, the shipped dataset of that name."""
    is_name = not Path(path).exists() and str(path) in shipped_names()
    return shipped_dataset(str(path)) if is_name else Path(path)


def shipped_dataset(name: str = "watch_exercises") -> Path:
    """Return the directory of a dataset that is part of this package.

    Raise UsageError if there is none of that name; the message lists the names.
    """
    names = shipped_names()
    if name not in names:
        raise UsageError(f"shipped dataset {name!r}: there is none of that name; choose one of {', '.join(names)}")
    return Path(__file__).parent / name


def shipped_names() -> list[str]:
    """Return the names of the datasets that are part of this package."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob(f"*/{SPEC_FILE}"))


def windows_of(spec: DatasetSpec, arrays: Arrays, *, cut: bool) -> Windows:
    """Return all windows of checked arrays, train, valid and test in this order, without group statistics."""
    columns = columns_of(arrays, cut=cut)
    has_groups = "groups" in columns
    if not cut:
        return Windows(
            spec=spec,
            labels=columns["labels"],
            groups=columns["groups"] if has_groups else blocks_of(columns["splits"]),
            has_groups=has_groups,
            splits=columns["splits"],
            folds=columns.get("folds"),
            metadata=metadata_of(arrays),
            times=columns.get("times"),
            episodes=columns.get("episodes"),
            source=_stored_windows(spec, arrays),
            rows=np.arange(len(columns["labels"])),
        )
    source = _cut_windows(spec, arrays)
    rows = np.argsort(columns["splits"][source.recording], kind="stable")
    recording = source.recording[rows]
    return Windows(
        spec=spec,
        labels=columns["labels"][recording],
        groups=columns["groups"][recording] if has_groups else recording,
        has_groups=has_groups,
        splits=columns["splits"][recording],
        folds=columns["folds"][recording] if "folds" in columns else None,
        source=source,
        rows=rows,
    )


def _stored_windows(spec: DatasetSpec, arrays: Arrays) -> WindowSource:
    counts = [spec.splits[split] for split in SPLIT_NAMES]
    return StoredWindows(
        parts={
            modality.name: [np.asarray(arrays[f"{split}/{modality.name}.npy"]) for split in SPLIT_NAMES]
            for modality in spec.modalities
        },
        offsets=_starts(np.array([*counts, 0])),
        present={
            modality.name: [arrays.get(presence_file(split, modality.name)) for split in SPLIT_NAMES]
            for modality in spec.modalities
            if modality.kind == "video"
        },
    )


def _cut_windows(spec: DatasetSpec, arrays: Arrays) -> CutWindows:
    assert spec.recordings is not None  # windows are cut only where recordings are described
    hop_s = spec.recordings.hop_s
    lengths = arrays[f"{RECORDINGS}/lengths.npy"].astype(np.int64)  # (R, M)
    starts = [window_starts_s(row, spec.modalities, hop_s=hop_s) for row in lengths.tolist()]
    names = [modality.name for modality in spec.modalities]
    return CutWindows(
        samples={name: np.asarray(arrays[f"{RECORDINGS}/{name}.npy"]) for name in names},
        scale={name: np.array(scale, dtype=np.float32) for name, scale in spec.recordings.scale.items()},
        offsets={name: _starts(lengths[:, number]) for number, name in enumerate(names)},
        lengths={name: lengths[:, number] for number, name in enumerate(names)},
        recording=np.repeat(np.arange(len(lengths)), [len(row) for row in starts]),
        start_s=np.array([start for row in starts for start in row], dtype=np.float64),
        latest_start_s=np.array([latest_start_s(row, spec.modalities) for row in lengths.tolist()]),
        hop_s=hop_s,
        present={name: arrays[file] for name in names if (file := presence_file(RECORDINGS, name)) in arrays},
    )


def _starts(counts: Rows) -> Rows:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def window_counts(spec: DatasetSpec, arrays: Arrays) -> dict[str, int]:
    """Return how many windows of each split can be cut from checked recordings."""
    source = _cut_windows(spec, arrays)
    numbers = arrays[f"{RECORDINGS}/splits.npy"][source.recording]
    return {name: int((numbers == number).sum()) for number, name in enumerate(SPLIT_NAMES)}


def _count_problems(spec: DatasetSpec, arrays: Arrays) -> list[str]:
    """Return a message for every split of checked recordings that `dataset.json` counts wrongly."""
    found = window_counts(spec, arrays)
    return [
        f"{SPEC_FILE}: split {name!r}: expected {spec.splits[name]} windows, got {found[name]} cut from {RECORDINGS}/;"
        " correct 'splits' or 'recordings.hop_s'"
        for name in SPLIT_NAMES
        if found[name] != spec.splits[name]
    ]
