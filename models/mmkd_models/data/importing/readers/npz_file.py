"""NumPy archives as tables: arrays (L,) are columns, those of shape (L, C) are `name[0]`, `name[1]`... No pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmkd_edge.bundle.arrays import ArraysError, read_npz
from mmkd_edge.errors import DatasetError
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.limits import refuse_columns
from mmkd_models.data.importing.readers.table import RowBlock


def npz_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns. Raise DatasetError if the file is no archive of plain arrays."""
    return tuple(_columns(file))


def npz_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns at once: an archive is read whole."""
    import polars as pl

    found = _columns(file)
    lengths = {name: len(found[name]) for name in columns}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DatasetError(f"{file}: expected arrays of one length, got {told}; write one row for each sample")
    frame = pl.DataFrame({name: found[name] for name in columns})
    yield RowBlock(file=file, frame=frame, place=lambda row: f"{file}: row {row + 1}")


def _columns(file: Path) -> dict[str, AnyArray]:
    if not zipfile.is_zipfile(file):
        raise DatasetError(f"{file}: expected a NumPy archive (.npz), got another format; write it with numpy.savez")
    try:
        arrays = read_npz(file)
    except ArraysError as error:
        raise DatasetError(
            f"{file}: expected plain arrays, numpy cannot read them ({error}); write it again"
        ) from error
    columns: dict[str, AnyArray] = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:
            refuse_columns(f"{file}: array {name!r}", array.shape[1])
            columns.update({f"{name}[{number}]": array[:, number] for number in range(array.shape[1])})
    return columns
