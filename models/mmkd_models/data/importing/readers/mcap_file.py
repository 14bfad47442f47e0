"""MCAP files in blocks: columns are `topic.field`, with `log_time` and `publish_time` in UTC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, library, reading, require_one, utc

TIMES = ("log_time", "publish_time")
_WHAT = "an MCAP file"


def mcap_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns, from the first message of each topic. Raise DatasetError if it is no MCAP."""
    return (*TIMES, *_columns(file))


def mcap_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns in blocks, a row a message; they are of one topic."""
    topics = _columns(file)
    chosen = [topics[name] for name in columns if name not in TIMES] or list(topics.values())[:1]
    require_one(file, chosen, what="topic")
    topic = chosen[0]
    with reading(file, _WHAT), file.open("rb") as raw:
        rows: list[dict[str, Any]] = []
        first = 0
        for schema, channel, message in _reader(raw).iter_messages(topics=[topic]):
            fields = {f"{topic}.{name}": value for name, value in _fields(file, schema, channel, message).items()}
            fields |= {name: getattr(message, name) for name in TIMES}
            rows.append({name: fields.get(name) for name in columns})
            if len(rows) == BLOCK_ROWS:
                yield _block(file, rows, first)
                first, rows = first + len(rows), []
        if rows:
            yield _block(file, rows, first)


def _columns(file: Path) -> dict[str, str]:
    """The topic of each column."""
    found: dict[str, str] = {}
    with reading(file, _WHAT), file.open("rb") as raw:
        reader = _reader(raw)
        summary = reader.get_summary()
        if summary is None:
            raise DatasetError(f"{file}: expected {_WHAT} with its summary, got a part; repair it with: mcap recover")
        for topic in sorted({channel.topic for channel in summary.channels.values()}):
            first = next(iter(reader.iter_messages(topics=[topic])), None)
            names = () if first is None else _fields(file, *first)
            found.update((f"{topic}.{name}", topic) for name in names)
    if not found:
        raise DatasetError(f"{file}: expected messages with numbers, got none; record it again")
    return found


def _block(file: Path, rows: Sequence[dict[str, Any]], first: int) -> RowBlock:
    import polars as pl

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    times = {name: utc(columns.pop(name)) for name in TIMES if name in columns}
    frame = pl.DataFrame({**times, **columns}, strict=False)
    return RowBlock(file=file, frame=frame, place=lambda row: f"{file}: message {first + row + 1}")


def _fields(file: Path, schema: Any, channel: Any, message: Any) -> dict[str, Any]:
    """Numbers and texts of a message by their path: `a.x`, `b[0]`."""
    match channel.message_encoding:
        case "json":
            found = json.loads(message.data)
        case "cdr":
            ros = library("mcap_ros2.decoder", package="mcap-ros2-support", what="messages of ROS 2")
            found = ros.DecoderFactory().decoder_for("cdr", schema)(message.data)
        case other:
            raise DatasetError(
                f"{file}: topic {channel.topic}: expected messages in json or of ROS 2 (cdr), got {other};"
                " convert them to json"
            )
    return dict(_leaves(found, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, bool | int | float | str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(one, f"{path}.{name}" if path else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{path}[{number}]")
    elif hasattr(value, "__slots__"):
        for name in value.__slots__:
            yield from _leaves(getattr(value, name), f"{path}.{name}" if path else name)


def _reader(raw: Any) -> Any:
    return library("mcap.reader", package="mcap", what="MCAP files").make_reader(raw)
