"""Formats of recordings: how columns are named and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.readers import array_files as arrays
from mmkd_models.data.importing.readers.csv_file import csv_blocks, csv_names
from mmkd_models.data.importing.readers.logger_files import mdf_blocks, mdf_names, tdms_blocks, tdms_names
from mmkd_models.data.importing.readers.media_files import sound_blocks, sound_facts, sound_rows
from mmkd_models.data.importing.readers.table import RowBlock, refuse_columns

Format = Literal["csv", "excel", "parquet", "npz", "wav", "video", "tdms", "mdf4", "hdf5"]
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "csv": (".csv", ".txt", ".tsv"),
    "excel": (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"),
    "parquet": (".parquet",),
    "npz": (".npz",),
    "wav": (".wav", ".flac", ".ogg"),
    "video": (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    "tdms": (".tdms",),
    "mdf4": (".mf4", ".mdf"),
    "hdf5": (".h5", ".hdf5", ".mat"),
}
WITH_RATE: tuple[Format, ...] = ("wav", "video")
"""Formats whose files declare their rate."""


@dataclass(frozen=True)
class Reader:
    """Functions of one format, which raise DatasetError for other files; `rate_hz` reads the declared rate.

    `rows` returns from a file's head how many rows columns have; without it only reading them tells.
    """

    names: Callable[[Path], tuple[str, ...]]
    blocks: Callable[[Path, Sequence[str]], Iterator[RowBlock]]
    rate_hz: Callable[[Path], float] | None = None
    rows: Callable[[Path, Sequence[str]], int] | None = None


# Text needs the recipe, and frames are no table.
_READERS: dict[Format, Reader] = {
    "excel": Reader(arrays.excel_names, arrays.excel_blocks),
    "parquet": Reader(arrays.parquet_names, arrays.parquet_blocks, rows=arrays.parquet_rows),
    "npz": Reader(
        lambda file: tuple(arrays.npz_columns(file)),
        lambda file, columns: arrays.column_blocks(file, arrays.npz_columns(file), columns),
    ),
    "wav": Reader(lambda file: sound_facts(file)[0], sound_blocks, lambda file: sound_facts(file)[1], sound_rows),
    "tdms": Reader(tdms_names, tdms_blocks),
    "mdf4": Reader(mdf_names, mdf_blocks),
    "hdf5": Reader(arrays.hdf5_names, arrays.hdf5_blocks, rows=arrays.hdf5_rows),
}


def suffixes() -> dict[str, Format]:
    """Return the format of each suffix."""
    return {suffix: form for form, names in SUFFIXES.items() for suffix in names}


def find_format(file: Path) -> Format | None:
    """Return the format by suffix, or None."""
    return suffixes().get(file.suffix.lower())


def choose_reader(form: Format, table: TextTable) -> Reader:
    """Return the reader of a format other than video; text uses the recipe's keys."""
    if form == "csv":
        return Reader(lambda file: csv_names(file, table), lambda file, names: csv_blocks(file, table, names))
    reader = _READERS[form]

    def names(file: Path) -> tuple[str, ...]:
        columns = reader.names(file)
        refuse_columns(str(file), len(columns))
        return columns

    return replace(reader, names=names)
