"""The table of sources and sinks, opened by their text."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_station.protocols.base import Sink, Source, SourceRequest, check_no_password
from mmkd_station.protocols.files import (
    AppendSink,
    StdoutSink,
    csv_lines,
    file_source,
    json_lines,
    pcm_source,
    recordings_source,
    stdin_source,
    wav_source,
)
from mmkd_station.protocols.http import WebhookSink, url_host
from mmkd_station.protocols.influxdb import InfluxSink
from mmkd_station.protocols.kafka import KafkaSink, kafka_source
from mmkd_station.protocols.modbus import modbus_source, modbus_write_sink
from mmkd_station.protocols.mqtt import MqttSink, mqtt_source
from mmkd_station.protocols.opcua import opcua_source, opcua_write_sink
from mmkd_station.protocols.postgresql import PostgresSink, postgresql_source
from mmkd_station.protocols.sparkplug import SparkplugSink
from mmkd_station.protocols.video import camera_source, video_source


class _SourceKind(msgspec.Struct, frozen=True):
    """`open` gets the whole text and what follows the prefix; `grows` if `--follow` applies, `frames` for video."""

    form: str
    about: str
    open: Callable[[str, str, SourceRequest], Source]
    grows: bool = False
    frames: bool = False


class _SinkKind(msgspec.Struct, frozen=True):
    form: str
    about: str
    open: Callable[[str, str], Sink]


# By prefix; the text behind it is the place.
SOURCES: dict[str, _SourceKind] = {
    "csv:": _SourceKind("csv:FILE", "lines of a file, CSV or JSON; --follow waits for more", file_source, grows=True),
    "stdin": _SourceKind("stdin", "lines of the standard input, CSV or JSON", stdin_source),
    "mqtt://": _SourceKind("mqtt://HOST/TOPIC", "JSON messages", mqtt_source),
    "mqtts://": _SourceKind("mqtts://HOST/TOPIC", "JSON messages over TLS", mqtt_source),
    "kafka://": _SourceKind("kafka://HOST/TOPIC", "JSON messages of a Kafka topic", kafka_source),
    "opcua://": _SourceKind("opcua://HOST", "OPC UA nodes, polled", opcua_source),
    "modbus://": _SourceKind("modbus://HOST", "Modbus registers, polled", modbus_source),
    "postgresql://": _SourceKind(
        "postgresql://HOST/DATABASE?table=NAME", "replay the rows of a table", postgresql_source
    ),
    "wav:": _SourceKind("wav:FILE", "an audio file", wav_source),
    "pcm": _SourceKind("pcm", "sound from the standard input: 16 bits, little-endian", pcm_source),
    "cam:": _SourceKind("cam:N", "a camera: number, device, URL or GStreamer pipeline", camera_source, frames=True),
    "video:": _SourceKind("video:FILE", "a video file", video_source, frames=True),
    "recordings:": _SourceKind("recordings:DATASET", "the recordings of a dataset, in their order", recordings_source),
}
SINKS: dict[str, _SinkKind] = {
    "-": _SinkKind("-", "JSON lines on the standard output", StdoutSink),
    "jsonl:": _SinkKind("jsonl:FILE", "append JSON lines to a file", partial(AppendSink, form=json_lines)),
    "csv:": _SinkKind("csv:FILE", "append results to a file, as CSV", partial(AppendSink, form=csv_lines)),
    "webhook:": _SinkKind("webhook:URL", "post a JSON array", WebhookSink),
    "modbus-write://": _SinkKind(
        "modbus-write://HOST?at=N", "write the latest result to five registers from N on", modbus_write_sink
    ),
    "opcua-write://": _SinkKind(
        "opcua-write://HOST?label=NODE", "write the latest result to the given OPC UA nodes", opcua_write_sink
    ),
    "mqtt://": _SinkKind("mqtt://HOST/TOPIC", "JSON messages below a topic", MqttSink),
    "mqtts://": _SinkKind("mqtts://HOST/TOPIC", "JSON messages below a topic, over TLS", MqttSink),
    "sparkplug://": _SinkKind("sparkplug://HOST/GROUP/NODE", "births, data and deaths of Sparkplug B", SparkplugSink),
    "kafka://": _SinkKind("kafka://HOST/TOPIC", "JSON messages, the station as their key", KafkaSink),
    "influxdb://": _SinkKind("influxdb://HOST/DATABASE", "points of InfluxDB's line protocol", InfluxSink),
    "postgresql://": _SinkKind("postgresql://HOST/DATABASE", "rows of a table, each record once", PostgresSink),
}

_Kind = TypeVar("_Kind", _SourceKind, _SinkKind)


def _kind_and_place(text: str, table: Mapping[str, _Kind], *, option: str) -> tuple[_Kind, str]:
    for prefix, kind in table.items():
        has_place = prefix[-1] in ":/"
        if text == prefix or (text.startswith(prefix) and has_place):
            place = text[len(prefix) :]
            if has_place and not place:
                raise UsageError(f"{option} {text}: expected {kind.form}, got nothing behind the prefix; name it")
            return kind, place
    forms = ", ".join(kind.form for kind in table.values())
    is_file = ":" not in text and "csv:" in table and ("." in text or "/" in text)
    cure = f"write {option} csv:{text} for a file" if is_file else "write it like one of them"
    raise UsageError(f"{option} {text}: expected one of {forms}; {cure}")


def grows(text: str) -> bool:
    """Whether `--follow` applies to a source. Raises UsageError."""
    return _kind_and_place(text, SOURCES, option="--source")[0].grows


def open_source(text: str, request: SourceRequest) -> Source:
    """Open a source. Raises UsageError or UnavailableError."""
    kind, place = _kind_and_place(text, SOURCES, option="--source")
    if kind.frames and "://" in place:
        # A credentials file name may contain @.
        check_no_password(re.split("[?&]credentials=", place)[0], form=f"{text.partition('://')[0]}://")
    if kind.frames != (request.frame is not None):
        forms = ", ".join(other.form for other in SOURCES.values() if other.frames != kind.frames)
        gives, takes = ("video", "samples") if kind.frames else ("samples", "video")
        raise UsageError(f"--source {text}: expected {takes} for this student, got a source of {gives}; use {forms}")
    if request.follow and not kind.grows:
        forms = ", ".join(other.form for other in SOURCES.values() if other.grows)
        raise UsageError(f"--follow: expected {forms}, a file that grows, got --source {text}; leave it out")
    if text in ("stdin", "pcm") and sys.stdin is None:
        raise UsageError(f"--source {text}: expected an open standard input, got a closed one; pipe samples into it")
    return kind.open(text, place, request)


def open_sink(text: str) -> Sink:
    """Open a sink. Raises UsageError or UnavailableError."""
    kind, place = _kind_and_place(text, SINKS, option="--sink")
    return kind.open(text, place)


def shown_names(texts: Sequence[str]) -> dict[str, str]:
    """Return unique names of sinks, without URL secrets."""
    shown: dict[str, str] = {}
    for text in texts:
        prefix, _, url = text.partition(":")
        name = f"webhook:{url_host(url)}" if prefix == "webhook" else text
        count = sum(known == name or known.startswith(f"{name} (") for known in shown.values())
        shown[text] = f"{name} ({count + 1})" if count else name
    return shown
