"""A dataset directory, memory-mapped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_models.data import files
from mmkd_models.data.labels import find_blocks
from mmkd_models.data.spec import SPEC_FILE, SPLIT_NAMES, DatasetSpec, SplitName, read_dataset_spec, refuse
from mmkd_models.data.windows import (
    CutWindows,
    GroupStatistics,
    Rows,
    StoredWindows,
    Windows,
    WindowSource,
    latest_start_s,
    window_starts_s,
)

_HASHED_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """An open dataset directory."""

    path: Path
    spec: DatasetSpec
    arrays: files.Arrays

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {self.spec.splits[split]}" for split in SPLIT_NAMES)
        return f"Dataset({str(self.path)!r}, {self.spec.name!r}, {counts}: {self.spec.shapes_text})"

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return _open_same, (self.path.resolve(), self.sha256)

    @cached_property
    def sha256(self) -> str:
        """Hash of `dataset.json` and every array file, without the path."""
        digest = hashlib.sha256()
        for name in sorted({SPEC_FILE, *map(files.array_file, self.arrays)}):
            digest.update(f"{name}\n{(self.path / name).stat().st_size}\n".encode())
            with (self.path / name).open("rb") as file:
                while block := file.read(_HASHED_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()

    def split(self, name: SplitName) -> Windows:
        """Return one split. Raise UsageError for an unknown name."""
        if name not in SPLIT_NAMES:
            raise UsageError(f"split {name!r}: expected train, valid or test; choose one of them")
        return self._everything.subset(np.flatnonzero(self._everything.splits == SPLIT_NAMES.index(name)))

    def everything(self) -> Windows:
        """Return train, valid and test windows, in this order."""
        return self._everything

    @cached_property
    def _everything(self) -> Windows:
        windows = make_windows(self.spec, self.arrays)
        return replace(windows, statistics=GroupStatistics(windows=windows, groups=np.unique(windows.groups)))


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory without reading values. Raise DatasetError with every problem of its files."""
    path = locate_dataset(path)
    spec, arrays = load_directory(path)
    return Dataset(path=path, spec=spec, arrays=arrays)


@lru_cache(maxsize=2)
def _open_same(path: Path, sha256: str) -> Dataset:
    dataset = open_dataset(path)
    if dataset.sha256 != sha256:
        raise UsageError(
            f"{path}: expected dataset {sha256[:12]}, got {dataset.sha256[:12]}; use the same files on every host"
        )
    return dataset


def load_directory(path: Path) -> tuple[DatasetSpec, files.Arrays]:
    """Return `dataset.json` and the arrays; errors as `open_dataset`."""
    spec = read_dataset_spec(path)
    arrays, problems = files.load_arrays(path, spec)
    if not problems and files.is_cut(arrays):
        counts = window_counts(spec, arrays)
        problems = [
            f"{SPEC_FILE}: split {name!r}: expected {spec.splits[name]} windows, got {counts[name]} cut from"
            f" {files.RECORDINGS}/; correct 'splits' or 'recordings.hop_s'"
            for name in SPLIT_NAMES
            if counts[name] != spec.splits[name]
        ]
    refuse(f"dataset {path}", problems)  # windows need correct dtypes and shapes
    return spec, arrays


def locate_dataset(path: str | Path) -> Path:
    """Return the path of a dataset, or of the shipped dataset of this name."""
    is_name = not Path(path).exists() and str(path) in shipped_names()
    return shipped_dataset(str(path)) if is_name else Path(path)


def shipped_dataset(name: str = "watch_exercises") -> Path:
    """Return a shipped dataset's directory. Raise UsageError if the name is unknown."""
    names = shipped_names()
    if name not in names:
        raise UsageError(f"shipped dataset {name!r}: the name is unknown; choose one of {', '.join(names)}")
    return Path(__file__).parent / name


def shipped_names() -> list[str]:
    """Return the names of shipped datasets."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob(f"*/{SPEC_FILE}"))


def make_windows(spec: DatasetSpec, arrays: files.Arrays) -> Windows:
    """Return the windows of checked arrays in the order train, valid, test, without group statistics."""
    columns = files.join_splits(arrays)
    source: WindowSource
    if files.is_cut(arrays):
        source = _cut_windows(spec, arrays)
        rows = np.argsort(columns["splits"][source.recording], kind="stable")
        owners = source.recording[rows]
        columns = {name: values[owners] for name, values in columns.items()}
    else:
        counts = np.array([*(spec.splits[split] for split in SPLIT_NAMES), 0])
        source = StoredWindows(
            parts={
                modality.name: [np.asarray(arrays[f"{split}/{modality.name}.npy"]) for split in SPLIT_NAMES]
                for modality in spec.modalities
            },
            offsets=_starts(counts),
            present={
                modality.name: [arrays.get(files.presence_file(split, modality.name)) for split in SPLIT_NAMES]
                for modality in spec.modalities
                if modality.kind == "video"
            },
        )
        rows = np.arange(len(columns["labels"]))
        owners = find_blocks(columns["splits"])
    return Windows(
        spec=spec,
        labels=columns["labels"],
        groups=columns.get("groups", owners),
        has_groups="groups" in columns,
        splits=columns["splits"],
        folds=columns.get("folds"),
        metadata={
            name: np.concatenate([arrays[files.metadata_key(split, name)] for split in SPLIT_NAMES])
            for name in files.metadata_names(arrays)
        },
        times=columns.get("times"),
        starts=columns.get("starts"),
        episodes=columns.get("episodes"),
        source=source,
        rows=rows,
    )


def _cut_windows(spec: DatasetSpec, arrays: files.Arrays) -> CutWindows:
    assert spec.recordings is not None
    hop_s = spec.recordings.hop_s
    lengths = arrays[f"{files.RECORDINGS}/lengths.npy"].astype(np.int64)  # (R, M)
    starts = [window_starts_s(row, spec.modalities, hop_s=hop_s) for row in lengths.tolist()]
    names = [modality.name for modality in spec.modalities]
    return CutWindows(
        samples={name: np.asarray(arrays[f"{files.RECORDINGS}/{name}.npy"]) for name in names},
        scale={name: np.array(scale, dtype=np.float32) for name, scale in spec.recordings.scale.items()},
        offsets={name: _starts(lengths[:, number]) for number, name in enumerate(names)},
        lengths={name: lengths[:, number] for number, name in enumerate(names)},
        recording=np.repeat(np.arange(len(lengths)), [len(row) for row in starts]),
        start_s=np.array([start for row in starts for start in row], dtype=np.float64),
        latest_start_s=np.array([latest_start_s(row, spec.modalities) for row in lengths.tolist()]),
        hop_s=hop_s,
        present={
            name: arrays[file] for name in names if (file := files.presence_file(files.RECORDINGS, name)) in arrays
        },
    )


def _starts(counts: Rows) -> Rows:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def window_counts(spec: DatasetSpec, arrays: files.Arrays) -> dict[str, int]:
    """Return the windows per split cut from checked recordings."""
    source = _cut_windows(spec, arrays)
    numbers = arrays[f"{files.RECORDINGS}/splits.npy"][source.recording]
    return {name: int((numbers == number).sum()) for number, name in enumerate(SPLIT_NAMES)}
