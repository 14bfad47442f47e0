"""`mqtt://HOST/TOPIC`: results, alarms and states below a topic.

`TOPIC/STATION/result` has each result; `TOPIC/STATION/alarm/LABEL` and `TOPIC/STATION/state` keep the last one for
whoever comes later (retained); `TOPIC/online` is `true`, and the broker makes it `false` when this program is gone
(last will).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from mmkd_edge.errors import UsageError
from mmkd_edge.live.links.mqtt import MqttConnection, broker_of, mqtt_library
from mmkd_edge.live.records import AlarmRecord, Record, StateRecord, line_of

_ACCEPTED_WITHIN_S = 10.0
# Of a topic they have a meaning.
_OF_TOPICS = str.maketrans("/+#\0", "____")


class MqttSink:
    """Publishes records; with `qos=1`, the default, the broker has confirmed each before the next are offered.

    Args:
        text: `mqtt://` or `mqtts://`, the host, the topic and options.

    Raises:
        UsageError: the text is none.
        UnavailableError: paho-mqtt is not installed.
    """

    def __init__(self, text: str) -> None:
        mqtt_library()
        self._place = broker_of(text)
        self._topic = self._place.path.rstrip("/")
        if not self._topic or set("+#") & set(self._topic):
            raise UsageError(f"--sink {text}: expected mqtt://HOST/TOPIC with a topic without + and #; name one")
        self._link: MqttConnection | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Publish all of them. Raises OSError where the broker is away, refuses, or does not confirm."""
        link = self._connected()
        try:
            sent = [
                link.publish(self._topic_of(record), line_of(record).rstrip(), retain=_is_kept(record))
                for record in records
            ]
            for one in sent:
                one.wait_for_publish(_ACCEPTED_WITHIN_S)
                if not one.is_published() or link.lost.is_set():
                    raise ConnectionError(f"{self._place.host}: {link.reason or 'it did not confirm'}")
        except (OSError, ValueError, RuntimeError) as error:  # what paho raises of a connection that broke
            self._drop()
            raise ConnectionError(f"{self._place.host}: {error}") from error

    def _connected(self) -> MqttConnection:
        if self._link is not None and not self._link.lost.is_set():
            return self._link
        self._drop()
        link = MqttConnection(self._place, will=(f"{self._topic}/online", b"false"))
        link.open()
        link.publish(f"{self._topic}/online", b"true", retain=True)
        self._link = link
        return link

    def _topic_of(self, record: Record) -> str:
        below = f"{self._topic}/{record.station.translate(_OF_TOPICS)}"
        match record:
            case AlarmRecord():
                return f"{below}/alarm/{record.label.translate(_OF_TOPICS)}"
            case StateRecord():
                return f"{below}/state"
            case _:
                return f"{below}/result"

    def _drop(self) -> None:
        """Forget a connection: what it had not confirmed is offered again, and must not come from it too."""
        if self._link is not None:
            with contextlib.suppress(Exception):
                self._link.close()
            self._link = None

    def close(self) -> None:
        """Say that it is gone, and disconnect."""
        if self._link is not None and not self._link.lost.is_set():
            with contextlib.suppress(Exception):
                self._link.publish(f"{self._topic}/online", b"false", retain=True).wait_for_publish(2.0)
        self._drop()


def _is_kept(record: Record) -> bool:
    return isinstance(record, AlarmRecord | StateRecord)
