"""MCAP files: columns are `topic.field`, with `log_time` and `publish_time` in UTC."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, library, reading, require_one, row_block, utc

_TIMES = ("log_time", "publish_time")
_WHAT = "an MCAP file"


def mcap_names(file: Path) -> tuple[str, ...]:
    """Return column names, from each topic's first message. Raise DatasetError if it is no MCAP."""
    return (*_TIMES, *_topics(file))


def mcap_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield columns of one topic in blocks, a row a message."""
    topics = _topics(file)
    chosen = [topics[name] for name in columns if name not in _TIMES] or list(topics.values())[:1]
    require_one(file, chosen, what="topic")
    first = 0
    with reading(file, _WHAT), file.open("rb") as raw:
        messages = _reader(raw).iter_messages(topics=chosen[:1])
        while block := list(itertools.islice(messages, BLOCK_ROWS)):
            rows = [{**_fields(file, *entry), **{name: getattr(entry[2], name) for name in _TIMES}} for entry in block]
            values = {name: [row.get(name) for row in rows] for name in columns}
            times = {name: utc(values[name]) for name in columns if name in _TIMES}
            yield row_block(file, {**values, **times}, first, called="message", base=1)
            first += len(rows)


def _topics(file: Path) -> dict[str, str]:
    topics: dict[str, str] = {}
    with reading(file, _WHAT), file.open("rb") as raw:
        reader = _reader(raw)
        summary = reader.get_summary()
        if summary is None:
            raise DatasetError(f"{file}: expected {_WHAT} with its summary, got a part; repair it with: mcap recover")
        for topic in sorted({channel.topic for channel in summary.channels.values()}):
            entry = next(iter(reader.iter_messages(topics=[topic])), None)
            topics.update(dict.fromkeys(_fields(file, *entry) if entry else (), topic))
    if not topics:
        raise DatasetError(f"{file}: expected messages with numbers, got none; record it again")
    return topics


def _fields(file: Path, schema: Any, channel: Any, message: Any) -> dict[str, Any]:
    """Return numbers and texts of a message by path: `/topic.a.x`, `/topic.b[0]`."""
    match channel.message_encoding:
        case "json":
            content = json.loads(message.data)
        case "cdr":
            ros = library("mcap_ros2.decoder", package="mcap-ros2-support", what="messages of ROS 2")
            content = ros.DecoderFactory().decoder_for("cdr", schema)(message.data)
        case other:
            raise DatasetError(
                f"{file}: topic {channel.topic}: expected messages in json or of ROS 2 (cdr), got {other};"
                " convert them to json"
            )
    return dict(_leaves(content, channel.topic))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, bool | int | float | str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{path}[{number}]")
    elif hasattr(value, "__slots__"):
        for name in value.__slots__:
            yield from _leaves(getattr(value, name), f"{path}.{name}")


def _reader(raw: Any) -> Any:
    return library("mcap.reader", package="mcap", what="MCAP files").make_reader(raw)
