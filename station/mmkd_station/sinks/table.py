"""The one table of sinks: what each is called, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mmkd_station.links.prefixes import kind_and_place
from mmkd_station.sinks.base import Sink
from mmkd_station.sinks.files import CsvSink, JsonLinesSink, StdoutSink
from mmkd_station.sinks.modbus import ModbusWriteSink
from mmkd_station.sinks.mqtt import MqttSink
from mmkd_station.sinks.opcua import OpcUaWriteSink
from mmkd_station.sinks.webhook import WebhookSink, host_of


class SinkKind(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        form: how it is written.
        about: what it does, for the help.
        open: opens it; may raise UsageError and UnavailableError.
    """

    form: str
    about: str
    open: Callable[[str], Sink]


SINKS: dict[str, SinkKind] = {
    "-": SinkKind(form="-", about="lines of JSON on the standard output", open=lambda place: StdoutSink()),
    "jsonl:": SinkKind(
        form="jsonl:FILE", about="lines of JSON at the end of a file", open=lambda place: JsonLinesSink(Path(place))
    ),
    "csv:": SinkKind(
        form="csv:FILE", about="results as CSV at the end of a file", open=lambda place: CsvSink(Path(place))
    ),
    "webhook:": SinkKind(form="webhook:URL", about="an array of JSON, posted", open=lambda place: WebhookSink(place)),
    "modbus-write://": SinkKind(
        form="modbus-write://HOST?at=N",
        about="the last result in five registers from N on",
        open=lambda place: ModbusWriteSink(f"modbus-write://{place}"),
    ),
    "opcua-write://": SinkKind(
        form="opcua-write://HOST?label=NODE",
        about="the last result in nodes that are named",
        open=lambda place: OpcUaWriteSink(f"opcua-write://{place}"),
    ),
    "mqtt://": SinkKind(
        form="mqtt://HOST/TOPIC", about="messages below a topic", open=lambda place: MqttSink(f"mqtt://{place}")
    ),
    "mqtts://": SinkKind(
        form="mqtts://HOST/TOPIC", about="the same by TLS", open=lambda place: MqttSink(f"mqtts://{place}")
    ),
}
"""By prefix; the text behind it is the place."""


def shown_names(texts: Sequence[str]) -> dict[str, str]:
    """How sinks are called where others read it, by their texts: without the secret of a URL, and no two alike."""
    shown: dict[str, str] = {}
    for text in texts:
        prefix, _, url = text.partition(":")
        name = f"webhook:{host_of(url)}" if prefix == "webhook" else text
        count = sum(known == name or known.startswith(f"{name} (") for known in shown.values())
        shown[text] = f"{name} ({count + 1})" if count else name
    return shown


def open_sink(text: str) -> Sink:
    """Opens the sink that a text names.

    Raises:
        UsageError: there is no such sink, or it cannot be written.
        UnavailableError: a library is missing.
    """
    kind, place = kind_and_place(text, SINKS, option="--sink")
    return kind.open(place)
