"""Samples from JSON and CSV text, with times as numbers or ISO 8601; docs/live-reference.md has the forms."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import queue
import re
import select
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import SourceRequest

logger = logging.getLogger(__name__)

Rows = tuple[NDArray[np.float64] | None, NDArray[np.float32]]

MAX_LINE_BYTES = 1 << 20
"""Longer lines are garbage."""
BLOCK_BYTES, LOOK_S = 1 << 16, 0.2
"""What is read of a file at once, and how long nothing is waited for."""
# Per message: 100 s at 1 kHz.
_MAX_ROWS = 100_000
# More would stop every thread for over 0.1 s.
_MAX_BYTES = 4 << 20
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TIME_NAMES = re.compile(r"time|zeit|date|stamp|^ts?$", re.IGNORECASE)
_MISSING = ("", "nan", "na", "null", "none", "-")


def read_seconds(value: object, *, unit: str) -> float:
    """Parse a time in seconds; text without a zone is UTC. Raises ValueError."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"expected a time, got {value!r}")
    try:
        text = value if isinstance(value, int | float) else str(value).strip()
        try:
            seconds = float(text) * _SECONDS[unit]
        except ValueError:
            text = str(text)  # Python 3.10 reads no Z
            moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except OverflowError as error:
        raise ValueError("expected a time, got a whole number beyond any") from error
    if not math.isfinite(seconds):
        raise ValueError(f"expected a time, got {value!r}")
    return seconds


def rows_from_json(data: bytes, request: SourceRequest) -> Rows:
    """Return times (n,) or None, and float32 (n, C) in the modality's unit. Raises ValueError."""
    if len(data) > _MAX_BYTES:
        raise ValueError(f"expected a message of at most {_MAX_BYTES:,} bytes, got {len(data):,}")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"expected JSON, got {str(error).lower()}") from error
    times, rows = _rows(document, request)
    if len(rows) > _MAX_ROWS:
        raise ValueError(f"expected at most {_MAX_ROWS:,} samples at once, got {len(rows):,}")
    return times, request.columns.scaled(rows)


def json_delivery(data: bytes, request: SourceRequest, intake: Intake) -> Iterator[Delivery]:
    """Yield a message's samples, which come now; count one without samples as garbage."""
    try:
        times, rows = rows_from_json(data, request)
    except ValueError as error:
        intake.garbage(str(error))
        return
    yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())


def _rows(document: Any, request: SourceRequest) -> Rows:
    match document:
        case dict():
            return _object_rows(document, request)
        case [dict(), *_]:
            parts = [_object_rows(sample, request) for sample in document if isinstance(sample, dict)]
            if len(parts) < len(document):
                raise ValueError("expected samples of one form, got objects and others in one array")
            times = [time for time, _ in parts if time is not None]
            if times and len(times) < len(parts):
                raise ValueError(f"expected {request.time_column!r} in every sample or in none, got some")
            return np.concatenate(times) if times else None, np.concatenate([rows for _, rows in parts])
        case list():
            return None, _matrix(document, request)
        case int() | float() if not isinstance(document, bool):
            return None, _matrix([document], request)
        case _:
            raise ValueError(f"expected samples, got {type(document).__name__}")


def _object_rows(sample: Mapping[str, Any], request: SourceRequest) -> Rows:
    if "samples" in sample:
        rows = _matrix(sample["samples"], request)
    else:
        names = request.columns.names
        lacking = [name for name in names if name not in sample]
        if lacking:
            raise ValueError(f"expected the columns {', '.join(names)}, found no {', '.join(lacking)}")
        values = [sample[name] if isinstance(sample[name], list) else [sample[name]] for name in names]
        columns = [_numbers(column, f"column {name}").reshape(-1) for name, column in zip(names, values, strict=True)]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("expected columns of one length, got several")
        rows = np.stack(columns, axis=1)
    given, unit = sample.get(request.time_column), request.time_unit
    if given is None:
        return None, rows
    if not isinstance(given, list):
        return read_seconds(given, unit=unit) + np.arange(len(rows)) / request.rate_hz, rows
    if len(given) != len(rows):
        raise ValueError(f"expected a time for each of {len(rows)} samples, got {len(given)}")
    return np.array([read_seconds(moment, unit=unit) for moment in given]), rows


def _matrix(values: Any, request: SourceRequest) -> NDArray[np.float32]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected rows of numbers, got {type(values).__name__}")
    array = _numbers(values, "samples")
    channels = len(request.columns.names)
    if array.ndim == 1:
        array = array[:, None] if channels == 1 else array[None]
    if array.ndim != 2 or array.shape[1] != channels:
        raise ValueError(f"expected {channels} values in a row, got {array.shape[-1]}")
    return array


def _numbers(values: Sequence[Any], what: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # infinite is missing
            return np.array(values, dtype=np.float64).astype(np.float32)  # null becomes NaN
    except (TypeError, ValueError, OverflowError) as error:  # a whole number of 400 digits overflows
        raise ValueError(f"{what}: expected numbers, got something else") from error


def stdin_blocks(intake: Intake) -> Iterator[bytes]:
    """Yield what comes from the standard input until it ends, or the intake stops."""
    descriptor = sys.stdin.fileno()
    if not hasattr(os, "O_NONBLOCK"):  # Windows: `select` is for sockets alone
        blocks: queue.Queue[bytes] = queue.Queue(maxsize=4)

        def fill() -> None:
            while block := os.read(descriptor, BLOCK_BYTES):
                blocks.put(block)
            blocks.put(b"")

        threading.Thread(target=fill, daemon=True).start()
        while not intake.stop.is_set():
            with contextlib.suppress(queue.Empty):
                if not (block := blocks.get(timeout=LOOK_S)):
                    return
                yield block
        return
    while not intake.stop.is_set():
        if select.select([descriptor], [], [], LOOK_S)[0]:
            block = os.read(descriptor, BLOCK_BYTES)
            if not block:
                return
            yield block


class LineReader:
    """Parses lines. The first decides between JSON and CSV, and may name columns."""

    def __init__(self, where: str, request: SourceRequest) -> None:
        self._where = where
        self._request = request
        self._is_json: bool | None = None
        self._is_timed: bool | None = None
        self._separator = ","
        self._places: list[int] = []
        self._time_place: int | None = None
        self._width = 0

    def deliveries(self, chunks: Iterator[list[str]], intake: Intake) -> Iterator[Delivery]:
        """Yield samples of chunks of lines, with their arrival."""
        for lines in chunks:
            delivery = self.read(lines, intake, arrived_s=time.monotonic())
            if delivery is not None:
                yield delivery

    def read(self, lines: Iterable[str], intake: Intake, *, arrived_s: float) -> Delivery | None:
        """Return samples of lines, if any; count others as garbage. Raises UsageError."""
        parts: list[Rows] = []
        samples: list[tuple[float | None, list[float]]] = []  # of CSV
        for line in lines:
            text = line.strip()
            if not text or (self._is_json is None and self._is_header(text)):
                continue
            try:
                if self._is_json:
                    parts.append(rows_from_json(text.encode(), self._request))
                else:
                    samples.append(self._csv_sample(text))
            except ValueError as error:
                intake.garbage(str(error))
        if samples:
            moments = [moment for moment, _ in samples if moment is not None]
            values = np.array([row for _, row in samples], dtype=np.float64).astype(np.float32)
            parts = [(np.array(moments) if moments else None, self._request.columns.scaled(values))]
        if parts and self._is_timed is None:  # the first sample decides whether samples have times
            self._is_timed = parts[0][0] is not None
        alike = [part for part in parts if (part[0] is not None) is self._is_timed]
        for _ in range(len(parts) - len(alike)):
            intake.garbage("expected a time in every sample or in none, got some")
        if not alike:
            return None
        times = [part_times for part_times, _ in alike if part_times is not None]
        rows = np.concatenate([part_rows for _, part_rows in alike])
        return Delivery(rows=rows, times=np.concatenate(times) if times else None, arrived_s=arrived_s, waited=True)

    def restart(self) -> None:
        """Expect a first line: the file was replaced."""
        self._is_json = self._is_timed = None

    def _is_header(self, first: str) -> bool:
        self._is_json = first[0] in "{["
        if self._is_json:
            return False
        # Beside these separators, a comma is a decimal comma.
        separator = max("\t;", key=first.count)
        self._separator = separator if separator in first else ","
        names = [name.strip().strip('"').lstrip("\ufeff") for name in self._fields(first)]
        self._width = len(names)
        columns = self._request.columns.names
        if all(map(_is_number, names)):
            return self._number_columns(columns)
        lacking = [name for name in columns if name not in names]
        if lacking:
            raise UsageError(
                f"{self._where}: expected the columns {', '.join(columns)}, found no {', '.join(lacking)} among "
                f"{', '.join(names)}; say which is which with --map CHANNEL=COLUMN"
            )
        self._places = [names.index(name) for name in columns]
        self._time_place = names.index(self._request.time_column) if self._request.time_column in names else None
        self._warn_untimed(name for name in names if name not in columns)
        return True

    def _warn_untimed(self, others: Iterable[str]) -> None:
        name = next(filter(_TIME_NAMES.search, others), None)
        if self._time_place is None and name is not None:
            logger.warning(
                "%s: no column %r, so samples count as evenly spaced and a lost row shifts all after it; if %r has"
                " their times, pass --time-column %s, and --time-unit if they are not in seconds",
                self._where,
                self._request.time_column,
                name,
                shlex.quote(name),
            )

    def _number_columns(self, columns: Sequence[str]) -> bool:
        if self._width not in (len(columns), len(columns) + 1):
            raise UsageError(
                f"{self._where}: expected a first line that names the columns, or {len(columns)} values "
                f"({', '.join(columns)}), with a time before them or without; got {self._width} values"
            )
        first = self._width - len(columns)
        self._places = list(range(first, self._width))
        self._time_place = 0 if first else None
        return False

    def _fields(self, text: str) -> list[str]:
        return next(csv.reader([text], delimiter=self._separator)) if '"' in text else text.split(self._separator)

    def _csv_sample(self, text: str) -> tuple[float | None, list[float]]:
        fields = self._fields(text)
        if len(fields) != self._width:
            raise ValueError(f"expected {self._width} values in a line, got {len(fields)}")
        moment = None
        if self._time_place is not None:
            moment = read_seconds(self._with_point(fields[self._time_place]), unit=self._request.time_unit)
        return moment, [self._number(fields[place]) for place in self._places]

    def _number(self, field: str) -> float:
        try:
            return float(field)
        except ValueError:
            text = field.strip()
            return math.nan if text.lower() in _MISSING else float(self._with_point(text))

    def _with_point(self, field: str) -> str:
        return field.replace(",", ".") if self._separator != "," and field.count(",") == 1 else field


def _is_number(text: str) -> bool:
    if text.strip().lower() in _MISSING:
        return True
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
