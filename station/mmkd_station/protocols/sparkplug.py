"""`sparkplug://HOST/GROUP/NODE`: records as data of Sparkplug B 3.0, a station as a device of the edge node NODE.

The last will is the death of the node; a station that stopped or failed has a death of its own. Sparkplug has messages
of quality 0, which nobody confirms: after a batch the broker is asked for an answer, which it gives in order, so a
record may come twice but is not lost.
"""

from __future__ import annotations

import re
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

from mmkd_edge.errors import UsageError
from mmkd_station.protocols.base import RefusedError
from mmkd_station.protocols.broker import BrokerSink, Connection, Will, read_broker, topic_level
from mmkd_station.records import Record, StateRecord

_REBIRTH = "Node Control/Rebirth"
# Numbers of types and of the fields of a metric's value: Eclipse Tahu, sparkplug_b.proto.
_INT64, _UINT64, _DOUBLE, _BOOLEAN, _STRING = 4, 8, 10, 11, 12
_VALUE_FIELDS = {_INT64: 11, _UINT64: 11, _DOUBLE: 13, _BOOLEAN: 14, _STRING: 15}
_TEXTS = ("status", "reason", "label", "modality", "event", "state")
_NUMBERS = ("probability", "value", "novelty", "missing_fraction", "input_age_s", "time_s", "since_s")
_COUNTS = ("dropped", "late", "episode", "windows")
_FIELDS = {
    "result": (*_TEXTS[:4], *_NUMBERS[:6], *_COUNTS[:2]),
    "alarm": ("event", "label", "reason", "probability", "time_s", "since_s", *_COUNTS[2:]),
    "state": ("state", "reason"),
}
_METRICS = {"boot": _STRING, "number": _UINT64} | {
    f"{kind}/{name}": _STRING if name in _TEXTS else _DOUBLE if name in _NUMBERS else _UINT64
    for kind, names in _FIELDS.items()
    for name in names
}
_LATE_S = 5.0  # how old a record may be at its connection without being historical


class SparkplugSink(BrokerSink):
    """An edge node, born again with each connection."""

    def __init__(self, text: str, place: str) -> None:
        tls = re.search("[?&]tls=off(&|$)", text) is None
        self._endpoint = read_broker(text, scheme="sparkplug://", tls=tls, options=("tls",))
        self._tls = self._endpoint.uses_tls()
        levels = self._endpoint.path.split("/")
        if len(levels) != 2 or not all(levels) or set("+#") & set(self._endpoint.path):
            raise UsageError(f"--sink {text}: expected sparkplug://HOST/GROUP/NODE, got another path; write it so")
        self._group, self._node = levels
        self._connected_s = 0.0
        self._births = int(time.time())  # bdSeq; the death of an earlier process, if it comes late, has another
        self._lock = threading.Lock()  # a host asks for births in the connection's thread
        self._sequence = 0
        self._last: dict[str, dict[str, object]] = {}  # by station
        self._born: list[str] = []

    def write(self, records: Sequence[Record]) -> None:
        """Publish all records. Raises OSError unless the broker has them."""
        confirmed = {station: dict(values) for station, values in self._last.items()}
        try:
            connection = self._ensure_connection()
            for record in records:
                with self._lock:
                    self._publish_record(connection, record)
            connection.confirm(self._topic("NDATA"))
        except (OSError, ValueError, RuntimeError) as error:  # raised by paho if the connection broke
            self._drop()
            self._last = confirmed  # the next birth says what arrived
            if isinstance(error, ConnectionError):
                raise
            raise ConnectionError(f"{self._endpoint.address}: {error}") from error

    def _publish_record(self, connection: Connection, record: Record) -> None:
        station = record.station
        kind = str(record.__struct_config__.tag)
        changed = {"boot": record.boot, "number": record.number}
        changed |= {f"{kind}/{name}": getattr(record, name) for name in _FIELDS[kind]}
        if station not in self._born:
            self._born.append(station)
            self._publish_birth(connection, station)
        is_old = record.decided_s < self._connected_s - _LATE_S
        metrics = [
            _metric(name, _METRICS[name], value, record.decided_s, is_historical=is_old)
            for name, value in changed.items()
        ]
        self._publish(connection, "DDATA", metrics, record.decided_s, station)
        self._last.setdefault(station, {}).update(changed)
        if isinstance(record, StateRecord) and record.state in ("stopped", "failed"):
            self._born.remove(station)
            self._publish(connection, "DDEATH", [], record.decided_s, station)

    def _ensure_connection(self) -> Connection:
        if self._connection is None or self._connection.lost.is_set():
            self._drop()
            self._births = (self._births + 1) % 256
            self._born.clear()
            connection = Connection(
                self._endpoint,
                tls=self._tls,
                topic=self._topic("NCMD"),
                on_message=self._answer_command,
                will=Will(self._topic("NDEATH"), self._death(), retain=False),
            )
            self._connection, self._connected_s = connection, time.time()
            with self._lock:
                self._publish_births(connection)
        return self._connection

    def _answer_command(self, payload: bytes) -> None:
        """Publish births again; in the connection's thread."""
        if _REBIRTH.encode() in payload and (connection := self._connection) is not None:
            with self._lock:
                self._publish_births(connection)

    def _publish_births(self, connection: Connection) -> None:
        now_s = time.time()
        self._sequence = 0
        metrics = [_metric("bdSeq", _INT64, self._births, now_s), _metric(_REBIRTH, _BOOLEAN, 0, now_s)]
        self._publish(connection, "NBIRTH", metrics, now_s)
        for station in self._born:
            self._publish_birth(connection, station)

    def _publish_birth(self, connection: Connection, station: str) -> None:
        now_s, last = time.time(), self._last.get(station, {})
        metrics = [_metric(name, kind, last.get(name), now_s) for name, kind in _METRICS.items()]
        self._publish(connection, "DBIRTH", metrics, now_s, station)

    def _publish(
        self, connection: Connection, kind: str, metrics: Sequence[bytes], moment_s: float, station: str | None = None
    ) -> None:
        payload = _payload(metrics, moment_s, self._sequence)
        if connection.publish(self._topic(kind, station), payload, qos=0) is None:
            raise RefusedError(f"{self._endpoint.address}: Packet too large")
        self._sequence = (self._sequence + 1) % 256

    def _topic(self, kind: str, station: str | None = None) -> str:
        topic = f"spBv1.0/{self._group}/{kind}/{self._node}"
        return topic if station is None else f"{topic}/{topic_level(station)}"

    def close(self) -> None:
        """Publish the death of the node, which a clean end keeps the broker from, and disconnect."""
        self._leave(self._topic("NDEATH"), self._death(), retain=False, qos=1)

    def _death(self) -> bytes:
        return _payload([_metric("bdSeq", _INT64, self._births, time.time())], time.time())


def _payload(metrics: Sequence[bytes], moment_s: float, sequence: int | None = None) -> bytes:
    parts = [_field(1, round(1000 * moment_s)), *(_field(2, metric) for metric in metrics)]
    return b"".join(parts if sequence is None else [*parts, _field(3, sequence)])


def _metric(name: str, kind: int, value: Any, moment_s: float, *, is_historical: bool = False) -> bytes:
    parts = [_field(1, name.encode()), _field(3, round(1000 * moment_s)), _field(4, kind)]
    if is_historical:
        parts.append(_field(5, 1))
    if value is None:
        parts.append(_field(7, 1))
    else:
        parts.append(_field(_VALUE_FIELDS[kind], value.encode() if kind == _STRING else value))
    return b"".join(parts)


def _field(number: int, value: int | float | bytes) -> bytes:
    match value:
        case bytes():
            return _varint(8 * number + 2) + _varint(len(value)) + value
        case float():
            return _varint(8 * number + 1) + struct.pack("<d", value)
        case _:
            return _varint(8 * number) + _varint(value)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)
