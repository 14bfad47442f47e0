"""`csv:FILE`, also one that grows, and `stdin`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mmkd_edge.errors import UsageError, fault_of
from mmkd_station.intake import Delivery, Listener
from mmkd_station.sources.base import Wanted
from mmkd_station.sources.replay import paced
from mmkd_station.sources.rows import MOST_LINE_BYTES, LineReader, deliveries_of

_BLOCK_BYTES = 1 << 16
_LOOKS_S = 0.2
_MOST_LINES = 256


class FileSource:
    """Lines of a file, CSV or JSON; with `follow` also those that are written later, and those of its successor.

    Args:
        path: of the file.
        wanted: the columns to find.

    Raises:
        UsageError: there is no such file.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.live = wanted.follow
        self._path = path
        self._wanted = wanted
        self._file = _opened(path)

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """The samples of the lines, paced where it is no live file."""
        reader = LineReader(str(self._path), self._wanted)
        found = deliveries_of(self._chunks(reader, listener), reader, listener)
        yield from found if self.live else paced(found, self._wanted, listener.stop)

    def _chunks(self, reader: LineReader, listener: Listener) -> Iterator[list[str]]:
        rest = b""
        # One sample after the other where the pace matters, else as many as make it fast.
        most = _MOST_LINES if self._wanted.replay_speed is None else max(1, round(self._wanted.rate_hz / 20))
        while not listener.stop.is_set():
            block = self._file.read(_BLOCK_BYTES)
            if block:
                lines, rest = _split(rest + block, listener)
                for start in range(0, len(lines), most):
                    yield lines[start : start + most]
            elif not self.live:
                if rest:
                    yield [rest.decode(errors="replace")]
                return
            elif self._was_exchanged():
                rest = b""
                reader.begin_again()
            else:
                listener.stop.wait(_LOOKS_S)

    def _was_exchanged(self) -> bool:
        """Whether another file has the name now, or this one was cut short; then it is read from its beginning."""
        try:
            named, held = self._path.stat(), os.fstat(self._file.fileno())
        except OSError:  # away for now; it may come back
            return False
        if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) and named.st_size >= self._file.tell():
            return False
        try:
            successor = self._path.open("rb", buffering=0)
        except OSError:
            return False
        self._file.close()
        self._file = successor
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StdinSource:
    """Lines of the standard input, CSV or JSON, as they come.

    Args:
        wanted: the columns to find.

    Raises:
        UsageError: the process has no standard input.
    """

    live = True

    def __init__(self, wanted: Wanted) -> None:
        if sys.stdin is None:
            raise UsageError("--source stdin: expected an open standard input, got a closed one; pipe samples into it")
        self._wanted = wanted

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """The samples of the lines, each with the moment at which it came."""
        reader = LineReader("stdin", self._wanted)
        yield from deliveries_of(self._chunks(listener), reader, listener)

    def _chunks(self, listener: Listener) -> Iterator[list[str]]:
        descriptor, rest = sys.stdin.fileno(), b""
        while not listener.stop.is_set():
            ready, _, _ = select.select([descriptor], [], [], _LOOKS_S)
            if not ready:
                continue
            block = os.read(descriptor, _BLOCK_BYTES)
            if not block:
                break
            lines, rest = _split(rest + block, listener)
            if lines:
                yield lines
        if rest:
            yield [rest.decode(errors="replace")]

    def close(self) -> None:
        """It stays open: it is the process's."""


def _opened(path: Path) -> BinaryIO:
    expected = f"{path}: expected a file of samples, CSV or JSON lines"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is refused, not waited for
    except FileNotFoundError as error:
        raise UsageError(f"{expected}, found no such file; check the path") from error
    except OSError as error:
        raise UsageError(f"{expected}, cannot open it: {fault_of(error)}") from error
    if not path.is_file():
        os.close(descriptor)
        got = "a directory" if path.is_dir() else "something that is not a regular file"
        raise UsageError(f"{expected}, got {got}; name the file itself")
    return os.fdopen(descriptor, "rb", buffering=0)


def _split(data: bytes, listener: Listener) -> tuple[list[str], bytes]:
    """Whole lines, and what is left of the last."""
    *lines, rest = data.split(b"\n")
    if len(rest) > MOST_LINE_BYTES:
        listener.garbage(f"expected lines of at most {MOST_LINE_BYTES:,} bytes, got a longer one")
        rest = b""
    return [line.decode(errors="replace") for line in lines], rest
