"""Formats of recordings: how columns are named and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.readers.array_files import (
    hdf5_blocks,
    hdf5_names,
    npz_blocks,
    npz_names,
    parquet_blocks,
    parquet_names,
)
from mmkd_models.data.importing.readers.csv_file import csv_blocks, csv_names
from mmkd_models.data.importing.readers.edge_impulse_file import (
    edge_impulse_blocks,
    edge_impulse_names,
    edge_impulse_rate_hz,
)
from mmkd_models.data.importing.readers.mcap_file import mcap_blocks, mcap_names
from mmkd_models.data.importing.readers.mdf_file import mdf_blocks, mdf_names
from mmkd_models.data.importing.readers.sound_file import (
    sound_blocks,
    sound_facts,
    video_sound_blocks,
    video_sound_facts,
)
from mmkd_models.data.importing.readers.table import RowBlock, refuse_columns
from mmkd_models.data.importing.readers.tdms_file import tdms_blocks, tdms_names

Format = Literal["csv", "parquet", "npz", "wav", "video", "tdms", "mdf4", "hdf5", "mcap", "edge_impulse"]


@dataclass(frozen=True)
class Reader:
    """Functions of one format, which raise DatasetError for other files; `rate_hz` reads the declared rate."""

    suffixes: tuple[str, ...]
    names: Callable[[Path], tuple[str, ...]]
    blocks: Callable[[Path, Sequence[str]], Iterator[RowBlock]]
    rate_hz: Callable[[Path], float] | None = None


def _csv_reader(table: TextTable) -> Reader:
    return Reader(
        (".csv", ".txt", ".tsv"),
        lambda file: csv_names(file, table),
        lambda file, columns: csv_blocks(file, table, columns),
    )


READERS: dict[Format, Reader] = {
    "csv": _csv_reader(TextTable()),
    "parquet": Reader((".parquet",), parquet_names, parquet_blocks),
    "npz": Reader((".npz",), npz_names, npz_blocks),
    "wav": Reader(
        (".wav", ".flac", ".ogg"), lambda file: sound_facts(file)[0], sound_blocks, lambda file: sound_facts(file)[1]
    ),
    # The sound in them; frames are no table, and read by video_file.
    "video": Reader(
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
        lambda file: video_sound_facts(file)[0],
        video_sound_blocks,
        lambda file: video_sound_facts(file)[1],
    ),
    "tdms": Reader((".tdms",), tdms_names, tdms_blocks),
    "mdf4": Reader((".mf4", ".mdf"), mdf_names, mdf_blocks),
    "hdf5": Reader((".h5", ".hdf5", ".mat"), hdf5_names, hdf5_blocks),
    "mcap": Reader((".mcap",), mcap_names, mcap_blocks),
    "edge_impulse": Reader((".json",), edge_impulse_names, edge_impulse_blocks, edge_impulse_rate_hz),
}


def suffixes() -> dict[str, Format]:
    """Return the format of each suffix."""
    return {suffix: form for form, reader in READERS.items() for suffix in reader.suffixes}


def find_format(file: Path) -> Format | None:
    """Return the format by suffix, or None."""
    return suffixes().get(file.suffix.lower())


def choose_reader(form: Format, table: TextTable) -> Reader:
    """Return a format's reader; text uses the recipe's keys."""
    if form == "csv":
        return _csv_reader(table)
    reader = READERS[form]

    def names(file: Path) -> tuple[str, ...]:
        columns = reader.names(file)
        refuse_columns(str(file), len(columns))
        return columns

    return replace(reader, names=names)
