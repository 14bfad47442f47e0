"""Samples in JSON, as lines and messages carry them.

A sample is an object with a value for every column, `{"time": 12.5, "ax": 0.1, "ay": 0.2}`, or an array of the values
in the columns' order. Several are an array of samples, an object whose columns are arrays, or
`{"time": ..., "samples": [[...], ...]}`. `null` is missing. `time` is that of the first sample, or an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_station.sources.base import SECONDS, Wanted
from mmkd_station.sources.moments import seconds_of

Rows = tuple[NDArray[np.float64] | None, NDArray[np.float32]]

SAMPLES_KEY = "samples"
# Of one message: 100 s at 1 kHz. More is a mistake, or an attack.
MOST_ROWS = 100_000
# Reading a larger one would stop every thread of the process for more than a tenth of a second.
MOST_BYTES = 4 << 20


def rows_of(data: bytes, wanted: Wanted) -> Rows:
    """The samples of one JSON text: their times (n,) or None, and float32 (n, C) in the modality's unit.

    Raises:
        ValueError: it is no JSON, no samples are in it, or too many.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"expected a message of at most {MOST_BYTES:,} bytes, got {len(data):,}")
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"expected JSON, got {str(error).lower()}") from error
    times, rows = _any(found, wanted)
    if len(rows) > MOST_ROWS:
        raise ValueError(f"expected at most {MOST_ROWS:,} samples at once, got {len(rows):,}")
    return times, wanted.columns.scaled(rows)


def _any(found: Any, wanted: Wanted) -> Rows:
    match found:
        case dict():
            return _object(found, wanted)
        case [dict(), *_]:
            parts = [_object(one, wanted) for one in found if isinstance(one, dict)]
            if len(parts) < len(found):
                raise ValueError("expected samples of one form, got objects and others in one array")
            times = [time for time, _ in parts if time is not None]
            if times and len(times) < len(parts):
                raise ValueError(f"expected {wanted.time_column!r} in every sample or in none, got some")
            return np.concatenate(times) if times else None, np.concatenate([rows for _, rows in parts])
        case list():
            return None, _matrix(found, wanted)
        case int() | float() if not isinstance(found, bool):
            return None, _matrix([found], wanted)
        case _:
            raise ValueError(f"expected samples, got {type(found).__name__}")


def _object(found: Mapping[str, Any], wanted: Wanted) -> Rows:
    given = found.get(wanted.time_column)
    if SAMPLES_KEY in found:
        rows = _matrix(found[SAMPLES_KEY], wanted)
    else:
        lacking = [name for name in wanted.columns.names if name not in found]
        if lacking:
            raise ValueError(f"expected the columns {', '.join(wanted.columns.names)}, found no {', '.join(lacking)}")
        columns = [_column(name, found[name]) for name in wanted.columns.names]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("expected columns of one length, got several")
        rows = np.stack(columns, axis=1)
    return None if given is None else _times(given, len(rows), wanted), rows


def _times(given: Any, count: int, wanted: Wanted) -> NDArray[np.float64]:
    unit_s = SECONDS[wanted.time_unit]
    if isinstance(given, list):
        if len(given) != count:
            raise ValueError(f"expected a time for each of {count} samples, got {len(given)}")
        return np.array([seconds_of(one, unit_s=unit_s) for one in given])
    return seconds_of(given, unit_s=unit_s) + np.arange(count) / wanted.rate_hz


def _column(name: str, value: Any) -> NDArray[np.float32]:
    return _numbers(value if isinstance(value, list) else [value], f"column {name}").reshape(-1)


def _matrix(values: Any, wanted: Wanted) -> NDArray[np.float32]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected rows of numbers, got {type(values).__name__}")
    array = _numbers(values, "samples")
    channels = len(wanted.columns.names)
    if array.ndim == 1:
        array = array[:, None] if channels == 1 else array[None]
    if array.ndim != 2 or array.shape[1] != channels:
        raise ValueError(f"expected {channels} values in a row, got {array.shape[-1]}")
    return array


def _numbers(values: Sequence[Any], what: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # infinite is missing
            array = np.array(values, dtype=np.float64).astype(np.float32)  # null becomes NaN
    except (TypeError, ValueError, OverflowError) as error:  # a whole number of 400 digits overflows
        raise ValueError(f"{what}: expected numbers, got something else") from error
    return array
