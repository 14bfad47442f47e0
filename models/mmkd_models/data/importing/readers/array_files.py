"""NumPy, HDF5 and MATLAB files: vectors are columns, arrays (L, C) `name[0]`..., groups `group/name`.

MATLAB's HDF5 files (v7.3) have reversed axes, and vectors as matrices of one row or column.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.bundle.files import lfs_pointer
from mmkd_edge.errors import DatasetError
from mmkd_models.arrays import ArraysError, read_npz
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.keys import MAX_COLUMNS, MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO
from mmkd_models.data.importing.readers import table

if TYPE_CHECKING:
    import polars as pl

_MAGIC = b"\x89HDF\r\n\x1a\n"
_LARGEST_NUMBER = 8  # bytes
_MAX_CELLS = 8_000_000  # of a sheet, 200 MB as its reader holds it
_CELL = re.compile(rb"\br\s*=\s*[\"']([A-Z]{1,3})(\d{1,7})[\"']")
_SHEET_BLOCK_BYTES, _LONGEST_CELL_BYTES = 1 << 22, 64

_Column = tuple[int, Callable[[slice], Any]]
"""Number of rows, and a reader of some of them."""

_WHAT = "a Parquet file"


def hdf5_names(file: Path) -> tuple[str, ...]:
    """Return column names. Raise DatasetError for another format."""
    with _columns(file) as columns:
        if not columns:
            raise DatasetError(f"{file}: expected arrays of numbers (L,) or (L, C), got none; write them as such")
        return tuple(columns)


def hdf5_blocks(file: Path, columns: Sequence[str]) -> Iterator[table.RowBlock]:
    """Yield columns of one length in blocks."""
    with _columns(file) as available:
        yield from column_blocks(file, available, columns)


def hdf5_rows(file: Path, columns: Sequence[str]) -> int:
    """Return the length of columns by the head of a file."""
    with _columns(file) as available:
        return max((available[name][0] for name in columns if name in available), default=0)


def npz_columns(file: Path) -> dict[str, _Column]:
    """Return columns by name. Raise DatasetError if the file is no archive of plain arrays."""
    arrays = read_arrays(file, "a NumPy archive")
    for name, array in arrays.items():
        table.refuse_columns(f"{file}: array {name!r}", array.shape[1] if array.ndim == 2 else 0)
    return _split(arrays)


def read_arrays(file: Path, what: str, *, most_bytes: int | None = None) -> Mapping[str, AnyArray]:
    """Return the arrays of an archive. Raise DatasetError, `expected` this, if it is unreadable or has objects.

    `most_bytes` is the most that it may unpack to; None follows from its size.
    """
    if not zipfile.is_zipfile(file):
        got = lfs_pointer(file) or "got another format; write it with numpy.savez"
        raise DatasetError(f"{file}: expected {what} (.npz), {got}")
    try:
        return read_npz(file, most_bytes=most_bytes)
    except ArraysError as error:
        raise DatasetError(
            f"{file}: expected plain arrays, numpy cannot read them ({error}); write it again"
        ) from error


def column_blocks(file: Path, available: Mapping[str, _Column], columns: Sequence[str]) -> Iterator[table.RowBlock]:
    """Yield columns of one length in blocks."""
    chosen = {name: available[name] for name in columns}
    lengths = {name: length for name, (length, _) in chosen.items()}
    table.require_one(file, lengths, what="length", each="rate")
    for first in range(0, chosen[columns[0]][0], table.BLOCK_ROWS):
        rows = slice(first, first + table.BLOCK_ROWS)
        values = {name: np.ascontiguousarray(read(rows)) for name, (_, read) in chosen.items()}
        yield table.row_block(file, values, first, base=1)


@contextmanager
def _columns(file: Path) -> Iterator[dict[str, _Column]]:
    with table.reading(file, "an HDF5 or MATLAB file"):
        with file.open("rb") as raw:
            head = raw.read(1024)
        if _MAGIC in head:
            h5py = table.library("h5py", package="h5py", what="HDF5 files")
            with h5py.File(file, "r", rdcc_nbytes=MAX_UNPACKED_BYTES) as content:
                is_matlab = not head.startswith(_MAGIC)
                yield _split(_datasets(file, h5py, content), is_reversed=is_matlab)
        else:
            from scipy.io import loadmat, whosmat

            unpacked = sum(_LARGEST_NUMBER * math.prod(shape) for _, shape, _ in whosmat(file))
            _refuse_unpacked(file, "the arrays", unpacked)
            yield _split(dict(_arrays(loadmat(file, simplify_cells=True), "")))


def _split(arrays: Mapping[str, Any], *, is_reversed: bool = False) -> dict[str, _Column]:
    columns: dict[str, _Column] = {}
    for name, array in arrays.items():
        is_text = array.ndim == 1 and array.dtype.kind == "U"
        if array.ndim not in (1, 2) or not (is_text or array.dtype.kind in "biuf") or not array.size:
            continue
        if array.ndim == 1:
            columns[name] = len(array), array.__getitem__
        elif 1 in array.shape:
            is_row = array.shape[0] == 1
            columns[name] = max(array.shape), _reader(array, 0, is_row=is_row)
        else:
            length, count = array.shape[::-1] if is_reversed else array.shape
            for number in range(count if count <= MAX_COLUMNS else 0):
                columns[f"{name}[{number}]"] = length, _reader(array, number, is_row=is_reversed)
    return columns


def _reader(array: Any, number: int, *, is_row: bool) -> Callable[[slice], Any]:
    return lambda rows: array[number, rows] if is_row else array[rows, number]


def _datasets(file: Path, h5py: Any, content: Any) -> dict[str, Any]:
    datasets: dict[str, Any] = {}

    def _add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            _refuse_unpacked(file, f"array {name!r}", item.nbytes)
            if item.external or item.is_virtual:
                raise DatasetError(
                    f"{file}: array {name!r}: expected values in the file itself, got those of another file; copy them"
                    " into one"
                )
            datasets[name] = item

    content.visititems(_add)
    return datasets


def _refuse_unpacked(file: Path, what: str, unpacked_bytes: int) -> None:
    size = file.stat().st_size
    most = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)
    if unpacked_bytes > most:
        raise DatasetError(
            f"{file}: {what}: expected arrays of at most {most:,} bytes in a file of {size:,}, got {unpacked_bytes:,};"
            " write the file again, without unused space"
        )


def _arrays(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _arrays(value, f"{path}{name}/")
        elif isinstance(value, np.ndarray):
            yield f"{path}{name}", value


def excel_names(file: Path) -> tuple[str, ...]:
    """Return the column names of the first sheet. Raise DatasetError if the file is no workbook."""
    return tuple(_first_sheet(file, {"n_rows": 1}).columns)


def excel_blocks(file: Path, columns: Sequence[str]) -> Iterator[table.RowBlock]:
    """Yield columns of the first sheet in blocks."""
    frame = _first_sheet(file, {}).select(columns)
    for first in range(0, len(frame), table.BLOCK_ROWS):
        yield table.row_block(file, frame.slice(first, table.BLOCK_ROWS).to_dict(), first, base=2)


def _first_sheet(file: Path, options: dict[str, Any]) -> pl.DataFrame:
    import polars as pl

    table.library("fastexcel", package="fastexcel", what="Excel files")
    _refuse_far_cells(file)
    with table.reading(file, "an Excel workbook", "open it in Excel and save it again, or as CSV"):
        return pl.read_excel(file, read_options=options, drop_empty_rows=False, drop_empty_cols=False)


def _refuse_far_cells(file: Path) -> None:
    """Refuse a workbook that its reader would unfold into far more cells than the file has bytes."""
    if not zipfile.is_zipfile(file):
        return
    most = max(_MAX_CELLS, file.stat().st_size)
    with table.reading(file, "an Excel workbook"), zipfile.ZipFile(file) as archive:
        _refuse_unpacked(file, "the sheets", sum(member.file_size for member in archive.infolist()))
        for name in (name for name in archive.namelist() if name.startswith("xl/worksheets/") and ".xml" in name):
            rows, columns, rest = 1, 1, b""
            with archive.open(name) as sheet:
                while block := sheet.read(_SHEET_BLOCK_BYTES):
                    cells = _CELL.findall(rest + block)
                    rows = max([rows, *(int(row) for _, row in cells)])
                    columns = max(
                        [columns, *(_column_number(letters) for letters in {letters for letters, _ in cells})]
                    )
                    rest = block[-_LONGEST_CELL_BYTES:]
            if rows * columns > most:
                raise DatasetError(
                    f"{file}: expected a sheet of at most {most:,} cells, got {rows:,} rows of {columns:,}; delete the"
                    " cells far from the table, or save it as CSV"
                )


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number


def parquet_names(file: Path) -> tuple[str, ...]:
    """Return column names. Raise DatasetError if the file is no Parquet."""
    import polars as pl

    with table.reading(file, _WHAT):
        return tuple(pl.read_parquet_schema(file))


def parquet_rows(file: Path, columns: Sequence[str]) -> int:
    """Return the number of rows by a file's metadata."""
    import polars as pl

    with table.reading(file, _WHAT):
        return int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())


def parquet_blocks(file: Path, columns: Sequence[str]) -> Iterator[table.RowBlock]:
    """Yield columns in blocks. Raise DatasetError if the file is damaged."""
    import polars as pl

    first = 0
    with table.reading(file, _WHAT):
        while len(frame := pl.scan_parquet(file, glob=False).slice(first, table.BLOCK_ROWS).select(columns).collect()):
            yield table.row_block(file, frame.to_dict(), first, base=1)
            first += len(frame)
