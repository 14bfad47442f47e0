"""Samples in lines of text: CSV with or without a header, or JSON lines.

Owns one question: what sample is in this line? The first line decides of which form they are.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator

import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_station.intake import Delivery, Listener
from mmkd_station.sources.base import SECONDS, Wanted, missing_columns
from mmkd_station.sources.moments import seconds_of
from mmkd_station.sources.payload import rows_of

_SEPARATORS = "\t;"
_MISSING = ("", "nan", "na", "null", "none", "-")
# A line that never ends is no line.
MOST_LINE_BYTES = 1 << 20


class LineReader:
    """Reads lines as samples. The first one says whether they are JSON or CSV, and names the columns of CSV.

    Args:
        where: the file or stream, for messages.
        wanted: the columns to find.
    """

    def __init__(self, where: str, wanted: Wanted) -> None:
        self._where = where
        self._wanted = wanted
        self._is_json: bool | None = None
        self._is_timed: bool | None = None
        self._separator = ","
        self._places: list[int] = []
        self._time_place: int | None = None
        self._width = 0

    def read(self, lines: Iterable[str], listener: Listener, *, arrived_s: float) -> Delivery | None:
        """The samples of some lines together; what is none is told to the listener. None where there is none.

        Raises:
            UsageError: the first line lacks a column.
        """
        times: list[float] = []
        rows: list[list[float]] = []
        parts: list[Delivery] = []
        for line in lines:
            text = line.strip()
            if not text or (self._is_json is None and self._begin(text)):
                continue
            try:
                if self._is_json:
                    moments, values = rows_of(text.encode(), self._wanted)
                    parts.append(Delivery(rows=values, times=moments, arrived_s=arrived_s, waited=True))
                    continue
                moment, row = self._sample(text)
            except ValueError as error:
                listener.garbage(str(error))
                continue
            rows.append(row)
            if moment is not None:
                times.append(moment)
        if self._is_json:
            return self._joined(parts, listener)
        if not rows:
            return None
        values = self._wanted.columns.scaled(np.array(rows, dtype=np.float64).astype(np.float32))
        return Delivery(rows=values, times=np.array(times) if times else None, arrived_s=arrived_s, waited=True)

    def begin_again(self) -> None:
        """The next line is a first line: the file was exchanged."""
        self._is_json = None

    def _begin(self, first: str) -> bool:
        """Learn from the first line; whether it was a header."""
        self._is_json = first[0] in "{["
        if self._is_json:
            return False
        # Beside one of these a comma is that of a number.
        separator = max(_SEPARATORS, key=first.count)
        self._separator = separator if separator in first else ","
        names = [
            name.strip().strip('"').lstrip("\ufeff") for name in next(csv.reader([first], delimiter=self._separator))
        ]
        self._width = len(names)
        wanted = list(self._wanted.columns.names)
        if all(_is_number(name) for name in names):
            return self._begin_without_header(len(names), len(wanted))
        if not set(wanted) <= set(names):
            raise missing_columns(self._where, self._wanted.columns, names)
        self._places = [names.index(name) for name in wanted]
        self._time_place = names.index(self._wanted.time_column) if self._wanted.time_column in names else None
        return True

    def _begin_without_header(self, found: int, channels: int) -> bool:
        if found not in (channels, channels + 1):
            raise UsageError(
                f"{self._where}: expected a first line that names the columns, or {channels} values "
                f"({', '.join(self._wanted.columns.names)}), with a time before them or without; got {found} values"
            )
        first = found - channels
        self._places = list(range(first, found))
        self._time_place = 0 if first else None
        return False

    def _sample(self, text: str) -> tuple[float | None, list[float]]:
        fields = next(csv.reader([text], delimiter=self._separator)) if '"' in text else text.split(self._separator)
        if len(fields) != self._width:
            raise ValueError(f"expected {self._width} values in a line, got {len(fields)}")
        moment = None
        if self._time_place is not None:
            moment = seconds_of(self._decimal(fields[self._time_place]), unit_s=SECONDS[self._wanted.time_unit])
        return moment, [self._number(fields[place]) for place in self._places]

    def _joined(self, parts: list[Delivery], listener: Listener) -> Delivery | None:
        """Deliveries of one moment as one. The first sample of all says whether samples have times."""
        if parts and self._is_timed is None:
            self._is_timed = parts[0].times is not None
        kept = [part for part in parts if (part.times is not None) is self._is_timed]
        for _ in range(len(parts) - len(kept)):
            listener.garbage("expected a time in every sample or in none, got some")
        if not kept:
            return None
        times = [part.times for part in kept if part.times is not None]
        return Delivery(
            rows=np.concatenate([part.rows for part in kept]),
            times=np.concatenate(times) if times else None,
            arrived_s=kept[0].arrived_s,
            waited=True,
        )

    def _number(self, field: str) -> float:
        try:
            return float(field)
        except ValueError:
            text = field.strip()
            return float("nan") if text.lower() in _MISSING else float(self._decimal(text))

    def _decimal(self, field: str) -> str:
        """A number with a decimal comma as one with a point, where commas separate nothing."""
        return field.replace(",", ".") if self._separator != "," and field.count(",") == 1 else field


def deliveries_of(chunks: Iterator[list[str]], reader: LineReader, listener: Listener) -> Iterator[Delivery]:
    """What chunks of lines hold, each with the moment at which it came."""
    for lines in chunks:
        delivery = reader.read(lines, listener, arrived_s=time.monotonic())
        if delivery is not None:
            yield delivery


def _is_number(text: str) -> bool:
    if text.strip().lower() in _MISSING:
        return True
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
