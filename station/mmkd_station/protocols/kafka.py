"""`kafka://HOST/TOPIC`, by confluent-kafka: TLS unless `tls=off`, SASL with credentials from a file or the environment.

A record's key is its station, so that one partition has a station's records in order. After 30 seconds without a
broker, or a kill, records on their way may come twice, with the same `station`, `boot` and `number`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from mmkd_edge.errors import UsageError
from mmkd_edge.machine import require_modules
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import (
    Endpoint,
    RefusedError,
    Sink,
    Source,
    SourceRequest,
    live_source,
    read_endpoint,
    with_tls_cure,
)
from mmkd_station.protocols.samples import json_delivery
from mmkd_station.records import Record, record_line

USER_VARIABLE, PASSWORD_VARIABLE = "KAFKA_USERNAME", "KAFKA_PASSWORD"
_OPTIONS = ("credentials", "sasl", "ca", "cert", "key", "tls")
_MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
_TIMEOUT_S = 5.0
_MESSAGE_TIMEOUT_S = 30.0  # then a new producer sends it: a broker that lost its memory may not know this one
_POLL_S = 0.2


def _kafka() -> Any:
    require_modules(("confluent_kafka",), by="Kafka", extra="kafka")
    import confluent_kafka

    return confluent_kafka


def _server(text: str, *, options: Sequence[str] = ()) -> Endpoint:
    kafka = _kafka()
    server = read_endpoint(text, scheme="kafka://", options=(*_OPTIONS, *options), port=9092)
    if not server.path:
        raise UsageError(f"{text}: expected kafka://HOST/TOPIC, got no topic; name it")
    try:
        kafka.Producer(_settings(server))  # it reads the certificates
    except kafka.KafkaException as error:
        raise UsageError(f"{text}: {error.args[0].str()}; correct its options") from error
    return server


def _settings(server: Endpoint) -> dict[str, object]:
    variables = os.environ.get(USER_VARIABLE, ""), os.environ.get(PASSWORD_VARIABLE, "")
    user, password = server.credentials() or variables
    files = {"ssl.ca.location": "ca", "ssl.certificate.location": "cert", "ssl.key.location": "key"}
    settings: dict[str, object] = {
        "bootstrap.servers": server.address,
        "security.protocol": f"{'sasl_' if user else ''}{'ssl' if server.uses_tls() else 'plaintext'}",
        "client.id": "mmkd-run",
        "log_level": 0,  # errors come by `error_cb`
        **{name: str(path) for name, option in files.items() if (path := server.file(option))},
    }
    mechanism = server.choice("sasl", _MECHANISMS, _MECHANISMS[0])
    if user:
        settings |= {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
    return settings


class _Client:
    """Settings of a client, and the last error that librdkafka reported beside its calls."""

    def __init__(self, server: Endpoint, **settings: object) -> None:
        self._address = server.address
        self.error: Any = None
        self.is_lost = False  # no broker answers, or it refuses the credentials
        names = {name.replace("_", "."): value for name, value in settings.items()}
        self.settings = _settings(server) | names | {"error_cb": self._note}

    def _note(self, error: Any) -> None:
        codes = _kafka().KafkaError
        self.is_lost |= error.fatal() or error.code() in (codes._ALL_BROKERS_DOWN, codes._AUTHENTICATION)
        self.error = error

    def broken(self, error: Any = None) -> ConnectionError:
        error = error or self.error
        return ConnectionError(f"{self._address}: {with_tls_cure(error.str()) if error else 'no answer'}")


class KafkaSink(Sink):
    """Sends records, confirmed by all replicas in sync."""

    def __init__(self, text: str, place: str) -> None:
        self._server = _server(text)
        self._client = _Client(
            self._server, enable_idempotence=True, message_timeout_ms=round(1000 * _MESSAGE_TIMEOUT_S)
        )
        self._producer: Any = None
        # By station, boot and number: None on its way, True if confirmed, else the error.
        self._sent: dict[tuple[str, str, int], Any] = {}

    def write(self, records: Sequence[Record]) -> None:
        """Send records unless they are on their way. Raises RefusedError for one that no try can send, else OSError."""
        kafka = _kafka()
        names = [(record.station, record.boot, record.number) for record in records]
        if self._producer is None:
            self._producer = kafka.Producer(self._client.settings)
        for name, record in zip(names, records, strict=True):
            if name in self._sent:
                continue
            self._sent[name] = None
            try:
                self._producer.produce(
                    self._server.path,
                    key=record.station.encode(),
                    value=record_line(record).rstrip(),
                    timestamp=round(1000 * record.decided_s),
                    on_delivery=partial(self._settle, name),
                )
            except kafka.KafkaException as refusal:
                self._sent[name] = refusal.args[0]
        self._producer.flush(_TIMEOUT_S)
        errors = {name: self._sent[name] for name in names if isinstance(self._sent[name], kafka.KafkaError)}
        if all(self._sent[name] is True for name in names):
            self._client.error = None
            self._forget(names)
            return
        self._forget(errors)
        error = next(iter(errors.values()), None)
        codes = kafka.KafkaError
        refused = (codes.MSG_SIZE_TOO_LARGE, codes.INVALID_MSG, codes.INVALID_RECORD, codes.POLICY_VIOLATION)
        if error is not None and error.code() in refused:
            raise RefusedError(f"{self._server.address}: {error.str()}")
        is_late = error is not None and error.code() == codes._MSG_TIMED_OUT
        broken = self._client.broken((self._client.error if is_late else None) or error)
        if is_late or any(known is not None and known.fatal() for known in (error, self._client.error)):
            self.close()  # this producer sends no more
        raise broken

    def _forget(self, names: Iterable[tuple[str, str, int]]) -> None:
        for name in names:
            del self._sent[name]

    def _settle(self, name: tuple[str, str, int], error: Any, message: Any) -> None:
        self._sent[name] = True if error is None else error

    def close(self) -> None:
        """Disconnect; records on their way may still arrive."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(_POLL_S)
            self._producer, self._client.error = None, None
            self._sent.clear()


class _Consumer:
    """Reads all partitions of a topic from where they end, or from `positions`, which it moves."""

    def __init__(self, server: Endpoint, positions: dict[int, int]) -> None:
        kafka = _kafka()
        self._positions = positions
        # Without a group's commits: each station gets every message.
        self._client = _Client(server, group_id="mmkd-run", enable_auto_commit=False, auto_offset_reset="earliest")
        self._consumer = kafka.Consumer(self._client.settings)
        try:
            topic = self._consumer.list_topics(server.path, timeout=_TIMEOUT_S).topics[server.path]
            if topic.error is not None:
                raise self._client.broken(topic.error)  # noqa: TRY301
            for number in topic.partitions:
                place = kafka.TopicPartition(server.path, number)
                first, end = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
                # Beyond the end if the broker lost its log.
                positions[number] = first if positions.get(number, end) > end else positions.get(number, end)
            self._consumer.assign([kafka.TopicPartition(server.path, *place) for place in positions.items()])
        except BaseException as error:
            self.close()
            if isinstance(error, kafka.KafkaException):
                raise self._client.broken(self._client.error or error.args[0]) from error
            raise

    def message(self) -> Any:
        """Return the next message; None if there is none for a while. Raises OSError."""
        message = self._consumer.poll(_POLL_S)
        error = None if message is None else message.error()
        if error is not None or (message is None and self._client.is_lost):
            raise self._client.broken(error)
        if message is not None:
            self._positions[message.partition()] = message.offset() + 1
        return message

    def close(self) -> None:
        self._consumer.close()


def kafka_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a source of a topic's messages from now on; with `only=KEY` of those with this key."""
    server = _server(text, options=("only",))
    only = server.options.get("only", "").encode()
    positions: dict[int, int] = {}

    def read(consumer: _Consumer, intake: Intake) -> Iterator[Delivery]:
        while not intake.stop.is_set():
            message = consumer.message()
            if message is not None and (not only or message.key() == only):
                yield from json_delivery(message.value() or b"", request, intake)

    return live_source(lambda: _Consumer(server, positions), read, name=server.address)
