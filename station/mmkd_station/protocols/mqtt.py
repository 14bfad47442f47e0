"""`mqtt://HOST/TOPIC` and `mqtts://`, by paho-mqtt: MQTT 5 or 3.1.1, TLS, credentials from a file.

A sink publishes `TOPIC/STATION/result`, and retained `TOPIC/STATION/alarm/LABEL`, `TOPIC/STATION/state` and
`TOPIC/online`, which the last will makes `false`. At start it clears earlier runs' retained alarms.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from mmkd_edge.cli.run import require_modules
from mmkd_edge.errors import UsageError
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Endpoint, Sink, Source, SourceRequest, live_source, read_endpoint
from mmkd_station.protocols.samples import rows_from_json
from mmkd_station.records import AlarmRecord, Record, StateRecord, record_from_line, record_line

_OPTIONS = ("credentials", "ca", "cert", "key", "version", "qos")
_KEEPALIVE_S = 15
_CONNECT_TIMEOUT_S = 5.0
_CONFIRM_TIMEOUT_S = 10.0
_MAX_WAITING = 256  # messages between the threads; then the broker waits
_POLL_S = 0.2  # between looks at the end of the run
# Special or forbidden in topics (MQTT 5.0, sections 1.5.4 and 4.7), and the sign that encodes it.
_NOT_IN_LEVELS = re.compile("[/+#%\0-\x1f\x7f-\x9f]")


def _broker(text: str) -> Endpoint:
    _paho()
    scheme, port = ("mqtts://", 8883) if text.startswith("mqtts://") else ("mqtt://", 1883)
    endpoint = read_endpoint(text, scheme=scheme, options=_OPTIONS, port=port)
    endpoint.choice("version", ("5", "3.1.1"), "5")
    endpoint.choice("qos", ("0", "1"), "1")
    endpoint.credentials()
    for name in ("ca", "cert", "key"):
        endpoint.file(name)
    return endpoint


def _paho() -> Any:
    require_modules(("paho.mqtt.client",), by="MQTT", extra="live")
    import paho.mqtt.client as mqtt

    return mqtt


class _Connection:
    """A connection to a broker, replaced if lost. Raises OSError.

    `on_message` gets payloads in the connection's thread; the broker publishes `will` when it breaks.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        topic: str | None = None,
        on_message: Callable[[bytes], None] | None = None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        mqtt = _paho()
        self._endpoint, self._topic = endpoint, topic
        is_5 = endpoint.options.get("version", "5") == "5"
        self.qos = int(endpoint.options.get("qos", "1"))
        self.lost = threading.Event()
        self.reason = ""
        self._ready = threading.Event()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            protocol=mqtt.MQTTv5 if is_5 else mqtt.MQTTv311,
            clean_session=None if is_5 else True,
            reconnect_on_failure=False,
        )
        self._client.max_inflight_messages_set(1000)
        if (credentials := endpoint.credentials()) is not None:
            self._client.username_pw_set(*credentials)
        if endpoint.text.startswith("mqtts://"):
            files = {name: str(path) if (path := endpoint.file(name)) else None for name in ("ca", "cert", "key")}
            self._client.tls_set(ca_certs=files["ca"], certfile=files["cert"], keyfile=files["key"])
        if will is not None:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_connect_fail = lambda *_: self._lose("no answer")
        self._client.on_disconnect = lambda client, data, flags, code, properties: self._lose(str(code))
        if on_message is not None:
            self._client.on_message = lambda client, data, message: on_message(message.payload)
        self._client.connect_timeout = _CONNECT_TIMEOUT_S
        self._client.connect(endpoint.host, endpoint.port, _KEEPALIVE_S)
        self._client.loop_start()
        self._ready.wait(_CONNECT_TIMEOUT_S)
        if not self._ready.is_set() or self.lost.is_set():
            self.close()
            raise self.broken()

    def broken(self, otherwise: str = "no answer") -> ConnectionError:
        return ConnectionError(f"{self._endpoint.address}: {self.reason or otherwise}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Any:
        return self._client.publish(topic, payload, qos=self.qos, retain=retain)

    def retained(self, topic: str) -> list[tuple[str, bytes]]:
        """Return retained messages. Raises ConnectionError without an answer."""
        messages: list[tuple[str, bytes]] = []
        self._client.on_message = lambda client, data, message: messages.append((message.topic, message.payload))
        answered = threading.Event()
        self._client.on_subscribe = lambda *_: None  # a client that may not read there may still publish
        self._client.on_unsubscribe = lambda *_: answered.set()
        self._client.subscribe(topic, qos=self.qos)
        self._client.unsubscribe(topic)  # a broker answers in order: retained messages come in between
        if not answered.wait(_CONFIRM_TIMEOUT_S) or self.lost.is_set():
            raise self.broken()
        return messages

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._lose(str(code))
        elif self._topic is not None:
            client.subscribe(self._topic, qos=self.qos)
        else:
            self._ready.set()

    def _on_subscribe(self, client: Any, data: Any, number: Any, codes: Any, properties: Any) -> None:
        if any(code.is_failure for code in codes):
            self._lose(f"topic {self._topic}: {codes[0]}")
        self._ready.set()

    def _lose(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.lost.set()
        self._ready.set()


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

    def read(connection: _Connection, intake: Intake) -> Iterator[Delivery]:
        while not intake.stop.is_set():
            try:
                payload = payloads.get(timeout=_POLL_S)
            except queue.Empty:
                if connection.lost.is_set():
                    raise ConnectionError(connection.reason) from None
                continue
            try:
                times, rows = rows_from_json(payload, request)
            except ValueError as error:
                intake.garbage(str(error))
                continue
            yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())

    def connect() -> _Connection:
        return _Connection(broker, topic=broker.path, on_message=put)

    yield from live_source(connect, read, name=broker.address).deliveries(intake)


class MqttSink(Sink):
    """Publishes records, confirmed by the broker with `qos=1`, the default."""

    def __init__(self, text: str, place: str) -> None:
        self._endpoint = _broker(text)
        self._topic = self._endpoint.path.rstrip("/")
        if not self._topic or set("+#") & set(self._topic):
            raise UsageError(f"--sink {text}: expected mqtt://HOST/TOPIC with a topic without + and #; name one")
        self._connection: _Connection | None = None
        self._cleared: set[str] = set()  # boots

    def write(self, records: Sequence[Record]) -> None:
        """Publish all records. Raises OSError unless the broker accepts and confirms."""
        connection = self._connected()
        try:
            sent = []
            for record in records:
                is_kept = isinstance(record, AlarmRecord | StateRecord)
                sent.append(connection.publish(self._topic_for(record), record_line(record).rstrip(), retain=is_kept))
                if isinstance(record, StateRecord) and record.state == "started" and record.boot not in self._cleared:
                    self._cleared.add(record.boot)  # one try: some brokers disconnect a client that may not read
                    sent += self._clear_earlier_alarms(connection, record)
            for message in sent:
                message.wait_for_publish(_CONFIRM_TIMEOUT_S)
                if not message.is_published() or connection.lost.is_set():
                    raise connection.broken("it did not confirm")
        except (OSError, ValueError, RuntimeError) as error:  # raised by paho if the connection broke
            self._drop()
            raise ConnectionError(f"{self._endpoint.host}: {error}") from error

    def _clear_earlier_alarms(self, connection: _Connection, started: StateRecord) -> Iterator[Any]:
        """Clear retained alarms that an earlier run left open; continued ones were published before `started`."""
        for topic, payload in connection.retained(f"{self._topic}/{_level(started.station)}/alarm/+"):
            with contextlib.suppress(msgspec.MsgspecError):  # of another program
                alarm = record_from_line(payload)
                if isinstance(alarm, AlarmRecord) and alarm.event != "cleared" and alarm.boot != started.boot:
                    yield connection.publish(topic, b"", retain=True)

    def _connected(self) -> _Connection:
        if self._connection is None or self._connection.lost.is_set():
            self._drop()
            self._connection = _Connection(self._endpoint, will=(f"{self._topic}/online", b"false"))
            self._connection.publish(f"{self._topic}/online", b"true", retain=True)
        return self._connection

    def _topic_for(self, record: Record) -> str:
        station = f"{self._topic}/{_level(record.station)}"
        match record:
            case AlarmRecord():
                return f"{station}/alarm/{_level(record.label)}"
            case StateRecord():
                return f"{station}/state"
            case _:
                return f"{station}/result"

    def _drop(self) -> None:
        """Close the connection, so that it cannot repeat records that are offered again."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Publish the offline state and disconnect."""
        if self._connection is not None and not self._connection.lost.is_set():
            with contextlib.suppress(Exception):
                self._connection.publish(f"{self._topic}/online", b"false", retain=True).wait_for_publish(2.0)
        self._drop()


def _level(text: str) -> str:
    """Encode a text injectively as one topic level."""
    return _NOT_IN_LEVELS.sub(lambda match: quote(match[0], safe=""), text)
