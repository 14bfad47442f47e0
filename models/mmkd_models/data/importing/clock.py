"""Timed samples of a sensor, their clock, and the timestamps of logs, in nanoseconds since 1970 in UTC."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.arrays import let_go
from mmkd_models.data.checking.related import time_text
from mmkd_models.data.importing.keys import MAX_TIME_NS, TextTable, TimeUnit
from mmkd_models.data.importing.readers.table import RowBlock, decimal_cure, strip_texts, uses_commas

if TYPE_CHECKING:
    import polars as pl

Times = npt.NDArray[np.int64]
"""(L,) nanoseconds since 1970 in UTC, or since the start if its time is unknown."""

SECOND_NS = 1_000_000_000
Resample = Literal["linear", "polyphase", "hold"]
Duplicates = Literal["error", "first", "last", "mean"]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_STEP_PERIODS = 3.0  # a step of more usual ones is no step of the clock, whatever the declared rate
_GAP_PERIODS = 1.5  # a step of more usual ones lacks a row
_MIN_LONG = 4  # long steps, to judge how evenly they come
_NEAR_STEP = 0.25  # usual steps
_JITTER = 0.1  # of long steps, on average in usual ones, from a whole number of them
_EVEN_STEPS, _EVEN_FRACTION = 0.6, 0.2  # std of their distances: rounding moves them by a step; lost rows come anywhere
_MAX_STEPS = 2_000_000  # that are sorted for a percentile
_BLOCK_STEPS = 1 << 20
_UNIT_NS: dict[TimeUnit, int] = {"s": SECOND_NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
UNITS: tuple[TimeUnit, ...] = tuple(_UNIT_NS)
"""Units of numbers, each a thousandth of the one before."""
# Seconds since 1970 of 1973 to 5138 have 9 to 11 digits; each finer unit has three more, so that sizes never meet.
_MIN_EPOCH_S = 1e8
_OFFSET = r":\d\d(?:[.,]\d+)?\s*(?:Z|[+-]\d\d:?\d\d)$"
_WITH_OFFSET = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
_LOCAL = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_DAY_NS = 86_400 * SECOND_NS
_FAR = "expected a time within 146 years of 1970, got {}; correct it"


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSeries:
    """Samples of one sensor: ascending times (L,) and float32 (L, C), NaN for missing, or frames uint8 (L, H, W, C)."""

    times: Times
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.times)


class Spool:
    """Samples of one shape in two temporary files, to bound memory."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: type[np.float32 | np.uint8]) -> None:
        self._shape, self._dtype, self.count = shape, np.dtype(dtype), 0
        self._times, self._values = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115

    @property
    def row_bytes(self) -> int:
        """Size of a sample and its time."""
        return 8 + int(np.prod(self._shape)) * self._dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Size of both files."""
        return self.count * self.row_bytes

    def append(self, times: Times, values: npt.NDArray[Any]) -> None:
        """Append samples (B, ...)."""
        self._times.write(np.ascontiguousarray(times, dtype=np.int64).data)
        self._values.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self.count += len(times)

    def series(self) -> SampleSeries:
        """Return the collected samples, mapped."""
        if not self.count:
            return SampleSeries(times=np.zeros(0, dtype=np.int64), values=np.zeros((0, *self._shape), self._dtype))
        times: Times = np.memmap(self._times, dtype=np.int64, mode="r", shape=(self.count,))
        values = np.memmap(self._values, dtype=self._dtype, mode="r", shape=(self.count, *self._shape))
        return SampleSeries(times=times, values=values)

    def close(self) -> None:
        """Remove the files; open maps stay valid."""
        self._times.close()
        self._values.close()


def in_order(series: SampleSeries, *, duplicates: Duplicates, sort: bool) -> SampleSeries:
    """Return the series ascending, each time once; `mean` averages the present samples."""
    times, values = series.times, series.values
    if sort and (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    if duplicates == "error" or not (np.diff(times) == 0).any():
        return SampleSeries(times=times, values=values)
    first = np.flatnonzero(np.diff(times, prepend=times[0] - 1))
    if duplicates == "mean":
        is_present = ~np.isnan(values)
        sums = np.add.reduceat(np.where(is_present, values, 0).astype(np.float64), first, axis=0)
        counts = np.add.reduceat(is_present.astype(np.int64), first, axis=0)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
        return SampleSeries(times=times[first], values=means)
    chosen = first if duplicates == "first" else np.append(first[1:], len(times)) - 1
    return SampleSeries(times=times[first], values=values[chosen])


@dataclass(frozen=True, kw_only=True)
class ClockFacts:
    """The clock of one series.

    Attributes:
        rate_hz: steps per second without gaps and lost rows; NaN below two samples.
        jitter_p99_ms: 99 % of the steps differ from the usual one by at most this.
        repeated: frames equal to the one before.
        gaps: steps above the longest gap that is interpolated.
        missing: rows that the rate expects from first to last, and that are not there.
        longest_gap_s: longest step over a missing row, interpolated or not.
        short_gap_s: longest of the gaps of up to three usual steps, which a straight line may bridge; 0 without any.
    """

    samples: int
    rate_hz: float
    jitter_p99_ms: float
    gaps: int
    longest_gap_s: float
    short_gap_s: float = 0.0
    recording: str = ""
    sensor: str = ""
    drift_ppm: float = 0.0
    repeated: int = 0
    missing: int = 0


def clock_facts(series: SampleSeries, *, max_gap_s: float | None, expected_hz: float | None = None) -> ClockFacts:
    """Measure a clock; a gap is a step above `max_gap_s` or three usual steps.

    Steps of two or three usual ones are lost rows, unless a clock jitters or its times have few digits: 0.8 Hz in whole
    seconds has one after every third. `expected_hz` decides between the two.
    """
    count = len(series)
    if count < 2:
        return ClockFacts(samples=count, rate_hz=float("nan"), jitter_p99_ms=0.0, gaps=0, longest_gap_s=0.0)
    first = np.arange(0, count - 1, -(-(count - 1) // _MAX_STEPS))
    thinned = (series.times[first + 1] - series.times[first]).astype(np.float64) / SECOND_NS
    usual = float(np.median(thinned))
    regular, periods, gaps, longest, short, total = 0, 0, 0, 0.0, 0.0, 0.0
    last, uneven, distances = 0, 0.0, [np.zeros(0, dtype=np.int64)]  # from one long step to the next
    doubled, between = 0, 0  # steps near two usual ones, and near one and a half
    limit = _STEP_PERIODS * usual if max_gap_s is None else max_gap_s
    for start in range(0, count - 1, _BLOCK_STEPS):
        steps = np.diff(series.times[start : start + _BLOCK_STEPS + 1]).astype(np.float64) / SECOND_NS
        even = steps[steps <= _STEP_PERIODS * usual]
        counts = np.rint(even / usual).astype(np.int64) if usual else np.ones(len(even), dtype=np.int64)
        ratios = even / (usual or 1.0)
        uneven += float(np.abs(ratios - counts)[counts > 1].sum())
        doubled += int((np.abs(ratios - 2) < _NEAR_STEP).sum())
        between += int((np.abs(ratios - 1.5) < _NEAR_STEP).sum())
        long = np.append(last, regular + np.flatnonzero(counts > 1))
        distances, last = [*distances, np.diff(long)], int(long[-1])
        regular, periods, total = regular + len(even), periods + int(counts.sum()), total + float(even.sum())
        gaps, longest = gaps + int((steps > limit).sum()), max(longest, float(steps.max()))
        is_short = (steps > limit) & (steps <= (_STEP_PERIODS + _NEAR_STEP) * usual)
        short = max(short, float(steps[is_short].max(initial=0.0)))
        let_go(series.times)
    means = [total / steps if steps else usual for steps in (regular, periods)]
    apart = np.concatenate(distances)  # the first is from the beginning
    is_even = len(apart) > _MIN_LONG and apart[1:].std() <= max(_EVEN_STEPS, _EVEN_FRACTION * apart[1:].mean())
    jitters = uneven > _JITTER * len(apart) and doubled <= between
    mean = means[0] if is_even or jitters or periods <= regular else means[1]
    if expected_hz is not None:
        mean = min(means, key=lambda mean: abs(mean * expected_hz - 1))
    thinned = thinned[thinned <= (_STEP_PERIODS if mean == means[0] else _GAP_PERIODS) * usual]
    span_s = float(series.times[-1] - series.times[0]) / SECOND_NS
    missing = max(0, round(span_s / mean) + 1 - count) if mean > 0 else 0
    return ClockFacts(
        samples=count,
        rate_hz=1.0 / mean if mean > 0 else float("nan"),
        missing=missing,
        jitter_p99_ms=1e3 * float(np.quantile(np.abs(thinned - mean), 0.99)) if len(thinned) else 0.0,
        gaps=gaps,
        longest_gap_s=longest if gaps or missing else 0.0,
        short_gap_s=short,
    )


def commonest_hz(times: Times) -> float:
    """Return the rate of the commonest step, as without lost rows; NaN below two times."""
    steps = np.diff(times)
    steps = steps[steps > 0].astype(np.float64) / SECOND_NS
    usual = float(np.median(steps)) if len(steps) else 0.0
    near = steps[np.abs(steps - usual) < usual / 2]
    return 1 / float(near.mean()) if len(near) else float("nan")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A stretch of time and its value."""

    start_ns: int
    end_ns: int
    value: str
    place: str = ""


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
                is_number = self._plain(block, column.head(1)).cast(pl.Float64, strict=False)[0] is not None
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
        cure = "remove the line"
        if stamps.is_null()[:1].any():  # of all lines
            cure = decimal_cure(self._table) if _has_comma(column) else "set 'time_format'"
        expected = f"expected a time{shape}, got {{}}; correct it, or {cure}"
        self._refuse(block, stamps.is_null(), column, expected)
        self._refuse(block, stamps.dt.timestamp("us").abs() > MAX_TIME_NS // _UNIT_NS["us"], column, _FAR)
        if isinstance(stamps.dtype, pl.Datetime) and stamps.dtype.time_zone is not None:
            return _nanoseconds(stamps)
        if not self._table.timezone:
            raise DatasetError(
                f"{block.place(0)}: column {self._column!r}: expected an offset or a time zone, got local time"
                f" {stamps[0].isoformat()};"
                " set timezone, such as 'Europe/Berlin', or 'UTC', under the [[source]] or [labels] of this file"
            )
        return self._from_local(block, stamps)

    def _plain(self, block: RowBlock, column: pl.Series) -> pl.Series:
        return column.str.replace(",", ".", literal=True) if uses_commas(block, self._table) else column

    def _from_numbers(self, block: RowBlock, column: pl.Series) -> Times:
        import polars as pl

        plain = self._plain(block, column) if column.dtype == pl.String else column
        values = plain.cast(pl.Float64, strict=False)
        wrong = values.is_null() | values.is_nan()
        cure = "remove 'time_unit' if times are text" if wrong[:1].any() else "remove the line"
        cure = decimal_cure(self._table) if _has_comma(plain) else cure
        self._refuse(block, wrong, column, f"expected a time as a number, got {{}}; correct it, or {cure}")
        if self._unit == "auto":
            unit = _epoch_unit(float(values[0]))
            if unit is None:
                raise DatasetError(
                    f"{block.place(0)}: column {self._column!r}: expected a time since 1970, got {values[0]:g};"
                    " set time_unit to 's', 'ms', 'us' or 'ns' if it counts from the start"
                )
            self._unit = unit
        factor = _UNIT_NS[self._unit]
        with np.errstate(over="ignore"):
            far = ~(np.abs(values.to_numpy() * factor) <= MAX_TIME_NS)
        if far.any():
            fitting = _epoch_unit(float(values[int(np.flatnonzero(far)[0])]))
            cure = f", or set time_unit = {fitting!r}" if fitting else ", or 'time_unit'"
            self._refuse(block, far, column, f"{_FAR}{cure}")
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


def _has_comma(column: pl.Series) -> bool:
    return str(column.dtype) == "String" and bool(column.str.contains(r"^\d+,\d+$").any())


def _epoch_unit(value: float) -> TimeUnit | None:
    """Return the unit in which a number may count from 1970."""
    fitting = (unit for power, unit in enumerate(UNITS) if 1 <= value / (_MIN_EPOCH_S * 1e3**power) < 1e3)
    return next(fitting, None)


def _nanoseconds(stamps: pl.Series) -> Times:
    """Null becomes 0: far times would not fit."""
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
    started_ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if abs(started_ns) > MAX_TIME_NS:
        raise DatasetError(f"{place}: 'start': expected a time within 146 years of 1970, got {text!r}; correct it")
    return started_ns
