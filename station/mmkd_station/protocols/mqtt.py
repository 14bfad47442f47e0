"""`mqtt://HOST/TOPIC` and `mqtts://`.

At its start a sink clears earlier runs' retained alarms; the last will makes `TOPIC/online` `false`.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Endpoint, Source, SourceRequest, live_source
from mmkd_station.protocols.broker import BrokerSink, Connection, Will, read_broker, topic_level
from mmkd_station.protocols.samples import json_delivery
from mmkd_station.records import AlarmRecord, Record, StateRecord, record_from_line, record_line

_MAX_WAITING = 256  # messages between the threads; then the broker waits
_POLL_S = 0.2  # between looks at the end of the run


def _broker(text: str) -> Endpoint:
    tls = text.startswith("mqtts://")
    endpoint = read_broker(text, scheme="mqtts://" if tls else "mqtt://", tls=tls, options=("qos",))
    endpoint.choice("qos", ("0", "1"), "1")
    return endpoint


def _uses_tls(broker: Endpoint) -> bool:
    return broker.text.startswith("mqtts://")


def mqtt_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a source of a topic, wildcards allowed."""
    broker = _broker(text)
    if not broker.path:
        raise UsageError(f"--source {text}: expected mqtt://HOST/TOPIC, got no topic; name it")
    return Source(deliveries=partial(_messages, broker, request), live=True)


def _messages(broker: Endpoint, request: SourceRequest, intake: Intake) -> Iterator[Delivery]:
    payloads: queue.Queue[bytes] = queue.Queue(maxsize=_MAX_WAITING)

    def put(payload: bytes) -> None:
        while not intake.stop.is_set():
            with contextlib.suppress(queue.Full):
                payloads.put(payload, timeout=_POLL_S)
                return

    def read(connection: Connection, intake: Intake) -> Iterator[Delivery]:
        while not intake.stop.is_set():
            try:
                payload = payloads.get(timeout=_POLL_S)
            except queue.Empty:
                if connection.lost.is_set():
                    raise ConnectionError(connection.reason) from None
                continue
            yield from json_delivery(payload, request, intake)

    def connect() -> Connection:
        return Connection(broker, tls=_uses_tls(broker), topic=broker.path, on_message=put)

    yield from live_source(connect, read, name=broker.address).deliveries(intake)


class MqttSink(BrokerSink):
    """Publishes records, confirmed by the broker with `qos=1`, the default."""

    def __init__(self, text: str, place: str) -> None:
        self._endpoint = _broker(text)
        self._topic = self._endpoint.path.rstrip("/")
        if not self._topic or set("+#") & set(self._topic):
            raise UsageError(f"--sink {text}: expected mqtt://HOST/TOPIC with a topic without + and #; name one")
        self._cleared: set[str] = set()  # boots

    def write(self, records: Sequence[Record]) -> None:
        """Publish all records. Raises RefusedError for messages that the broker refuses alone, else OSError."""
        connection = self._ensure_connection()
        try:
            sent = []
            for record in records:
                is_kept = isinstance(record, AlarmRecord | StateRecord)
                sent.append(connection.publish(self._topic_for(record), record_line(record).rstrip(), retain=is_kept))
                if isinstance(record, StateRecord) and record.state == "started" and record.boot not in self._cleared:
                    self._cleared.add(record.boot)  # one try: some brokers disconnect a client that may not read
                    sent += self._clear_earlier_alarms(connection, record)
            connection.wait(sent)
        except (OSError, ValueError, RuntimeError) as error:  # raised by paho if the connection broke
            self._drop()
            if isinstance(error, ConnectionError):
                raise
            raise ConnectionError(f"{self._endpoint.address}: {error}") from error

    def _clear_earlier_alarms(self, connection: Connection, started: StateRecord) -> Iterator[Any]:
        """Clear retained alarms that an earlier run left open; continued ones were published before `started`."""
        for topic, payload in connection.retained(f"{self._topic}/{topic_level(started.station)}/alarm/+"):
            with contextlib.suppress(msgspec.MsgspecError):  # of another program
                alarm = record_from_line(payload)
                if isinstance(alarm, AlarmRecord) and alarm.event != "cleared" and alarm.boot != started.boot:
                    yield connection.publish(topic, b"", retain=True)

    def _ensure_connection(self) -> Connection:
        if self._connection is None or self._connection.lost.is_set():
            self._drop()
            self._connection = Connection(
                self._endpoint, tls=_uses_tls(self._endpoint), will=Will(f"{self._topic}/online", b"false", retain=True)
            )
            self._connection.publish(f"{self._topic}/online", b"true", retain=True)
        return self._connection

    def _topic_for(self, record: Record) -> str:
        topic = f"{self._topic}/{topic_level(record.station)}/{record.__struct_config__.tag}"
        return f"{topic}/{topic_level(record.label)}" if isinstance(record, AlarmRecord) else topic

    def close(self) -> None:
        """Publish the offline state and disconnect."""
        self._leave(f"{self._topic}/online", b"false", retain=True)
