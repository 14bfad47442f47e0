"""HDF5 and MATLAB files in blocks: vectors are columns, arrays (L, C) are `name[0]`, `name[1]`..., groups `group/name`.

MATLAB writes the axes of its HDF5 files (v7.3) the other way round, and vectors as matrices of one row or column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.limits import MOST_COLUMNS, unpacked_problem
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, library, reading, require_one_length

_WHAT = "an HDF5 or MATLAB file"
_MAGIC = b"\x89HDF\r\n\x1a\n"
_NUMBERS = "biuf"
_LARGEST_NUMBER = 8  # bytes


def hdf5_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns. Raise DatasetError if the file is none of these."""
    with _opened(file) as arrays:
        names = tuple(_columns(arrays))
        if not names:
            raise DatasetError(f"{file}: expected arrays of numbers (L,) or (L, C), got none; write them as such")
        return names


def hdf5_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns in blocks; they have one length."""
    import polars as pl

    with _opened(file) as arrays:
        places = _columns(arrays)
        lengths = {name: _length(arrays[places[name][0]]) for name in columns}
        require_one_length(file, lengths)
        for first in range(0, lengths[columns[0]], BLOCK_ROWS):
            found = {name: _rows(arrays[places[name][0]], places[name][1], first) for name in columns}
            place = lambda row, first=first: f"{file}: row {first + row + 1}"  # noqa: E731
            yield RowBlock(file=file, frame=pl.DataFrame(found), place=place)


def _columns(arrays: Mapping[str, Any]) -> dict[str, tuple[str, int | None]]:
    """The array of each column, and which column of it."""
    found: dict[str, tuple[str, int | None]] = {}
    for name, array in arrays.items():
        if array.ndim == 1 or 1 in array.shape:
            found[name] = (name, None)
        elif array.shape[1] <= MOST_COLUMNS:
            found.update({f"{name}[{number}]": (name, number) for number in range(array.shape[1])})
    return found


def _length(array: Any) -> int:
    return int(max(array.shape)) if 1 in array.shape else int(array.shape[0])


def _rows(array: Any, column: int | None, first: int) -> Any:
    rows = slice(first, first + BLOCK_ROWS)
    if column is not None:
        return np.ascontiguousarray(array[rows, column])
    if array.ndim == 1:
        return np.asarray(array[rows])
    return np.asarray(array[0, rows] if array.shape[0] == 1 else array[rows, 0])


class _Turned:
    """A stored matrix with its axes the other way round, read piece by piece."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.shape, self.ndim = stored.shape[::-1], stored.ndim

    def __getitem__(self, key: tuple[Any, Any]) -> Any:
        return np.asarray(self._stored[key[::-1]]).T


@contextmanager
def _opened(file: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of numbers by name: of HDF5 as they lie in the file, of older MATLAB files in memory."""
    with reading(file, _WHAT):
        with file.open("rb") as raw:
            head = raw.read(1024)
        if _MAGIC in head:
            h5py = library("h5py", package="h5py", what="HDF5 files")
            with h5py.File(file, "r") as opened:
                yield _stored(file, h5py, opened, is_matlab=not head.startswith(_MAGIC))
        else:
            from scipy.io import loadmat, whosmat

            unpacked = sum(_LARGEST_NUMBER * math.prod(shape) for _, shape, _ in whosmat(file))
            _refuse_unpacked(file, "the arrays", unpacked)
            yield _flat(loadmat(file, simplify_cells=True), "")


def _stored(file: Path, h5py: Any, opened: Any, *, is_matlab: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def add(name: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset) and one.ndim in (1, 2) and one.dtype.kind in _NUMBERS and one.size:
            _refuse_unpacked(file, f"array {name!r}", one.nbytes)
            if one.external or one.is_virtual:
                raise DatasetError(
                    f"{file}: array {name!r}: expected values in the file itself, got those of another file; copy them"
                    " into one"
                )
            found[name] = _Turned(one) if is_matlab and one.ndim == 2 else one

    opened.visititems(add)
    return found


def _refuse_unpacked(file: Path, what: str, unpacked_bytes: int) -> None:
    problem = unpacked_problem(unpacked_bytes, file.stat().st_size)
    if problem is not None:
        raise DatasetError(f"{file}: {what}: {problem}; write the file again, without unused space")


def _flat(values: Mapping[str, Any], before: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{before}{name}/"))
        elif isinstance(value, np.ndarray) and value.ndim in (1, 2) and value.dtype.kind in _NUMBERS and value.size:
            found[f"{before}{name}"] = value
    return found
