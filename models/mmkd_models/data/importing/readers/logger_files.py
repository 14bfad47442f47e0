"""Files of measuring programs: TDMS (LabVIEW) and MDF 4 (ASAM); `time` is the clock of the channels read with it.

Both libraries are LGPL, and read channel by channel: a frame of all would have the union of all clocks (asammdf#205).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.clock import SECOND_NS
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, library, reading, require_one, row_block

_TIME = "time"


def tdms_names(file: Path) -> tuple[str, ...]:
    """Return column names, `group/channel`. Raise DatasetError if the file is no TDMS."""
    with _open_tdms(file) as (content, channels):
        if content.file_status.incomplete_final_segment or not channels:
            raise DatasetError(f"{file}: expected a TDMS file with channels to its end, got a part; copy it again")
        return (*([_TIME] if any(map(_is_waveform, channels.values())) else []), *channels)


def tdms_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield columns of one length in blocks, with one clock if `time` is among them.

    Times follow from wf_start_time (UTC, else from 0 s), wf_start_offset and wf_increment in seconds (NI, "NI-TDMS
    file format internal structure", waveform channels).
    """
    with _open_tdms(file) as (_, channels):
        waveforms = [name for name, channel in channels.items() if _is_waveform(channel)]
        chosen = [name for name in columns if name != _TIME] or waveforms[:1]
        lengths = {name: len(channels[name]) for name in chosen}
        require_one(file, lengths, what="length", each="rate")
        clocks: dict[str, tuple[Any, float, float]] = {}
        for name in chosen if _TIME in columns else ():
            facts = channels[name].properties
            if not _is_waveform(channels[name]):
                raise DatasetError(
                    f"{file}: channel {name!r}: expected a waveform with 'wf_increment', got none; remove 'time', and"
                    " set 'rate_hz' and 'start'"
                )
            offset_s, step_s = float(facts.get("wf_start_offset", 0.0)), float(facts["wf_increment"])
            clocks[name] = facts.get("wf_start_time"), offset_s, step_s
        texts = {
            name: f"{start or 0} + {offset:g} s every {step:g} s" for name, (start, offset, step) in clocks.items()
        }
        require_one(file, texts, what="clock", each="clock")
        for first in range(0, len(channels[chosen[0]]), BLOCK_ROWS):
            count = min(BLOCK_ROWS, len(channels[chosen[0]]) - first)
            values = {name: channels[name].read_data(first, count) for name in chosen if name in columns}
            for start, offset_s, step_s in list(clocks.values())[:1]:
                seconds = offset_s + np.arange(first, first + count) * step_s
                values[_TIME] = seconds if start is None else _utc(start.astype("datetime64[ns]").astype(int), seconds)
            yield row_block(file, values, first, called="sample")


def _utc(start_ns: int, seconds: Any) -> Any:
    import polars as pl

    times_ns = int(start_ns) + np.rint(seconds * SECOND_NS).astype(np.int64)
    return pl.Series(times_ns, dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))


def _is_waveform(channel: Any) -> bool:
    return "wf_increment" in channel.properties


@contextmanager
def _open_tdms(file: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    nptdms = library("nptdms", package="npTDMS", what="TDMS files")
    with reading(file, "a TDMS file"), nptdms.TdmsFile.open(file) as content:
        yield content, {f"{group.name}/{item.name}": item for group in content.groups() for item in group.channels()}


def mdf_names(file: Path) -> tuple[str, ...]:
    """Return column names. Raise DatasetError if the file is no MDF."""
    with _open_mdf(file) as (_, channels):
        if not channels:
            raise DatasetError(f"{file}: expected an MDF 4 file with channels, got none; record it again")
        return (_TIME, *channels)


def mdf_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield columns of one group in blocks."""
    with _open_mdf(file) as (mdf, channels):
        chosen = {name: channels[name] for name in columns if name != _TIME} or dict(list(channels.items())[:1])
        require_one(file, {name: group for name, (group, _) in chosen.items()}, what="group", each="group")
        group = next(iter(chosen.values()))[0]
        start_ns = round(mdf.start_time.timestamp() * SECOND_NS)
        for first in range(0, int(mdf.groups[group].channel_group.cycles_nr), BLOCK_ROWS):
            signals = {
                name: mdf.get(group=group, index=index, record_offset=first, record_count=BLOCK_ROWS)
                for name, (_, index) in chosen.items()
            }
            values = {name: signal.samples for name, signal in signals.items() if name in columns}
            texts = {name: samples for name, samples in values.items() if samples.dtype.kind == "S"}
            values |= {name: [text.decode(errors="replace") for text in samples] for name, samples in texts.items()}
            if _TIME in columns:
                values[_TIME] = _utc(start_ns, next(iter(signals.values())).timestamps)
            yield row_block(file, values, first, called=f"group {group}, record")


@contextmanager
def _open_mdf(file: Path) -> Iterator[tuple[Any, dict[str, tuple[int, int]]]]:
    """Yield the file, and group and index of each channel but clocks; a name in several groups is `number/name`."""
    asammdf = library("asammdf", package="asammdf", what="MDF files")
    with reading(file, "an MDF 4 file"):
        with file.open("rb") as raw:
            mark = raw.read(10)
        if mark != b"MDF     4.":
            raise DatasetError(
                f"{file}: expected an MDF 4 file, got one that begins with {mark!r}; finish the recording"
            )
        mdf = asammdf.MDF(file)
        try:
            channels = [
                (group, index, channel.name)
                for group, part in enumerate(mdf.groups)
                for index, channel in enumerate(part.channels)
                if index != mdf.masters_db.get(group)
            ]
            counts = Counter(name for _, _, name in channels)
            yield mdf, {name if counts[name] == 1 else f"{group}/{name}": (group, at) for group, at, name in channels}
        finally:
            mdf.close()
