"""Edge Impulse JSON (its documentation, "Data acquisition format"); signatures are not checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.data.importing.readers.table import RowBlock, row_block


class _Sensor(msgspec.Struct):
    name: str


class _Payload(msgspec.Struct):
    interval_ms: float
    sensors: list[_Sensor]
    values: list[list[float | None] | float | None]


class _Recording(msgspec.Struct):
    payload: _Payload


def edge_impulse_names(file: Path) -> tuple[str, ...]:
    """Return sensor names. Raise DatasetError for another format."""
    return tuple(sensor.name for sensor in _read(file).sensors)


def edge_impulse_rate_hz(file: Path) -> float:
    """Return the rate in Hz."""
    return 1000.0 / _read(file).interval_ms


def edge_impulse_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns at once."""
    payload = _read(file)
    names = [sensor.name for sensor in payload.sensors]
    rows = [row if isinstance(row, list) else [row] for row in payload.values]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise DatasetError(
                f"{file}: value {number}: expected {len(names)} numbers ({', '.join(names)}), got {len(row)};"
                " record it again"
            )
    places = {name: names.index(name) for name in columns}
    yield row_block(file, {name: [row[place] for row in rows] for name, place in places.items()}, called="value")


def _read(file: Path) -> _Payload:
    try:
        payload = msgspec.json.decode(file.read_bytes(), type=_Recording).payload
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(
            f"{file}: expected Edge Impulse's data acquisition format, got {first_line(error)}; export it again as JSON"
        ) from error
    if not payload.interval_ms > 0 or not payload.sensors:
        raise DatasetError(
            f"{file}: expected an 'interval_ms' above 0 and 'sensors', got {payload.interval_ms} and"
            f" {len(payload.sensors)}; export it again"
        )
    return payload
