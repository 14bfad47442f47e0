"""Records that wait on the disk for a sink that is away, within a limit of bytes.

A folder of segments, lines of JSON each, the oldest first. It survives the process: what was written is offered again
at the next start. A record may be offered twice, never changed; `number` tells a reader which it has.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import fault_of
from mmkd_edge.errors import UsageError
from mmkd_edge.live.records import Record, line_of, record_from_line

logger = logging.getLogger(__name__)


class _Segment:
    """A file of lines and how many of them are left to send."""

    def __init__(self, path: Path, lines: int, size_bytes: int) -> None:
        self.path = path
        self.lines = lines
        self.size_bytes = size_bytes
        self.sent = 0


class Store:
    """Records on the disk. Used by one thread.

    Args:
        folder: of the segments; made where it is absent, and for one sink alone.
        most_bytes: of all segments together; then the oldest records are given up.

    Attributes:
        dropped: records that were given up, or could not be written.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self.dropped = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._segments = [segment for path in sorted(folder.glob("*.jsonl")) if (segment := _found(path))]
        except OSError as error:
            raise UsageError(f"{folder}: expected a folder for records that wait: {fault_of(error)}") from error
        self._number = int(self._segments[-1].path.stem) + 1 if self._segments else 1

    @property
    def count(self) -> int:
        """Records that wait."""
        return sum(segment.lines - segment.sent for segment in self._segments)

    def append(self, records: Sequence[Record]) -> None:
        """Write records behind the others; what the disk does not take is dropped and counted."""
        data = b"".join(map(line_of, records))
        path = self._folder / f"{self._number:010d}.jsonl"
        self._number += 1
        try:
            _write_flushed(path, data)
        except OSError as error:
            logger.warning("%s: cannot write it: %s", path, fault_of(error))
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self.dropped += len(records)
            return
        self._segments.append(_Segment(path, len(records), len(data)))
        while sum(segment.size_bytes for segment in self._segments) > self._most_bytes and self._segments:
            oldest = self._segments[0]
            self.dropped += oldest.lines - oldest.sent
            self._forget_oldest()

    def oldest(self, most: int) -> list[Record]:
        """The records that wait longest, at most so many; lines that are damaged are left out and dropped."""
        while self._segments:
            segment = self._segments[0]
            try:
                lines = segment.path.read_bytes().split(b"\n")[segment.sent : segment.lines]
            except OSError:
                lines = []
            records = []
            for line in lines[:most]:
                try:
                    records.append(record_from_line(line))
                except msgspec.MsgspecError:
                    self.dropped += 1
                    segment.sent += 1
            if records:
                return records
            self._forget_oldest()
        return []

    def sent(self, count: int) -> None:
        """The oldest so many were taken by the sink."""
        segment = self._segments[0]
        segment.sent += count
        if segment.sent >= segment.lines:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        segment = self._segments.pop(0)
        with contextlib.suppress(OSError):
            segment.path.unlink(missing_ok=True)


def _found(path: Path) -> _Segment | None:
    """A segment of an earlier process; its last line may have been cut by a power failure."""
    if not path.stem.isdigit():
        return None
    data = path.read_bytes()
    lines = data.count(b"\n")
    return _Segment(path, lines, len(data)) if lines else None


def _write_flushed(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
