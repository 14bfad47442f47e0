"""A connection to an MQTT broker, by paho-mqtt: MQTT 5 or 3.1.1, TLS, credentials from a file."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from mmkd_edge.cli.run import require_modules
from mmkd_station.protocols.base import Endpoint, Sink, read_endpoint

_OPTIONS = ("credentials", "ca", "cert", "key", "version")
_KEEPALIVE_S = 15
_CONNECT_TIMEOUT_S = 5.0
CONFIRM_TIMEOUT_S = 10.0
# Special or forbidden in topics (MQTT 5.0, sections 1.5.4 and 4.7), and the sign that encodes it.
_NOT_IN_LEVELS = re.compile("[/+#%\0-\x1f\x7f-\x9f]")


class Will(NamedTuple):
    """What the broker publishes when a connection breaks."""

    topic: str
    payload: bytes
    retain: bool


def read_broker(text: str, *, scheme: str, tls: bool, options: Sequence[str]) -> Endpoint:
    """Parse a broker's address. Raises UsageError, or UnavailableError without paho-mqtt."""
    _paho()
    endpoint = read_endpoint(text, scheme=scheme, options=(*_OPTIONS, *options), port=8883 if tls else 1883)
    endpoint.choice("version", ("5", "3.1.1"), "5")
    endpoint.credentials()
    for name in ("ca", "cert", "key"):
        endpoint.file(name)
    return endpoint


def _paho() -> Any:
    require_modules(("paho.mqtt.client",), by="MQTT", extra="live")
    import paho.mqtt.client as mqtt

    return mqtt


class Connection:
    """A connection to a broker, replaced if lost. Raises OSError.

    `on_message` gets payloads in the connection's thread; the broker publishes `will` when it breaks.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tls: bool,
        topic: str | None = None,
        on_message: Callable[[bytes], None] | None = None,
        will: Will | None = None,
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
        if tls:
            files = {name: str(path) if (path := endpoint.file(name)) else None for name in ("ca", "cert", "key")}
            self._client.tls_set(ca_certs=files["ca"], certfile=files["cert"], keyfile=files["key"])
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
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
        """Return the error of this connection."""
        return ConnectionError(f"{self._endpoint.address}: {self.reason or otherwise}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int | None = None) -> Any:
        """Publish without waiting; return what can be waited for."""
        return self._client.publish(topic, payload, qos=self.qos if qos is None else qos, retain=retain)

    def confirm(self, topic: str) -> None:
        """Wait until the broker has all that was published. Raises ConnectionError without an answer."""
        answered = threading.Event()
        self._client.on_unsubscribe = lambda *_: answered.set()
        self._client.unsubscribe(topic)  # a broker answers in order
        if not answered.wait(CONFIRM_TIMEOUT_S) or self.lost.is_set():
            raise self.broken("it did not confirm")

    def retained(self, topic: str) -> list[tuple[str, bytes]]:
        """Return retained messages. Raises ConnectionError without an answer."""
        messages: list[tuple[str, bytes]] = []
        self._client.on_message = lambda client, data, message: messages.append((message.topic, message.payload))
        self._client.on_subscribe = lambda *_: None  # a client that may not read there may still publish
        self._client.subscribe(topic, qos=self.qos)
        self.confirm(topic)  # retained messages come before the answer
        return messages

    def close(self) -> None:
        """Disconnect."""
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


class BrokerSink(Sink):
    """A sink with one connection, opened when records come."""

    _connection: Connection | None = None

    def _drop(self) -> None:
        """Close the connection, so that it cannot repeat records that are offered again."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def _leave(self, topic: str, payload: bytes, *, retain: bool, qos: int | None = None) -> None:
        """Publish what the last will would say, if there is a connection, and disconnect."""
        if self._connection is not None and not self._connection.lost.is_set():
            with contextlib.suppress(Exception):
                self._connection.publish(topic, payload, retain=retain, qos=qos).wait_for_publish(2.0)
        self._drop()


def topic_level(text: str) -> str:
    """Encode a text injectively as one topic level."""
    return _NOT_IN_LEVELS.sub(lambda match: quote(match[0], safe=""), text)
