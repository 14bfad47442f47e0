"""Records that wait on the disk for a sink that is away, within a limit of bytes.

A folder of segments, lines of JSON each, the oldest first. It survives the process: what was written is offered again
at the next start. A record may be offered twice, never changed; `number` tells a reader which it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
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
    """Records on the disk. May be shared by threads.

    Args:
        folder: of the segments; made where it is absent, for one sink alone, and locked until `close`.
        most_bytes: of all segments together; then the oldest records are given up.

    Attributes:
        dropped: records that were given up, or could not be written.

    Raises:
        UsageError: the folder cannot be made, or another process or sink has it.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self.dropped = 0
        self._changing = threading.Lock()
        self._offered: _Segment | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = _locked(folder)
            paths = sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit())
            self._segments = [segment for path in paths if (segment := _found(path))]
        except OSError as error:
            raise UsageError(f"{folder}: expected a folder for records that wait: {fault_of(error)}") from error
        self._number = int(paths[-1].stem) + 1 if paths else 1

    @property
    def count(self) -> int:
        """Records that wait."""
        return sum(segment.lines - segment.sent for segment in self._segments)

    def append(self, records: Sequence[Record]) -> None:
        """Write records behind the others; what the disk does not take is dropped and counted."""
        with self._changing:
            self._append(records)

    def offer(self, records: Sequence[Record]) -> None:
        """Write records that a sink is trying just now, as if `oldest` had given them."""
        with self._changing:
            self._offered = self._append(records)

    def _append(self, records: Sequence[Record]) -> _Segment | None:
        data = b"".join(map(line_of, records))
        path = self._folder / f"{self._number:010d}.jsonl"
        self._number += 1
        try:
            _write_flushed(path, data)
        except OSError as error:
            logger.warning("%s: cannot write it: %s", path, fault_of(error))
            self.dropped += len(records)
            return None
        written = _Segment(path, len(records), len(data))
        self._segments.append(written)
        while sum(segment.size_bytes for segment in self._segments) > self._most_bytes and self._segments:
            oldest = self._segments[0]
            self.dropped += oldest.lines - oldest.sent
            self._forget(oldest)
        return written

    def oldest(self, most: int) -> list[Record]:
        """The records that wait longest, at most so many; lines that are damaged are left out and dropped."""
        with self._changing:
            while self._segments:
                self._offered = self._segments[0]
                records = self._records_of(self._offered, most)
                if records:
                    return records
                self._forget(self._offered)
            return []

    def _records_of(self, segment: _Segment, most: int) -> list[Record]:
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
        return records

    def sent(self, count: int) -> None:
        """So many of those that were offered last were taken by the sink."""
        with self._changing:
            segment = self._offered
            if segment is None or segment not in self._segments:  # given up meanwhile, and counted as dropped
                self.dropped -= count
                return
            segment.sent += count
            if segment.sent >= segment.lines:
                self._forget(segment)

    def close(self) -> None:
        """Let another have the folder; more than once is fine."""
        with self._changing:
            if self._held >= 0:
                os.close(self._held)
                self._held = -1

    def _forget(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        with contextlib.suppress(OSError):
            segment.path.unlink(missing_ok=True)


def _locked(folder: Path) -> int:
    """A descriptor of the folder that holds its lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(
            f"{folder}: expected a folder for the records of one sink, got one that another mmkd-run has; stop that "
            "one, or name another --store"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _found(path: Path) -> _Segment | None:
    """A segment of an earlier process; its last line may have been cut by a power failure."""
    data = path.read_bytes()
    lines = data.count(b"\n")
    return _Segment(path, lines, len(data)) if lines else None


def _write_flushed(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
