"""A connection to an MQTT broker, by paho-mqtt: MQTT 5 or 3.1.1, TLS, credentials from a file."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from mmkd_edge.errors import UsageError, first_line, os_reason
from mmkd_edge.machine import require_modules
from mmkd_station.protocols.base import Endpoint, RefusedError, Sink, read_endpoint

_OPTIONS = ("credentials", "ca", "cert", "key", "version")
_KEEPALIVE_S = 15
_CONNECT_TIMEOUT_S = 5.0
CONFIRM_TIMEOUT_S = 10.0
_LOOK_S = 0.2  # between looks whether the connection is lost
# x509_vfy.h of OpenSSL
_EXPIRED, _NOT_YET_VALID, _OTHER_PURPOSE, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 26, 62, 64
_HUNG_UP = "the broker hung up; it may ask for a certificate that it trusts, with cert= and key="
_HUNG_UP_PLAIN = "the broker hung up; it may expect TLS on this port, with mqtts://"
# Special or forbidden in topics (MQTT 5.0, sections 1.5.4 and 4.7), and the sign that encodes it.
# Reason codes (MQTT 5.0, 2.4) that concern a message: malformed packet, protocol error (mosquitto's answer to too large
# a payload is one), topic name invalid, packet too large, payload format invalid. All others concern the sink: not
# authorized, quota exceeded, server busy.
_MESSAGE_CODES = (0x81, 0x82, 0x90, 0x95, 0x99)
_HEADER_BYTES = 10  # most of a message beside topic and payload
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
    if tls:
        _check_certificates(endpoint)
    return endpoint


def _check_certificates(endpoint: Endpoint) -> None:
    context = ssl.create_default_context()
    ca, cert, key = (endpoint.file(name) for name in ("ca", "cert", "key"))
    try:
        if ca is not None:
            context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UsageError(
            f"{endpoint.text}: ca: {ca}: expected certificates as PEM, got none; name such a file"
        ) from error
    try:
        if cert is not None:
            context.load_cert_chain(cert, key, password="")  # a password would be asked for at the terminal
    except ssl.SSLError as error:
        raise UsageError(
            f"{endpoint.text}: cert: {cert}: expected a certificate and its own private key as PEM without a password, "
            "got others; name both, with key=FILE"
        ) from error


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
        self._most_bytes: float = math.inf  # of a message
        self._broke_by_message = False
        self._refusals: dict[int, Any] = {}  # reason codes, by message
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
        self._client.on_publish = self._on_publish
        self._hung_up = _HUNG_UP if tls else _HUNG_UP_PLAIN
        self._client.on_disconnect = self._on_disconnect
        if on_message is not None:
            self._client.on_message = lambda client, data, message: on_message(message.payload)
        self._client.connect_timeout = _CONNECT_TIMEOUT_S
        try:
            self._client.connect(endpoint.host, endpoint.port, _KEEPALIVE_S)
        except OSError as error:
            traceback.clear_frames(error.__traceback__)  # paho leaves the socket of a failed handshake open there
            raise ConnectionError(f"{endpoint.address}: {_connect_reason(endpoint, error, tls=tls)}") from error
        self._client.loop_start()
        self._ready.wait(_CONNECT_TIMEOUT_S)
        if not self._ready.is_set() or self.lost.is_set():
            self.close()
            raise self.broken()

    def broken(self, otherwise: str = "no answer") -> ConnectionError:
        """Return the error of this connection."""
        return ConnectionError(f"{self._endpoint.address}: {self.reason or otherwise}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int | None = None) -> Any:
        """Publish without waiting; return what can be waited for, None if the broker takes no message so large."""
        if len(topic.encode()) + len(payload) + _HEADER_BYTES > self._most_bytes:
            return None
        return self._client.publish(topic, payload, qos=self.qos if qos is None else qos, retain=retain)

    def wait(self, messages: Sequence[Any]) -> None:
        """Wait for the broker's answer to each message. Raises RefusedError if one concerns a message, else OSError."""
        sent = [message for message in messages if message is not None]
        end_s = time.monotonic() + CONFIRM_TIMEOUT_S
        for message in sent:
            while not message.is_published() and not self.lost.is_set() and time.monotonic() < end_s:
                message.wait_for_publish(_LOOK_S)
            if not message.is_published() or self.lost.is_set():
                broken = self.broken("it did not confirm")
                raise RefusedError(str(broken)) if self._broke_by_message else broken
        refusals = [code for message in sent if (code := self._refusals.pop(message.mid, None)) is not None]
        for code in refusals:
            if code.value not in _MESSAGE_CODES:
                raise self.broken(str(code))
        if count := len(messages) - len(sent) + len(refusals):
            reason = str(refusals[0]) if refusals else f"Packet too large: it takes {self._most_bytes} bytes"
            raise RefusedError(str(self.broken(reason)), count=count)

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
        self._most_bytes = getattr(properties, "MaximumPacketSize", math.inf)
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

    def _on_publish(self, client: Any, data: Any, number: int, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._refusals[number] = code

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._broke_by_message = self._ready.is_set() and code.value in _MESSAGE_CODES
        self._lose(str(code) if self._ready.is_set() else self._hung_up)

    def _lose(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.lost.set()
        self._ready.set()


def _connect_reason(endpoint: Endpoint, error: OSError, *, tls: bool) -> str:
    match error:
        case ssl.SSLCertVerificationError(verify_code=code, verify_message=reason):
            return _certificate_reason(endpoint, code, reason)
        case ssl.SSLError() | ConnectionResetError() if tls:
            return f"TLS failed: {first_line(error)}; expected the broker's port for TLS, which is usually 8883"
        case ConnectionRefusedError():
            return "connection refused: is the broker running there, on this port?"
        case TimeoutError():
            return "no answer: is the broker running there, and does no firewall stop this device?"
        case socket.gaierror():
            return f"the host {endpoint.host} is not known; check its name, or give its IP address"
        case _:
            return os_reason(error)


def _certificate_reason(endpoint: Endpoint, code: int, reason: str) -> str:
    if code in (_EXPIRED, _NOT_YET_VALID):
        return f"the broker's {reason}; renew it there, and check the clock of this device"
    if code in (_OTHER_HOST, _OTHER_ADDRESS):
        reason = reason.rstrip(".")
        return f"the broker's certificate is for another host: {reason}; connect to a name that it has, or renew it"
    if code == _OTHER_PURPOSE:
        return "the broker's certificate is not one for servers; make one with the purpose serverAuth"
    ca = endpoint.options.get("ca")
    judged = "signed by nobody whom this system trusts" if ca is None else f"not signed by ca={ca}"
    return f"the broker's certificate is {judged} ({reason}); give the certificate of who signed it as ca=FILE"


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
