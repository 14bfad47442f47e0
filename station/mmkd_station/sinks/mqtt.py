"""`mqtt://HOST/TOPIC`: results, alarms and states below a topic.

`TOPIC/STATION/result` has each result; `TOPIC/STATION/alarm/LABEL` and `TOPIC/STATION/state` keep the last one for
whoever comes later (retained); `TOPIC/online` is `true`, and the broker makes it `false` when this program is gone
(last will). When a station starts, the broker forgets its alarms of earlier runs that are open and not continued.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_station.links.mqtt import MqttConnection, broker_of, mqtt_library
from mmkd_station.records import AlarmRecord, Record, StateRecord, line_of, record_from_line

_ACCEPTED_WITHIN_S = 10.0
# Some brokers disconnect whoever may not read a topic: records must come through there too.
_MOST_TRIES_TO_FORGET = 3
# What has a meaning in topics, or may not be in one (MQTT 5.0, sections 1.5.4 and 4.7), and the sign that encodes it.
_NOT_IN_LEVELS = re.compile("[/+#%\0-\x1f\x7f-\x9f]")


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
        self._tries_to_forget: Counter[str] = Counter()  # by boot

    def write(self, records: Sequence[Record]) -> None:
        """Publish all of them. Raises OSError where the broker is away, refuses, or does not confirm."""
        link = self._connected()
        try:
            sent = []
            for record in records:
                is_kept = isinstance(record, AlarmRecord | StateRecord)
                sent.append(link.publish(self._topic_of(record), line_of(record).rstrip(), retain=is_kept))
                if isinstance(record, StateRecord) and record.state == "started":
                    self._confirm(link, sent)
                    self._forget_earlier(link, record)
            self._confirm(link, sent)
        except (OSError, ValueError, RuntimeError) as error:  # what paho raises of a connection that broke
            self._drop()
            raise ConnectionError(f"{self._place.host}: {error}") from error

    def _confirm(self, link: MqttConnection, sent: Sequence[Any]) -> None:
        for message in sent:
            message.wait_for_publish(_ACCEPTED_WITHIN_S)
            if not message.is_published() or link.lost.is_set():
                raise ConnectionError(f"{self._place.host}: {link.reason or 'it did not confirm'}")

    def _forget_earlier(self, link: MqttConnection, started: StateRecord) -> None:
        """Have the broker forget alarms that a run before left open: what continues was published before `started`."""
        self._tries_to_forget[started.boot] += 1
        if self._tries_to_forget[started.boot] > _MOST_TRIES_TO_FORGET:
            return
        kept = link.retained(f"{self._topic}/{_level_of(started.station)}/alarm/+", within_s=_ACCEPTED_WITHIN_S)
        earlier = [topic for topic, payload in kept if _is_open_alarm(payload, not_of=started.boot)]
        self._confirm(link, [link.publish(topic, b"", retain=True) for topic in earlier])

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
        below = f"{self._topic}/{_level_of(record.station)}"
        match record:
            case AlarmRecord():
                return f"{below}/alarm/{_level_of(record.label)}"
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


def _level_of(text: str) -> str:
    """A text as one level of a topic; two texts never give the same."""
    return _NOT_IN_LEVELS.sub(lambda match: quote(match[0], safe=""), text)


def _is_open_alarm(payload: bytes, *, not_of: str) -> bool:
    try:
        alarm = record_from_line(payload)
    except msgspec.MsgspecError:  # of another program
        return False
    return isinstance(alarm, AlarmRecord) and alarm.event != "cleared" and alarm.boot != not_of
