"""TDMS files of LabVIEW in blocks: channels are `group/channel`, `time` is the clock of those that are read with it.

A waveform's times follow from its properties: wf_start_time in UTC (without one from 0 s), wf_start_offset and
wf_increment in seconds (NI, "NI-TDMS file format internal structure", waveform channels). nptdms is LGPL and read
channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    utc,
)

TIME = "time"
_WHAT = "a TDMS file"
_NS = 1_000_000_000


def tdms_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns. Raise DatasetError if the file is no TDMS."""
    nptdms = _nptdms()
    with reading(file, _WHAT), nptdms.TdmsFile.open(file) as opened:
        channels = _channels(opened)
        if opened.file_status.incomplete_final_segment or not channels:
            raise DatasetError(f"{file}: expected {_WHAT} with channels to its end, got a part; copy it again")
        has_clock = any("wf_increment" in channel.properties for channel in channels.values())
        return (*([TIME] if has_clock else []), *channels)


def tdms_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns in blocks; they have one length, and one clock where `time` is among them."""
    import polars as pl

    nptdms = _nptdms()
    with reading(file, _WHAT), nptdms.TdmsFile.open(file) as opened:
        channels = _channels(opened)
        timed = [name for name, channel in channels.items() if "wf_increment" in channel.properties]
        chosen = [name for name in columns if name != TIME] or timed[:1]
        require_one_length(file, {name: len(channels[name]) for name in chosen})
        clock = _clock(file, {name: channels[name] for name in chosen}) if TIME in columns else None
        for first in range(0, len(channels[chosen[0]]), BLOCK_ROWS):
            count = min(BLOCK_ROWS, len(channels[chosen[0]]) - first)
            found: dict[str, Any] = {} if clock is None else {TIME: clock.times(first, count)}
            found |= {name: channels[name].read_data(first, count) for name in chosen if name in columns}
            place = lambda row, first=first: f"{file}: sample {first + row}"  # noqa: E731
            yield RowBlock(file=file, frame=pl.DataFrame(found), place=place)


class _Clock:
    def __init__(self, start: np.datetime64 | None, offset_s: float, step_s: float) -> None:
        self.start, self.offset_s, self.step_s = start, offset_s, step_s

    def __str__(self) -> str:
        return f"{self.start or 0} + {self.offset_s:g} s every {self.step_s:g} s"

    def times(self, first: int, count: int) -> Any:
        """UTC, or seconds from the start where the file does not say when that was."""
        seconds = self.offset_s + np.arange(first, first + count) * self.step_s
        if self.start is None:
            return seconds
        return utc(int(self.start.astype("datetime64[ns]").astype(np.int64)) + np.rint(seconds * _NS).astype(np.int64))


def _clock(file: Path, channels: dict[str, Any]) -> _Clock:
    clocks = []
    for name, channel in channels.items():
        facts = channel.properties
        if "wf_increment" not in facts:
            raise DatasetError(
                f"{file}: channel {name!r}: expected a waveform with 'wf_increment', got none; remove 'time', and set"
                " 'rate_hz' and 'start'"
            )
        start = facts.get("wf_start_time")
        clocks.append(_Clock(start, float(facts.get("wf_start_offset", 0.0)), float(facts["wf_increment"])))
    require_one(file, clocks, what="clock")
    return clocks[0]


def _channels(opened: Any) -> dict[str, Any]:
    return {f"{group.name}/{one.name}": one for group in opened.groups() for one in group.channels()}


def _nptdms() -> Any:
    return library("nptdms", package="npTDMS", what="TDMS files")
