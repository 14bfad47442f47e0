"""`mqtt://HOST/TOPIC`: samples in messages, each JSON as in `payload`."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

from mmkd_edge.errors import UsageError, first_line
from mmkd_station.intake import Delivery, Listener
from mmkd_station.links.backoff import Backoff
from mmkd_station.links.mqtt import MqttConnection, broker_of, mqtt_library
from mmkd_station.sources.base import Wanted
from mmkd_station.sources.payload import rows_of

# Messages between paho's thread and ours; then the broker waits.
_MOST_WAITING = 256
_LOOKS_S = 0.2


class MqttSource:
    """Messages of a topic, which may have wildcards. A lost broker is asked again after 1 to 30 seconds.

    Args:
        text: `mqtt://` or `mqtts://`, the host, the topic and options.
        wanted: the columns to find.

    Raises:
        UsageError: the text is none.
        UnavailableError: paho-mqtt is not installed.
    """

    live = True

    def __init__(self, text: str, wanted: Wanted) -> None:
        mqtt_library()
        self._place = broker_of(text)
        if not self._place.path:
            raise UsageError(f"--source {text}: expected mqtt://HOST/TOPIC, got no topic; name it")
        self._wanted = wanted

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """The samples of each message."""
        backoff = Backoff()
        while not listener.stop.is_set():
            waiting: queue.Queue[bytes] = queue.Queue(maxsize=_MOST_WAITING)

            def put(payload: bytes, into: queue.Queue[bytes] = waiting) -> None:
                while not listener.stop.is_set():
                    try:
                        into.put(payload, timeout=_LOOKS_S)
                    except queue.Full:
                        continue
                    return

            link = MqttConnection(self._place, on_message=put)
            try:
                link.open(topic=self._place.path)
            except OSError as error:
                listener.connection(False, first_line(error))
                backoff.wait(listener.stop)
                continue
            backoff.succeeded()
            listener.connection(True, f"{self._place.host}:{self._place.port}")
            yield from self._messages(link, waiting, listener)
            if not listener.stop.is_set():
                listener.connection(False, link.reason)
            link.close()

    def _messages(self, link: MqttConnection, waiting: queue.Queue[bytes], listener: Listener) -> Iterator[Delivery]:
        while not listener.stop.is_set() and not (link.lost.is_set() and waiting.empty()):
            try:
                payload = waiting.get(timeout=_LOOKS_S)
            except queue.Empty:
                continue
            try:
                times, rows = rows_of(payload, self._wanted)
            except ValueError as error:
                listener.garbage(str(error))
                continue
            yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())

    def close(self) -> None:
        """The connection ends with `deliveries`."""
