"""TDMS files of LabVIEW: channels are `group/channel`, `time` is the clock of those read with it.

Times follow from wf_start_time (UTC, else from 0 s), wf_start_offset and wf_increment in seconds (NI, "NI-TDMS file
format internal structure", waveform channels). nptdms is LGPL and read channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.readers.table import (
    BLOCK_ROWS,
    RowBlock,
    library,
    reading,
    require_one,
    require_one_length,
    row_block,
    utc,
)
from mmkd_models.data.importing.recording import SECOND_NS

_TIME = "time"
_WHAT = "a TDMS file"


def tdms_names(file: Path) -> tuple[str, ...]:
    """Return column names. Raise DatasetError if the file is no TDMS."""
    with _open(file) as (content, channels):
        if content.file_status.incomplete_final_segment or not channels:
            raise DatasetError(f"{file}: expected {_WHAT} with channels to its end, got a part; copy it again")
        return (*([_TIME] if any(map(_is_waveform, channels.values())) else []), *channels)


def tdms_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield columns of one length in blocks, with one clock if `time` is among them."""
    with _open(file) as (_, channels):
        waveforms = [name for name, channel in channels.items() if _is_waveform(channel)]
        chosen = [name for name in columns if name != _TIME] or waveforms[:1]
        require_one_length(file, {name: len(channels[name]) for name in chosen})
        clock = _clock(file, {name: channels[name] for name in chosen}) if _TIME in columns else None
        for first in range(0, len(channels[chosen[0]]), BLOCK_ROWS):
            count = min(BLOCK_ROWS, len(channels[chosen[0]]) - first)
            values = {name: channels[name].read_data(first, count) for name in chosen if name in columns}
            if clock is not None:
                values[_TIME] = _times(*clock, np.arange(first, first + count))
            yield row_block(file, values, first, called="sample")


def _clock(file: Path, channels: Mapping[str, Any]) -> tuple[np.datetime64 | None, float, float]:
    """Return the waveforms' start or None, offset and step in seconds."""
    clocks = []
    for name, channel in channels.items():
        if not _is_waveform(channel):
            raise DatasetError(
                f"{file}: channel {name!r}: expected a waveform with 'wf_increment', got none; remove 'time', and set"
                " 'rate_hz' and 'start'"
            )
        facts = channel.properties
        offset_s, step_s = float(facts.get("wf_start_offset", 0.0)), float(facts["wf_increment"])
        clocks.append((facts.get("wf_start_time"), offset_s, step_s))
    require_one(file, [f"{start or 0} + {offset:g} s every {step:g} s" for start, offset, step in clocks], what="clock")
    return clocks[0]


def _times(start: np.datetime64 | None, offset_s: float, step_s: float, samples: Any) -> Any:
    """Return times in UTC, or seconds from the start if the file has none."""
    seconds = offset_s + samples * step_s
    if start is None:
        return seconds
    return utc(int(start.astype("datetime64[ns]").astype(np.int64)) + np.rint(seconds * SECOND_NS).astype(np.int64))


def _is_waveform(channel: Any) -> bool:
    return "wf_increment" in channel.properties


@contextmanager
def _open(file: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    nptdms = library("nptdms", package="npTDMS", what="TDMS files")
    with reading(file, _WHAT), nptdms.TdmsFile.open(file) as content:
        yield content, {f"{group.name}/{item.name}": item for group in content.groups() for item in group.channels()}
