"""Timestamps of logs, as nanoseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.data.checking.related import time_text
from mmkd_models.data.importing.keys import MAX_TIME_NS, TextTable, TimeUnit
from mmkd_models.data.importing.readers.table import RowBlock, strip_texts
from mmkd_models.data.importing.recording import SECOND_NS, Times

if TYPE_CHECKING:
    import polars as pl

_UNIT_NS: dict[TimeUnit, int] = {"s": SECOND_NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
# Seconds since 1970 of 1973 to 5138 have 9 to 11 digits; each finer unit has three more, so that sizes never meet.
_MIN_EPOCH_S = 1e8
_OFFSET = r":\d\d(?:[.,]\d+)?\s*(?:Z|[+-]\d\d:?\d\d)$"
_WITH_OFFSET = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
_LOCAL = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_DAY_NS = 86_400 * SECOND_NS
_FAR = "expected a time within 146 years of 1970, got {}; correct it"


class TimeColumn:
    """The time column of one file, read in blocks."""

    def __init__(self, table: TextTable, column: str) -> None:
        self._table, self._column = table, column
        self._unit = table.time_unit
        self._last_local: int | None = None
        self._is_second_hour = False

    @property
    def is_utc(self) -> bool:
        """Whether times are since 1970; numbers in a declared unit may count from anywhere."""
        return self._unit == "iso" or self._table.time_unit == "auto"

    def read(self, block: RowBlock) -> Times:
        """Return every row's time. Raise DatasetError with the line of a wrong one."""
        import polars as pl

        try:
            times = self._read(block)
        except pl.exceptions.PolarsError as error:
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected times, got {first_line(error)}; correct"
                " 'time_format' or 'timezone'"
            ) from error
        future = times > int(datetime.now(tz=timezone.utc).timestamp()) * SECOND_NS + _DAY_NS
        if self.is_utc and future.any():
            row = int(np.flatnonzero(future)[0])
            got = time_text(times[row] / SECOND_NS, "milliseconds")
            raise DatasetError(
                f"{block.place(row)}: column {self._column!r}: expected a time until now, got {got}; correct"
                " 'time_unit' or 'time_format', or the clock"
            )
        return times

    def _read(self, block: RowBlock) -> Times:
        import polars as pl

        column = block.frame[self._column]
        if column.dtype == pl.String:
            column = strip_texts(column, self._table)
            if self._unit == "auto" and len(column):
                is_number = self._plain(column.head(1)).cast(pl.Float64, strict=False)[0] is not None
                self._unit = "auto" if is_number and not self._table.time_format else "iso"
        self._refuse(block, column.is_null(), column, "expected a time, got none; remove the line, or write its time")
        if column.dtype.is_temporal():
            zone = column.dtype.time_zone if isinstance(column.dtype, pl.Datetime) else None
            stamps, shape = column.cast(pl.Datetime("us", zone)), ""
        elif column.dtype == pl.String and self._unit == "iso":
            stamps, shape = self._parse(column)
        else:
            return self._from_numbers(block, column)
        self._unit = "iso"
        expected = f"expected a time{shape}, got {{}}; correct it, or set 'time_format'"
        self._refuse(block, stamps.is_null(), column, expected)
        self._refuse(block, stamps.dt.timestamp("us").abs() > MAX_TIME_NS // _UNIT_NS["us"], column, _FAR)
        if isinstance(stamps.dtype, pl.Datetime) and stamps.dtype.time_zone is not None:
            return _nanoseconds(stamps)
        if not self._table.timezone:
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected an offset or a time zone, got local time"
                f" {stamps[0].isoformat()}; set timezone, such as 'Europe/Berlin', or 'UTC'"
            )
        return self._from_local(block, stamps)

    def _plain(self, column: pl.Series) -> pl.Series:
        return column.str.replace(",", ".", literal=True) if self._table.decimal == "," else column

    def _from_numbers(self, block: RowBlock, column: pl.Series) -> Times:
        import polars as pl

        plain = self._plain(column) if column.dtype == pl.String else column
        values = plain.cast(pl.Float64, strict=False)
        wrong = values.is_null() | values.is_nan()
        self._refuse(block, wrong, column, "expected a time as a number, got {}; correct it, or set 'time_unit'")
        if self._unit == "auto":
            units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
            sizes = [power for power in range(4) if 1 <= float(values[0]) / (_MIN_EPOCH_S * 1e3**power) < 1e3]
            if not sizes:
                raise DatasetError(
                    f"{block.place(0)}: column {self._column!r}: expected a time since 1970, got {values[0]:g};"
                    " set time_unit to 's', 'ms', 'us' or 'ns' if it counts from the start"
                )
            self._unit = units[sizes[0]]
        factor = _UNIT_NS[self._unit]
        with np.errstate(over="ignore"):
            far = ~(np.abs(values.to_numpy() * factor) <= MAX_TIME_NS)
        self._refuse(block, far, column, f"{_FAR}, or 'time_unit'")
        whole = None if plain.dtype.is_float() else plain.cast(pl.Int64, strict=False)
        if whole is not None and not whole.null_count():  # nanoseconds of today are beyond the digits of a float
            return np.asarray(whole.to_numpy() * factor)
        return np.asarray(np.rint(values.to_numpy() * factor).astype(np.int64))

    def _parse(self, column: pl.Series) -> tuple[pl.Series, str]:
        formats: tuple[str, ...] = (self._table.time_format,)
        shape = f" as {self._table.time_format!r}"
        if not self._table.time_format:
            has_offset = bool(column.str.contains(_OFFSET).any())
            formats = _WITH_OFFSET if has_offset else _LOCAL
            shape = " in ISO 8601" + (" with an offset, as others in this file" if has_offset else "")
            column = column.str.replace(r"\s+([+-]\d\d:?\d\d|Z)$", "$1").str.replace(r"Z$", "+00:00")
            column = column.str.replace(" ", "T", literal=True).str.replace(",", ".", literal=True)
            column = column.str.replace_all("/", "-", literal=True)
        stamps, *others = (
            column.str.to_datetime(form, time_unit="us", strict=False, ambiguous="earliest") for form in formats
        )
        for other in others:
            stamps = stamps.fill_null(other)
        return stamps, shape

    def _from_local(self, block: RowBlock, stamps: pl.Series) -> Times:
        zone = self._table.timezone
        early = stamps.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        late = stamps.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")
        forward = f"expected a time that there was in {zone}, got {{}}, when clocks were set forward;"
        self._refuse(block, early.is_null(), stamps, f"{forward} set timezone; 'Etc/GMT-1' is UTC+1 all year")
        early_ns, late_ns = _nanoseconds(early), _nanoseconds(late)
        twice = early_ns != late_ns
        if self._table.ambiguous == "error":
            again = f"expected a time that came once in {zone}, got {{}}, when clocks were set back;"
            self._refuse(block, twice, stamps, f"{again} set ambiguous = 'infer', or log in UTC")
        # The second of two equal hours begins where local times jump back.
        local_ns = _nanoseconds(stamps)
        back = np.diff(local_ns, prepend=local_ns[0] if self._last_local is None else self._last_local) < 0
        if twice[0] and self._last_local is None and not back.any():
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected a line before the hour that came twice, to infer"
                f" by, got {stamps[0].isoformat()} first; log in UTC"
            )
        second = np.logical_or.accumulate(back & twice) | (self._is_second_hour & twice)
        self._last_local = int(local_ns[-1])
        self._is_second_hour = bool(second[-1] and twice[-1])
        return np.where(twice & second, late_ns, early_ns)

    def _refuse(self, block: RowBlock, wrong: Any, values: pl.Series, text: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(np.asarray(wrong))[0])
            value: Any = values[row]
            got = value.isoformat() if isinstance(value, datetime) else repr(value)
            raise DatasetError(f"{block.place(row)}: column {self._column!r}: {text.replace('{}', got)}")


def _nanoseconds(stamps: pl.Series) -> Times:
    """Convert from microseconds to nanoseconds, 0 for null: far times would not fit."""
    import polars as pl

    return np.asarray(stamps.cast(pl.Int64).fill_null(0).to_numpy() * _UNIT_NS["us"])


def start_ns(text: str, table: TextTable, *, place: str) -> int:
    """Return a recording's start. Raise DatasetError if the text is no time, or local without a zone."""
    iso = text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text
    try:
        moment = datetime.strptime(text, table.time_format) if table.time_format else datetime.fromisoformat(iso)
    except ValueError as error:
        raise DatasetError(
            f"{place}: 'start': expected a time in ISO 8601 or as 'time_format' says, got {text!r}; correct it"
        ) from error
    if moment.tzinfo is None:
        if not table.timezone:
            raise DatasetError(f"{place}: 'start': expected an offset or 'timezone', got local time {text!r}; set it")
        moment = moment.replace(tzinfo=ZoneInfo(table.timezone))
    started_ns = int(moment.timestamp()) * SECOND_NS + moment.microsecond * 1000
    if abs(started_ns) > MAX_TIME_NS:
        raise DatasetError(f"{place}: 'start': expected a time within 146 years of 1970, got {text!r}; correct it")
    return started_ns
