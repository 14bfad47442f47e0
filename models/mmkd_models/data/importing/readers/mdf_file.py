"""MDF 4 files (ASAM): channels by name, `time` is the clock of their group.

A name in several groups is `number/name`, with the group's number. asammdf is LGPL and read channel by channel, since
a frame of all has the union of all groups' times (asammdf#205).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, library, reading, require_one, row_block, utc
from mmkd_models.data.importing.recording import SECOND_NS

_TIME = "time"
_WHAT = "an MDF 4 file"
_BLOCK = struct.Struct("<8sQQ")
_FIRST_BLOCK = 64


def mdf_names(file: Path) -> tuple[str, ...]:
    """Return column names. Raise DatasetError if the file is no MDF."""
    with _open(file) as mdf:
        names = tuple(_channels(mdf))
        if not names:
            raise DatasetError(f"{file}: expected {_WHAT} with channels, got none; record it again")
        return (_TIME, *names)


def mdf_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield columns of one group in blocks."""
    with _open(file) as mdf:
        channels = _channels(mdf)
        chosen = {name: channels[name] for name in columns if name != _TIME} or dict(list(channels.items())[:1])
        require_one(file, [f"group {group}" for group, _ in chosen.values()], what="group")
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
                seconds = next(iter(signals.values())).timestamps
                values[_TIME] = utc(start_ns + np.rint(seconds * SECOND_NS).astype(np.int64))
            yield row_block(file, values, first, called=f"group {group}, record")


def _channels(mdf: Any) -> dict[str, tuple[int, int]]:
    """Return group and index of each channel, clocks excluded."""
    channels = [
        (group, index, channel.name)
        for group, part in enumerate(mdf.groups)
        for index, channel in enumerate(part.channels)
        if index != mdf.masters_db.get(group)
    ]
    counts = Counter(name for _, _, name in channels)
    return {name if counts[name] == 1 else f"{group}/{name}": (group, index) for group, index, name in channels}


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    asammdf = library("asammdf", package="asammdf", what="MDF files")
    with reading(file, _WHAT):
        _check_links(file)
        mdf = asammdf.MDF(file)
        try:
            yield mdf
        finally:
            mdf.close()


def _check_links(file: Path) -> None:
    """Follow every link: if one leads beyond the file's end, asammdf leaves objects that cannot be closed.

    A block is an id, its length, its number of links, and these (ASAM MDF 4.1, section 4.3).
    """
    size = file.stat().st_size
    with file.open("rb") as raw:
        mark = raw.read(10)
        if mark != b"MDF     4.":
            raise DatasetError(f"{file}: expected {_WHAT}, got one that begins with {mark!r}; finish the recording")
        visited, waiting = {0}, [_FIRST_BLOCK]
        while waiting:
            at = waiting.pop()
            if at in visited:
                continue
            visited.add(at)
            raw.seek(at)
            head = raw.read(_BLOCK.size)
            length, links = _BLOCK.unpack(head)[1:] if len(head) == _BLOCK.size else (0, 0)
            if head[:2] != b"##" or at + length > size or _BLOCK.size + 8 * links > length:
                raise DatasetError(f"{file}: expected {_WHAT}, got one whose block at {at} is cut off; copy it again")
            waiting += struct.unpack(f"<{links}Q", raw.read(8 * links))
