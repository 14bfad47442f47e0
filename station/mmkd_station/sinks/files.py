"""`-`, `jsonl:FILE` and `csv:FILE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.cli.csv_text import csv_text
from mmkd_edge.errors import UsageError, fault_of
from mmkd_station.records import Record, ResultRecord, line_of
from mmkd_station.sinks.base import GoneError

_CSV_FIELDS = tuple(name for name in ResultRecord.__struct_fields__ if name not in ("labels", "label_set"))


class StdoutSink:
    """Every record as a line of JSON on the standard output."""

    def write(self, records: Sequence[Record]) -> None:
        """Write and flush. Raises GoneError where nobody reads any more, OSError where it cannot be written."""
        try:
            sys.stdout.write(b"".join(map(line_of, records)).decode())
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise GoneError(str(error)) from error

    def close(self) -> None:
        """It stays open: it is the process's."""


class AppendedFile:
    """Bytes at the end of a file; a file that was moved away is begun anew under its name.

    Args:
        path: of the file; its folder must be there.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = self._opened()
        except OSError as error:
            raise UsageError(f"{path}: cannot write it: {fault_of(error)}") from error

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def append(self, data: bytes) -> None:
        """Write all of it, or nothing that stays. Raises OSError where it cannot be written."""
        if not self._is_still_there():
            self.close()
            self._descriptor = self._opened()
        before = os.fstat(self._descriptor).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            if written:  # half a line would spoil the next one
                os.ftruncate(self._descriptor, before)
            raise

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in the file that the next bytes go to."""
        return not self._is_still_there() or os.fstat(self._descriptor).st_size == 0

    def _is_still_there(self) -> bool:
        try:
            return self._descriptor >= 0 and os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class JsonLinesSink:
    """Every record as a line of JSON at the end of a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = AppendedFile(path)

    def write(self, records: Sequence[Record]) -> None:
        """Append. Raises OSError where it cannot be written."""
        self._file.append(b"".join(map(line_of, records)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvSink:
    """Results as lines of CSV with a header; alarms and states are left out, for they have other columns.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = AppendedFile(path)

    def write(self, records: Sequence[Record]) -> None:
        """Append. Raises OSError where it cannot be written."""
        rows: list[Sequence[object]] = [_CSV_FIELDS] if self._file.is_empty else []
        for record in records:
            if isinstance(record, ResultRecord):
                fields = msgspec.structs.asdict(record)
                fields["probabilities"] = " ".join(f"{share:.6g}" for share in record.probabilities)
                rows.append([fields[name] for name in _CSV_FIELDS])
        self._file.append(csv_text(rows).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
