"""A connection to an MQTT broker by paho-mqtt: version 5 or 3.1.1, TLS, credentials from a file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mmkd_edge.errors import UnavailableError
from mmkd_station.links.place import Place, place_of

OPTIONS = ("credentials", "ca", "cert", "key", "version", "qos", "client")
KEEPALIVE_S = 15
_CONNECTS_WITHIN_S = 5.0
_PORT, _TLS_PORT = 1883, 8883


def broker_of(text: str) -> Place:
    """Reads `mqtt://HOST/TOPIC`, or `mqtts`, and looks for the files it names. Raises UsageError where it is none."""
    scheme = "mqtts://" if text.startswith("mqtts://") else "mqtt://"
    place = place_of(text, scheme=scheme, options=OPTIONS, port=_TLS_PORT if scheme == "mqtts://" else _PORT)
    place.one_of("version", ("5", "3.1.1"), "5")
    place.one_of("qos", ("0", "1"), "1")
    place.credentials()
    for name in ("ca", "cert", "key"):
        place.file(name)
    return place


class MqttConnection:
    """One connection; a lost one is not mended, a new one is made.

    Args:
        place: of the broker.
        will: topic and payload that the broker publishes, retained, when this connection breaks.
        on_message: is given the payload of each message, in the thread of the connection.

    Raises:
        UnavailableError: paho-mqtt is not installed.
    """

    def __init__(
        self,
        place: Place,
        *,
        will: tuple[str, bytes] | None = None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        mqtt = mqtt_library()
        self._place = place
        self._is_5 = place.options.get("version", "5") == "5"
        self._keeps = "client" in place.options
        self.qos = int(place.options.get("qos", "1"))
        self.lost = threading.Event()
        self.reason = ""
        self._ready = threading.Event()
        self._topic: str | None = None
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=place.options.get("client", ""),
            protocol=mqtt.MQTTv5 if self._is_5 else mqtt.MQTTv311,
            clean_session=None if self._is_5 else not self._keeps,
            reconnect_on_failure=False,
        )
        self._client.max_inflight_messages_set(1000)
        if (found := place.credentials()) is not None:
            self._client.username_pw_set(*found)
        if place.text.startswith("mqtts://"):
            files = {name: None if (path := place.file(name)) is None else str(path) for name in ("ca", "cert", "key")}
            self._client.tls_set(ca_certs=files["ca"], certfile=files["cert"], keyfile=files["key"])
        if will is not None:
            self._client.will_set(will[0], will[1], qos=1, retain=True)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._client.on_connect_fail = lambda *_: self._lose("no answer")
        self._client.on_disconnect = lambda client, data, flags, code, properties: self._lose(str(code))
        if on_message is not None:
            self._client.on_message = lambda client, data, message: on_message(message.payload)

    def open(self, *, topic: str | None = None) -> None:
        """Connect, and subscribe to a topic.

        Raises:
            OSError: the broker cannot be reached.
            ConnectionError: it refused, or did not answer in time.
        """
        self._topic = topic
        properties: Any = None
        clean: Any = {}
        if self._is_5:
            clean = {"clean_start": not self._keeps}
            if self._keeps:
                from paho.mqtt.packettypes import PacketTypes
                from paho.mqtt.properties import Properties

                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = 3600
        self._client.connect_timeout = _CONNECTS_WITHIN_S
        self._client.connect(self._place.host, self._place.port, KEEPALIVE_S, properties=properties, **clean)
        self._client.loop_start()
        self._ready.wait(_CONNECTS_WITHIN_S)
        if not self._ready.is_set() or self.lost.is_set():
            self.close()
            raise ConnectionError(f"{self._place.host}:{self._place.port}: {self.reason or 'no answer'}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Any:
        """Hand a message to the connection; gives what tells whether the broker has it."""
        return self._client.publish(topic, payload, qos=self.qos, retain=retain)

    def retained(self, topic: str, *, within_s: float) -> list[tuple[str, bytes]]:
        """The messages that the broker keeps for topics, of a connection that listens to nothing else.

        Raises:
            ConnectionError: the broker did not answer in time.
        """
        messages: list[tuple[str, bytes]] = []
        self._client.on_message = lambda client, data, one: messages.append((one.topic, one.payload))
        answered = threading.Event()
        self._client.on_subscribe = lambda *_: None  # who may not read there may still publish
        self._client.on_unsubscribe = lambda *_: answered.set()
        self._client.subscribe(topic, qos=self.qos)
        self._client.unsubscribe(topic)  # a broker takes one after the other, and what it keeps comes in between
        if not answered.wait(within_s) or self.lost.is_set():
            raise ConnectionError(f"{self._place.host}:{self._place.port}: {self.reason or 'no answer'}")
        return messages

    def close(self) -> None:
        """Say goodbye, and end the thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._lose(str(code))
        elif self._topic is not None:
            client.subscribe(self._topic, qos=self.qos)
        else:
            self._ready.set()

    def _subscribed(self, client: Any, data: Any, number: Any, codes: Any, properties: Any) -> None:
        if any(code.is_failure for code in codes):
            self._lose(f"topic {self._topic}: {codes[0]}")
        self._ready.set()

    def _lose(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.lost.set()
        self._ready.set()


def mqtt_library() -> Any:
    """paho-mqtt. Raises UnavailableError where it is not installed."""
    try:
        import paho.mqtt.client as mqtt
    except ImportError as error:
        raise UnavailableError(
            "MQTT needs paho-mqtt, which this Python lacks; run: pip install 'mmkd-edge[live]'"
        ) from error
    return mqtt
