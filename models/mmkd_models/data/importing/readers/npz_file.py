"""NumPy archives as tables: arrays (L,) are columns, those of shape (L, C) are `name[0]`, `name[1]`... No pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmkd_edge.bundle.arrays import ArraysError, read_npz
from mmkd_edge.errors import DatasetError
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.readers.table import RowBlock, refuse_columns, require_one_length, row_block


def npz_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns. Raise DatasetError if the file is no archive of plain arrays."""
    return tuple(_columns(file))


def npz_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns at once: an archive is read whole."""
    values = _columns(file)
    require_one_length(file, {name: len(values[name]) for name in columns})
    yield row_block(file, {name: values[name] for name in columns}, base=1)


def read_arrays(file: Path, what: str) -> Mapping[str, AnyArray]:
    """Return the arrays of an archive. Raise DatasetError, `expected` this, if it is unreadable or has objects."""
    if not zipfile.is_zipfile(file):
        raise DatasetError(f"{file}: expected {what} (.npz), got another format; write it with numpy.savez")
    try:
        return read_npz(file)
    except ArraysError as error:
        raise DatasetError(
            f"{file}: expected plain arrays, numpy cannot read them ({error}); write it again"
        ) from error


def _columns(file: Path) -> dict[str, AnyArray]:
    columns: dict[str, AnyArray] = {}
    for name, array in read_arrays(file, "a NumPy archive").items():
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:
            refuse_columns(f"{file}: array {name!r}", array.shape[1])
            columns.update({f"{name}[{number}]": array[:, number] for number in range(array.shape[1])})
    return columns
