"""Times as logs write them, read to nanoseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.data.importing.limits import MOST_TIME_NS
from mmkd_models.data.importing.readers.table import RowBlock, TextTable, TimeUnit, stripped
from mmkd_models.data.importing.recorded import SECOND_NS, Times

if TYPE_CHECKING:
    import polars as pl

_UNIT_NS: dict[TimeUnit, int] = {"s": SECOND_NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
# Seconds since 1970 of 1973 to 5138 have 9 to 11 digits; each finer unit has three more, so that sizes never meet.
_LEAST_EPOCH_S = 1e8
_OFFSET = r":\d\d(?:[.,]\d+)?\s*(?:Z|[+-]\d\d:?\d\d)$"
_AWARE = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
_LOCAL = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_DAY_NS = 86_400 * SECOND_NS


class TimeColumn:
    """Reads the column of times of one file, block by block; knows what the blocks before told."""

    def __init__(self, table: TextTable, column: str) -> None:
        self._table, self._column = table, column
        self._unit = table.time_unit
        self._last_local: int | None = None
        self._is_second_hour = False

    @property
    def is_utc(self) -> bool:
        """Whether times are since 1970; numbers in a declared unit may count from anywhere."""
        return self._unit == "iso" or self._table.time_unit == "auto"

    def read(self, block: RowBlock) -> tuple[Times, npt.NDArray[np.bool_]]:
        """Return the time of every row, and which rows have one; a left-out hour may be told to be dropped.

        Raise DatasetError, with the line, if a row has no time, one that cannot be read, or one to come.
        """
        import polars as pl

        try:
            return self._read(block)
        except pl.exceptions.PolarsError as error:
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected times, got {first_line(error)}; correct"
                " 'time_format' or 'timezone'"
            ) from error

    def _read(self, block: RowBlock) -> tuple[Times, npt.NDArray[np.bool_]]:
        import polars as pl

        column = block.frame[self._column]
        if column.dtype == pl.String:
            column = stripped(column, self._table)
        self._refuse(block, column.is_null(), column, "expected a time, got none; remove the line, or write its time")
        if column.dtype.is_temporal():
            self._unit = "iso"
            times, kept = self._from_stamps(block, column)
        elif column.dtype == pl.String and self._is_text(column):
            self._unit = "iso"
            times, kept = self._from_text(block, column)
        else:
            times, kept = self._from_numbers(block, column), np.ones(len(column), dtype=bool)
        if self.is_utc:
            self._refuse_future(block, times, kept)
        return times, kept

    def _is_text(self, column: pl.Series) -> bool:
        import polars as pl

        if self._unit == "auto":
            first = column.head(1)
            if self._table.decimal == ",":
                first = first.str.replace(",", ".", literal=True)
            is_number = first.cast(pl.Float64, strict=False)[0] is not None
            self._unit = "auto" if is_number and not self._table.time_format else "iso"
        return self._unit == "iso"

    def _from_numbers(self, block: RowBlock, column: pl.Series) -> Times:
        import polars as pl

        text = column
        if column.dtype == pl.String and self._table.decimal == ",":
            column = column.str.replace(",", ".", literal=True)
        whole = column.cast(pl.Int64, strict=False) if not column.dtype.is_float() else column.cast(pl.Float64)
        values = column.cast(pl.Float64, strict=False)
        self._refuse(
            block,
            values.is_null() | values.is_nan(),
            text,
            "expected a time as a number, got {}; correct it, or set 'time_unit'",
        )
        if self._unit == "auto":
            self._unit = self._unit_of(block, float(values[0]))
        factor = _UNIT_NS[self._unit]
        with np.errstate(over="ignore"):
            far = pl.Series(~(np.abs(values.to_numpy() * factor) <= MOST_TIME_NS))
        self._refuse(block, far, text, "expected a time within 146 years of 1970, got {}; correct it, or 'time_unit'")
        if whole.dtype == pl.Int64 and whole.null_count() == 0:
            return np.asarray(whole.to_numpy() * factor)
        return np.asarray(np.rint(values.to_numpy() * factor).astype(np.int64))

    def _unit_of(self, block: RowBlock, value: float) -> TimeUnit:
        units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
        for power, unit in enumerate(units):
            if _LEAST_EPOCH_S * 1e3**power <= value < _LEAST_EPOCH_S * 1e3 ** (power + 1):
                return unit
        raise DatasetError(
            f"{block.place(0)}: column {self._column!r}: expected a time since 1970, got {value:g};"
            " set time_unit to 's', 'ms', 'us' or 'ns' if it counts from the start"
        )

    def _from_text(self, block: RowBlock, column: pl.Series) -> tuple[Times, npt.NDArray[np.bool_]]:
        import polars as pl

        given = self._table.time_format
        text = column
        if not given:
            has_offset = bool(column.str.contains(_OFFSET).any())
            column = column.str.replace(r"\s+([+-]\d\d:?\d\d|Z)$", "$1").str.replace(r"Z$", "+00:00")
            column = column.str.replace(" ", "T", literal=True).str.replace(",", ".", literal=True)
            column = column.str.replace_all("/", "-", literal=True)
        formats = (given,) if given else (_AWARE if has_offset else _LOCAL)
        stamps = pl.Series(
            [None] * len(column), dtype=pl.Datetime("ns", "UTC" if "%z" in formats[0].replace(":", "") else None)
        )
        coarse = stamps.dt.cast_time_unit("ms")  # nanoseconds of far times do not fit, and are others
        for one in formats:
            missing = stamps.is_null()
            if missing.any():
                found = column.str.to_datetime(one, time_unit="ns", strict=False, ambiguous="earliest")
                stamps = stamps.fill_null(found)
                coarse = coarse.fill_null(
                    column.str.to_datetime(one, time_unit="ms", strict=False, ambiguous="earliest")
                )
        shape = (
            f"as {given!r}"
            if given
            else "in ISO 8601" + (" with an offset, as others in this file" if has_offset else "")
        )
        self._refuse(
            block, stamps.is_null(), text, f"expected a time {shape}, got {{}}; correct it, or set 'time_format'"
        )
        self._refuse_far(block, coarse, text)
        return self._from_stamps(block, stamps)

    def _refuse_far(self, block: RowBlock, stamps: pl.Series, values: pl.Series) -> None:
        far = stamps.dt.timestamp("ms").abs() > MOST_TIME_NS // 1_000_000
        self._refuse(block, far, values, "expected a time within 146 years of 1970, got {}; correct it")

    def _from_stamps(self, block: RowBlock, stamps: pl.Series) -> tuple[Times, npt.NDArray[np.bool_]]:
        import polars as pl

        self._refuse_far(block, stamps.cast(pl.Datetime("ms")), stamps)
        stamps = stamps.cast(
            pl.Datetime("ns", stamps.dtype.time_zone if isinstance(stamps.dtype, pl.Datetime) else None)
        )
        if isinstance(stamps.dtype, pl.Datetime) and stamps.dtype.time_zone is not None:
            times: Times = stamps.cast(pl.Int64).to_numpy()
            return times, np.ones(len(times), dtype=bool)
        if not self._table.timezone:
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected an offset or a time zone, got local time"
                f" {stamps[0].isoformat()}; set timezone, such as 'Europe/Berlin', or 'UTC'"
            )
        return self._from_local(block, stamps)

    def _from_local(self, block: RowBlock, stamps: pl.Series) -> tuple[Times, npt.NDArray[np.bool_]]:
        import polars as pl

        zone = self._table.timezone
        early = stamps.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        late = stamps.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")
        absent: npt.NDArray[np.bool_] = early.is_null().to_numpy()
        if self._table.nonexistent == "error":
            self._refuse(
                block,
                early.is_null(),
                stamps,
                f"expected a time that there was in {zone}, got {{}}, when clocks were set forward;"
                " set timezone, or nonexistent = 'drop'",
            )
        early_ns: Times = early.cast(pl.Int64).fill_null(0).to_numpy()
        late_ns: Times = late.cast(pl.Int64).fill_null(0).to_numpy()
        twice = (early_ns != late_ns) & ~absent
        if twice.any() and self._table.ambiguous == "error":
            self._refuse(
                block,
                pl.Series(twice),
                stamps,
                f"expected a time that came once in {zone}, got {{}}, when clocks were set back;"
                " set ambiguous = 'infer', 'earliest' or 'latest', or log in UTC",
            )
        if twice[0] and self._table.ambiguous == "infer" and self._last_local is None:
            self._refuse_unknown_hour(block, stamps)
        take_late = twice & self._is_late(stamps.cast(pl.Int64).to_numpy(), twice)
        return np.where(take_late, late_ns, early_ns), ~absent

    def _refuse_unknown_hour(self, block: RowBlock, stamps: pl.Series) -> None:
        """Refuse a file that begins in an hour that came twice, and never jumps back to tell which it was."""
        if not bool((np.diff(stamps.dt.timestamp("ns").to_numpy()) < 0).any()):
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected a line before the hour that came twice, to infer"
                f" by, got {stamps[0].isoformat()} first; set ambiguous = 'earliest' or 'latest'"
            )

    def _is_late(self, local_ns: Times, twice: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether each row is of the second of two equal hours, which begins where local times jump back."""
        if self._table.ambiguous != "infer":
            return np.full(len(local_ns), self._table.ambiguous == "latest")
        before = local_ns[0] if self._last_local is None else self._last_local
        back = np.diff(local_ns, prepend=before) < 0
        second = np.logical_or.accumulate(back & twice) | (self._is_second_hour & twice)
        self._last_local = int(local_ns[-1])
        self._is_second_hour = bool(second[-1] and twice[-1])
        return np.asarray(second)

    def _refuse(self, block: RowBlock, wrong: pl.Series, values: pl.Series, words: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong.to_numpy())[0])
            value: Any = values[row]
            got = value.isoformat() if isinstance(value, datetime) else repr(value)
            raise DatasetError(f"{block.place(row)}: column {self._column!r}: {words.format(got)}")

    def _refuse_future(self, block: RowBlock, times: Times, kept: npt.NDArray[np.bool_]) -> None:
        now = int(datetime.now(tz=timezone.utc).timestamp()) * SECOND_NS
        wrong = kept & (times > now + _DAY_NS)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DatasetError(
                f"{block.place(row)}: column {self._column!r}: expected a time until now, got"
                f" {time_text(int(times[row]))}; correct 'time_unit' or 'time_format', or the clock"
            )


def start_ns(text: str, table: TextTable, *, place: str) -> int:
    """Return when a recording began. Raise DatasetError if the text is no time, or a local one without a zone."""
    try:
        found = datetime.strptime(text, table.time_format) if table.time_format else _from_iso(text)
    except ValueError as error:
        raise DatasetError(
            f"{place}: 'start': expected a time in ISO 8601 or as 'time_format' says, got {text!r}; correct it"
        ) from error
    if found.tzinfo is None:
        if not table.timezone:
            raise DatasetError(f"{place}: 'start': expected an offset or 'timezone', got local time {text!r}; set it")
        found = found.replace(tzinfo=ZoneInfo(table.timezone))
    started_ns = int(found.timestamp()) * SECOND_NS + found.microsecond * 1000
    if abs(started_ns) > MOST_TIME_NS:
        raise DatasetError(f"{place}: 'start': expected a time within 146 years of 1970, got {text!r}; correct it")
    return started_ns


def _from_iso(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)


def time_text(time_ns: int) -> str:
    """Return a time as people write it, `2026-11-03T06:40:00.250Z`."""
    moment = datetime.fromtimestamp(time_ns // SECOND_NS, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{time_ns % SECOND_NS // 1_000_000:03d}Z"
