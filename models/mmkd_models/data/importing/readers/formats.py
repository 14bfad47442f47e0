"""One table of the formats of recordings: how the columns of a file are named and read, and who knows its rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
from mmkd_models.data.importing.readers.table import RowBlock, TextTable
from mmkd_models.data.importing.readers.tdms_file import tdms_blocks, tdms_names

Format = Literal["csv", "parquet", "npz", "wav", "video", "tdms", "mdf4", "hdf5", "mcap", "edge_impulse"]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one format is read. Each function raises DatasetError if a file is not of it.

    Attributes:
        rate_hz: the rate that a file declares itself; None if only its timestamps show it.
        files: for the guide, as are `columns` and `needs`.
        needs: a package beside the extra `import`.
    """

    names: Callable[[Path], tuple[str, ...]]
    blocks: Callable[[Path, Sequence[str]], Iterator[RowBlock]]
    rate_hz: Callable[[Path], float] | None = None
    suffixes: tuple[str, ...]
    files: str
    columns: str
    needs: str = ""


def _sound_in_video(file: Path) -> tuple[tuple[str, ...], float]:
    with sound_of(file, head_only=True) as sound:
        return sound_facts(sound)


def _blocks_of_video(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    with sound_of(file) as sound:
        yield from sound_blocks(sound, columns, called=file)


_READERS: dict[Format, Reader] = {
    "csv": Reader(
        names=lambda file: layout_of(file, TextTable()).names,
        blocks=lambda file, columns: csv_blocks(file, layout_of(file, TextTable()), columns),
        suffixes=(".csv", ".txt", ".tsv"),
        files="text",
        columns="those of the header",
    ),
    "parquet": Reader(
        names=parquet_names, blocks=parquet_blocks, suffixes=(".parquet",), files="Parquet", columns="as named"
    ),
    "npz": Reader(
        names=npz_names,
        blocks=npz_blocks,
        suffixes=(".npz",),
        files="NumPy archives",
        columns="arrays (L,); `acc[0]`, `acc[1]` of an array (L, C)",
    ),
    "wav": Reader(
        names=lambda file: sound_facts(file)[0],
        blocks=sound_blocks,
        rate_hz=lambda file: sound_facts(file)[1],
        suffixes=(".wav", ".flac", ".ogg"),
        files="sound; the file says its rate",
        columns="channels `1`, `2`...",
    ),
    # The sound in them; frames are no table, and read by video_file.
    "video": Reader(
        names=lambda file: _sound_in_video(file)[0],
        blocks=_blocks_of_video,
        rate_hz=lambda file: _sound_in_video(file)[1],
        suffixes=(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
        files='[cameras](sound-and-cameras.md#cameras), or with `kind = "audio"` their sound',
        columns="",
        needs="opencv-python-headless",
    ),
    "tdms": Reader(
        names=tdms_names,
        blocks=tdms_blocks,
        suffixes=(".tdms",),
        files="LabVIEW",
        columns="`Group/channel`, and `time`, the clock of the waveforms read with it",
        needs="npTDMS",
    ),
    "mdf4": Reader(
        names=mdf_names,
        blocks=mdf_blocks,
        suffixes=(".mf4", ".mdf"),
        files="ASAM MDF 4",
        columns="channels, `0/name` if several groups have the name, and `time`, the clock of their group",
        needs="asammdf",
    ),
    "hdf5": Reader(
        names=hdf5_names,
        blocks=hdf5_blocks,
        suffixes=(".h5", ".hdf5", ".mat"),
        files="HDF5, MATLAB of all versions",
        columns="`group/array`, `group/array[0]`...",
    ),
    "mcap": Reader(
        names=mcap_names,
        blocks=mcap_blocks,
        suffixes=(".mcap",),
        files="robots: messages in JSON, or of ROS 2",
        columns="`/topic.field.x`, `log_time`, `publish_time`",
        needs="mcap, mcap-ros2-support",
    ),
    "edge_impulse": Reader(
        names=edge_impulse_names,
        blocks=edge_impulse_blocks,
        rate_hz=edge_impulse_rate_hz,
        suffixes=(".json",),
        files="Edge Impulse's data acquisition JSON; the file says its rate",
        columns="its sensors",
    ),
}


def suffixes() -> dict[str, Format]:
    """Return the format of each suffix."""
    return {suffix: form for form, reader in _READERS.items() for suffix in reader.suffixes}


def format_of(file: Path) -> Format | None:
    """Return the format of a file by its suffix; None if no format has it."""
    return suffixes().get(file.suffix.lower())


def knows_its_rate(form: Format) -> bool:
    """Whether files of a format declare the rate of their samples."""
    return _READERS[form].rate_hz is not None


def format_table() -> str:
    """Return the formats for the guide, in Markdown."""
    rows = ["| `format` | files | columns | needs |", "|---|---|---|---|"]
    for form, reader in _READERS.items():
        suffixes_text = ", ".join(f"`{suffix}`" for suffix in reader.suffixes)
        rows.append(f"| `{form}` | {reader.files}: {suffixes_text} | {reader.columns} | {reader.needs} |")
    return "\n".join(rows)


def reader_of(form: Format, table: TextTable) -> Reader:
    """Return the reader of a format; of text files one that knows what the recipe says of them."""
    reader = _READERS[form]
    if form != "csv":
        return replace(reader, names=lambda file: _checked_names(file, reader))
    return replace(
        reader,
        names=lambda file: layout_of(file, table).names,
        blocks=lambda file, columns: csv_blocks(file, layout_of(file, table), columns),
    )


def _checked_names(file: Path, reader: Reader) -> tuple[str, ...]:
    names = reader.names(file)
    refuse_columns(str(file), len(names))
    return names
