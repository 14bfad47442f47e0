"""One table of the formats of recordings: how the columns of a file are named and read, and who knows its rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmkd_models.data.importing.limits import refuse_columns
from mmkd_models.data.importing.readers.csv_file import csv_blocks, layout_of
from mmkd_models.data.importing.readers.edge_impulse_file import (
    edge_impulse_blocks,
    edge_impulse_names,
    edge_impulse_rate_hz,
)
from mmkd_models.data.importing.readers.hdf5_file import hdf5_blocks, hdf5_names
from mmkd_models.data.importing.readers.mcap_file import mcap_blocks, mcap_names
from mmkd_models.data.importing.readers.mdf_file import mdf_blocks, mdf_names
from mmkd_models.data.importing.readers.npz_file import npz_blocks, npz_names
from mmkd_models.data.importing.readers.parquet_file import parquet_blocks, parquet_names
from mmkd_models.data.importing.readers.sound_file import sound_blocks, sound_facts, sound_of
from mmkd_models.data.importing.readers.table import RowBlock
from mmkd_models.data.importing.readers.tdms_file import tdms_blocks, tdms_names
from mmkd_models.data.importing.recipe import Format, TextTable


def _names_of_video(file: Path) -> tuple[str, ...]:
    with sound_of(file, head_only=True) as sound:
        return sound_facts(sound)[0]


def _rate_of_video(file: Path) -> float:
    with sound_of(file, head_only=True) as sound:
        return sound_facts(sound)[1]


def _blocks_of_video(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    with sound_of(file) as sound:
        yield from sound_blocks(sound, columns, called=file)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one format is read. Each function raises DatasetError where a file is not of it.

    Attributes:
        names: the names of the columns.
        blocks: these columns, in blocks of rows.
        rate_hz: the rate that a file declares itself; None if only its times tell.
    """

    names: Callable[[Path], tuple[str, ...]]
    blocks: Callable[[Path, Sequence[str]], Iterator[RowBlock]]
    rate_hz: Callable[[Path], float] | None = None


_READERS: dict[Format, Reader] = {
    "parquet": Reader(names=parquet_names, blocks=parquet_blocks),
    "npz": Reader(names=npz_names, blocks=npz_blocks),
    "wav": Reader(
        names=lambda file: sound_facts(file)[0], blocks=sound_blocks, rate_hz=lambda file: sound_facts(file)[1]
    ),
    # The sound in them; frames are no table, and read by video_file.
    "video": Reader(names=_names_of_video, blocks=_blocks_of_video, rate_hz=_rate_of_video),
    "tdms": Reader(names=tdms_names, blocks=tdms_blocks),
    "mdf4": Reader(names=mdf_names, blocks=mdf_blocks),
    "hdf5": Reader(names=hdf5_names, blocks=hdf5_blocks),
    "mcap": Reader(names=mcap_names, blocks=mcap_blocks),
    "edge_impulse": Reader(names=edge_impulse_names, blocks=edge_impulse_blocks, rate_hz=edge_impulse_rate_hz),
}


def reader_of(form: Format, table: TextTable) -> Reader:
    """Return the reader of a format; of text files one that knows what the recipe says of them."""
    if form != "csv":
        return replace(_READERS[form], names=lambda file: _few_names(file, _READERS[form]))
    return Reader(
        names=lambda file: layout_of(file, table).names,
        blocks=lambda file, columns: csv_blocks(file, layout_of(file, table), columns),
    )


def _few_names(file: Path, reader: Reader) -> tuple[str, ...]:
    names = reader.names(file)
    refuse_columns(str(file), len(names))
    return names
