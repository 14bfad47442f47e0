"""MQTT against a real mosquitto: samples in, decisions out, TLS, credentials, and a broker that is killed."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time

import msgspec
import pytest

from mmkd_edge import UsageError
from mmkd_station.intake import Intake
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import read_endpoint
from mmkd_station.protocols.mqtt import MqttSink, mqtt_source
from mmkd_station.records import record_line
from tests.edge.said import said
from tests.station.rig import (
    alarm,
    end,
    free_port,
    listens,
    quick,
    result,
    start,
    state,
    until,
    wanted,
    write_certificate,
)

mqtt = pytest.importorskip("paho.mqtt.client")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")
# paho leaves the socket of a handshake that failed to the garbage collector.
leaves_sockets = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


class Broker:
    """A mosquitto on a port of this machine."""

    def __init__(self, folder, *lines):
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join([f"listener {self.port} 127.0.0.1", *(lines or ("allow_anonymous true",))]))
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", self._config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: listens(self.port))

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path):
    found = Broker(tmp_path)
    yield found
    found.kill()


class Client:
    """Someone else at the broker: publishes, and keeps what comes."""

    def __init__(self, port, topic="", **session):
        self.heard: list[tuple[str, bytes, bool]] = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, **session)
        self._client.on_message = lambda client, data, one: self.heard.append((one.topic, one.payload, one.retain))
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1) if topic else None
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(self._client.is_connected)

    def say(self, topic, document):
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def reading(source):
    """A source that is read into an intake."""
    intake = Intake(most=100, may_drop=True)

    def read():
        for delivery in source.deliveries(intake):
            intake.put(delivery)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return intake, thread


@needs_mosquitto
def test_samples_come_from_a_topic_with_wildcards(broker, acc):
    intake, thread = reading(mqtt_source(f"mqtt://127.0.0.1:{broker.port}/plant/+/acc", "", wanted(acc)))
    until(lambda: intake.facts().connects)
    sensor = Client(broker.port)
    sensor.say("plant/1/acc", {"time": 5.0, "x": 1, "y": 2, "z": None})
    sensor.say("plant/2/acc", b"\xff no sample")
    sensor.say("plant/2/acc", [[1, 2, 3], [4, 5, 6]])
    until(lambda: intake.facts().samples == 3)
    assert intake.facts().garbage == 1
    first = intake.take(timeout_s=1)
    assert first.times.tolist() == [5.0]
    intake.stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert intake.notes() == [(True, f"127.0.0.1:{broker.port}")]
    sensor.close()


def is_written(sink, *records):
    """Whether the sink took the records, as an outlet asks it again and again."""
    try:
        sink.write(records)
    except OSError:
        return False
    return True


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_states_are_kept_and_the_broker_says_when_the_program_is_gone(broker, version):
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/plant?version={version}", "")
    sink.write([state(1, station="press/1"), alarm_of("worn", number=2)])
    late = Client(broker.port, "plant/#")
    until(lambda: len(late.heard) == 3)
    kept = {topic: (json.loads(payload), retained) for topic, payload, retained in late.heard}
    assert kept["plant/online"] == (True, True)
    assert kept["plant/press%2F1/state"][0]["state"] == "connected"
    assert kept["plant/press%2F1/alarm/worn"][0]["event"] == "raised"
    sink.write([result(3, station="press/1")])
    until(lambda: len(late.heard) == 4)
    assert late.heard[3][0] == "plant/press%2F1/result"
    sink._connection._client.socket().shutdown(socket.SHUT_RDWR)  # a cable is cut: nobody says goodbye
    until(lambda: ("plant/online", b"false", False) in late.heard)
    until(lambda: is_written(sink, state(4, station="press/1")))  # it comes back by itself
    until(lambda: late.heard[-1][0] == "plant/press%2F1/state")
    sink.close()
    until(lambda: late.heard[-1][:2] == ("plant/online", b"false"))
    late.close()


def alarm_of(label, *, number, boot="a", event="raised"):
    return alarm(number, station="press/1", event=event, label=label, episode=number, boot=boot)


def kept_at(broker, topic):
    """What the broker keeps, by topic: the event of an alarm."""
    late = Client(broker.port, topic)
    late.say(f"{topic[:-1]}last", b"{}")  # comes behind what is kept
    until(lambda: any(topic.endswith("/last") for topic, *_ in late.heard))
    late.close()
    return {topic: json.loads(payload).get("event") for topic, payload, retained in late.heard if retained}


@needs_mosquitto
def test_each_label_has_a_topic_of_its_own(broker):
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/plant", "")
    labels = ["a/b", "a+b", "a#b", "a_b", "a%2Fb", "a b", "\u00e4\0"]
    sink.write([alarm_of(label, number=number) for number, label in enumerate(labels, start=1)])
    names = ["a%2Fb", "a%2Bb", "a%23b", "a_b", "a%252Fb", "a b", "\u00e4%00"]
    assert set(kept_at(broker, "plant/press%2F1/alarm/#")) == {f"plant/press%2F1/alarm/{name}" for name in names}
    sink.close()


@needs_mosquitto
def test_the_broker_forgets_what_an_earlier_run_left_open_and_keeps_what_continues_and_what_others_say(broker):
    another = Client(broker.port)
    other = msgspec.structs.replace(alarm_of("w", number=1), station="press 2")
    for topic, payload in (("press%2F1/alarm/other", b"{}"), ("press 2/alarm/w", record_line(other))):
        another._client.publish(f"plant/{topic}", payload, qos=1, retain=True).wait_for_publish(10)
    another.close()
    place = f"mqtt://127.0.0.1:{broker.port}/plant"
    before = MqttSink(place, "")
    opened = [alarm_of(label, number=number) for number, label in enumerate("uvwx", start=2)]
    before.write([state(1, station="press/1"), *opened])
    before.write([alarm_of("x", number=6, event="cleared")])
    before.close()
    started = state(3, station="press/1", state="started", boot="b")
    after = MqttSink(place, "")
    continued = alarm_of("v", number=1, boot="b", event="continued")
    cleared = alarm_of("u", number=2, boot="b", event="cleared")
    after.write([continued, cleared, started, alarm_of("y", number=4, boot="b")])
    events = {"other": None, "u": "cleared", "v": "continued", "x": "cleared", "y": "raised"}
    assert kept_at(broker, "plant/press%2F1/alarm/#") == {
        f"plant/press%2F1/alarm/{label}": event for label, event in events.items()
    }
    assert kept_at(broker, "plant/press 2/alarm/#") == {"plant/press 2/alarm/w": "raised"}
    after.close()


@needs_mosquitto
def test_records_come_through_a_broker_that_hangs_up_on_whoever_reads(broker, monkeypatch):
    def hang_up(connection, topic):
        raise ConnectionError("not authorised")

    monkeypatch.setattr("mmkd_station.protocols.broker.Connection.retained", hang_up)
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/plant", "")
    started = state(1, state="started", boot="b")
    assert [is_written(sink, started) for _ in range(2)] == [False, True]
    sink.close()


@needs_mosquitto
@pytest.mark.parametrize(
    ("limit", "is_dropped"),
    [
        ("message_size_limit 1000", True),  # it hangs up
        ("max_packet_size 1200", True),  # it says so at the connection
        ("user root\nacl_file ACL", False),  # an answer: not authorized
    ],
)
def test_a_message_that_a_broker_refuses_is_dropped_alone_and_a_right_that_is_missing_waits(
    limit, is_dropped, tmp_path, caplog
):
    (tmp_path / "acl").write_text("topic readwrite plant/online\ntopic read plant/#\n")
    broker = Broker(tmp_path, "allow_anonymous true", limit.replace("ACL", f"{tmp_path}/acl"))
    client = Client(broker.port, "plant/+/result")
    outlet = Outlet("broker", MqttSink(f"mqtt://127.0.0.1:{broker.port}/plant", ""), backoff=quick)
    try:
        for number in range(1, 21):
            outlet.put(result(number, reason="x" * (1500 if number == 13 else 1)))
        if is_dropped:
            until(lambda: outlet.facts().waiting == 0)
            assert (outlet.facts().written, outlet.facts().dropped) == (19, 1)
            until(lambda: len({payload for _, payload, _ in client.heard}) == 19)
            [said_once] = [text for text in caplog.messages if text.endswith("; such records are dropped and counted")]
            assert "Packet too large" in said_once or "Protocol error" in said_once
        else:
            until(lambda: outlet.facts().failures > 1)
            assert (outlet.facts().waiting, outlet.facts().dropped) == (20, 0)
            assert outlet.facts().fault.endswith(": Not authorized")
            (tmp_path / "acl").write_text("topic readwrite plant/#\n")
            broker.process.send_signal(signal.SIGHUP)
            until(lambda: outlet.facts().waiting == 0)
            assert (outlet.facts().written, outlet.facts().dropped) == (20, 0)
    finally:
        outlet.close()
        client.close()
        broker.kill()


@leaves_sockets
@needs_mosquitto
def test_tls_and_a_password_from_a_file_are_asked_for(tmp_path):
    write_certificate(tmp_path)
    passwd = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
    subprocess.run([passwd, "-c", "-b", tmp_path / "users", "press", "secret"], check=True, capture_output=True)
    (tmp_path / "users").chmod(0o600)
    broker = Broker(
        tmp_path, f"certfile {tmp_path}/plant.crt", f"keyfile {tmp_path}/plant.key", "allow_anonymous false",
        f"password_file {tmp_path}/users", "user root",
    )  # fmt: skip
    try:
        place = f"mqtts://127.0.0.1:{broker.port}/plant?ca={tmp_path}/plant.crt"
        (tmp_path / "right").write_text("press:secret\n")
        (tmp_path / "wrong").write_text("press:guess\n")
        sink = MqttSink(f"{place}&credentials={tmp_path}/right", "")
        sink.write([state(1)])
        sink.close()
        for refused in (f"{place}&credentials={tmp_path}/wrong", place):
            with pytest.raises(ConnectionError, match=r"Not authorized|Bad user"):
                MqttSink(refused, "").write([state(1)])
        untrusted = f"mqtts://127.0.0.1:{broker.port}/plant?credentials={tmp_path}/right"
        with pytest.raises(
            ConnectionError, match="the broker's certificate is signed by nobody whom this system trusts"
        ):
            MqttSink(untrusted, "").write([state(1)])
    finally:
        broker.kill()


@contextlib.contextmanager
def tls_broker(folder, certificate, *lines):
    """A broker with a certificate of the folder."""
    own = ("allow_anonymous true", f"certfile {certificate}.crt", f"keyfile {certificate}.key", "user root")
    broker = Broker(folder, *own, *lines)
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def certificates(tmp_path):
    """Those of an authority `plant`, of brokers and of clients; `stranger` is signed by itself."""
    server, client = ("SERVER_AUTH",), ("CLIENT_AUTH",)
    write_certificate(tmp_path)
    write_certificate(tmp_path, "stranger")
    for name, changes in {
        "broker": {"purposes": server},
        "expired": {"days": (-9, -2), "purposes": server},
        "early": {"days": (2, 9), "purposes": server},
        "elsewhere": {"host": "10.0.0.9", "purposes": server},
        "client": {"purposes": client},
        "late": {"days": (-9, -2), "purposes": client},
    }.items():
        write_certificate(tmp_path, name, signed_by="plant", **changes)
    return tmp_path


UNTRUSTED = "; give the certificate of who signed it as ca=FILE"
ELSEWHERE = "IP address mismatch, certificate is not valid for '127.0.0.1'"
UNKNOWN = f"(unable to get local issuer certificate){UNTRUSTED}"


@leaves_sockets
@needs_mosquitto
@pytest.mark.parametrize(
    ("certificate", "ca", "reason"),
    [
        ("broker", "plant", ""),
        ("broker", None, f"is signed by nobody whom this system trusts {UNKNOWN}"),
        ("broker", "stranger", f"is not signed by ca=stranger.crt {UNKNOWN}"),
        ("stranger", "plant", f"is not signed by ca=plant.crt (self-signed certificate){UNTRUSTED}"),
        ("expired", "plant", "has expired; renew it there, and check the clock of this device"),
        ("early", "plant", "is not yet valid; renew it there, and check the clock of this device"),
        ("elsewhere", "plant", f"is for another host: {ELSEWHERE}; connect to a name that it has, or renew it"),
        ("client", "plant", "is not one for servers; make one with the purpose serverAuth"),
    ],
)
def test_a_broker_is_trusted_by_its_certificate_or_the_reason_says_what_to_do(
    certificates, monkeypatch, certificate, ca, reason
):
    monkeypatch.chdir(certificates)
    with tls_broker(certificates, certificate) as broker:
        sink = MqttSink(f"mqtts://127.0.0.1:{broker.port}/plant" + f"?ca={ca}.crt" * bool(ca), "")
        told = "" if is_written(sink, state(1)) else said(ConnectionError, sink.write, [state(1)])
        sink.close()
    assert told == (f"127.0.0.1:{broker.port}: the broker's certificate {reason}" if reason else "")


@leaves_sockets
@needs_mosquitto
def test_a_broker_that_asks_for_certificates_takes_those_of_its_clients_alone(certificates, monkeypatch):
    monkeypatch.chdir(certificates)
    with tls_broker(certificates, "broker", "cafile plant.crt", "require_certificate true") as broker:
        place = f"mqtts://127.0.0.1:{broker.port}/plant?ca=plant.crt"
        sink = MqttSink(f"{place}&cert=client.crt&key=client.key", "")
        sink.write([state(1)])
        sink.close()
        refused = [f"&cert={name}.crt&key={name}.key" for name in ("late", "broker", "stranger")]
        for options in ("", *refused):
            assert said(ConnectionError, MqttSink(f"{place}{options}", "").write, [state(1)]) == (
                f"127.0.0.1:{broker.port}: the broker hung up; it may ask for a certificate that it trusts, with cert= "
                "and key="
            )


@pytest.mark.parametrize("options", ["?ca=broker.key", "?cert=client.crt", "?cert=client.crt&key=broker.key"])
def test_a_file_without_the_certificate_or_with_another_key_is_refused_at_the_start(certificates, monkeypatch, options):
    monkeypatch.chdir(certificates)
    expected = "ca: broker.key: expected certificates as PEM, got none; name such a file"
    if "cert=" in options:
        expected = (
            "cert: client.crt: expected a certificate and its own private key as PEM without a password, got others; "
            "name both, with key=FILE"
        )
    text = f"mqtts://127.0.0.1/plant{options}"
    assert said(UsageError, MqttSink, text, "") == f"{text}: {expected}"


def refusal_of(text):
    return said(ConnectionError, MqttSink(text, "").write, [state(1)])


@leaves_sockets
@needs_mosquitto
def test_a_broker_that_is_absent_or_on_another_port_is_named_with_what_to_ask(broker, certificates, monkeypatch, acc):
    absent, plain = f"127.0.0.1:{free_port()}", f"127.0.0.1:{broker.port}"
    told = f"{absent}: connection refused: is the broker running there, on this port?"
    assert refusal_of(f"mqtt://{absent}/p") == told
    intake, thread = reading(mqtt_source(f"mqtt://{absent}/in", "", wanted(acc)))
    assert until(intake.notes) == [(False, told)]
    intake.stop.set()
    thread.join(10)
    assert refusal_of(f"mqtts://{plain}/p") == (
        f"{plain}: TLS failed: [Errno 104] Connection reset by peer; expected the broker's port for TLS, which is "
        "usually 8883"
    )
    monkeypatch.chdir(certificates)
    with tls_broker(certificates, "broker") as encrypted:
        place = f"127.0.0.1:{encrypted.port}"
        told = f"{place}: the broker hung up; it may expect TLS on this port, with mqtts://"
        assert refusal_of(f"mqtt://{place}/p") == told

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    told = "plant.local:1883: the host plant.local is not known; check its name, or give its IP address"
    assert refusal_of("mqtt://plant.local/p") == told


def test_a_text_that_names_no_broker_says_why(acc):
    for text, expected in {
        "mqtt://host": "mqtt://HOST/TOPIC, got no topic",
        "mqtt:///topic": "got no host or no port; write it so",
        "mqtt://host:x/topic": "got no host or no port; write it so",
        "mqtt://user:pw@host/topic": "expected no password in the text, where others see it; use ?credentials=FILE",
        "mqtt://host/topic?quality=1": "got 'quality'; correct it",
        "mqtt://host/topic?qos=2": "qos: expected one of 0, 1, got '2'; choose one of them",
        "mqtt://host/topic?ca=/none": "ca: /none: no such file or directory; check the path",
    }.items():
        assert expected in said(UsageError, mqtt_source, text, "", wanted(acc))


def test_a_place_may_have_an_address_of_version_6_and_no_port():
    endpoint = read_endpoint("mqtt://[::1]/a/b?qos=0", scheme="mqtt://", options=("qos",), port=1883)
    assert (endpoint.host, endpoint.port, endpoint.path, endpoint.options) == ("::1", 1883, "a/b", {"qos": "0"})
    assert endpoint.address == "[::1]:1883"


@pytest.mark.slow
@needs_mosquitto
def test_a_broker_that_is_killed_loses_no_result_and_is_back_within_thirty_seconds(broker, bundle_path, tmp_path):
    at = f"mqtt://127.0.0.1:{broker.port}"
    log = tmp_path / "all.jsonl"
    child = start(
        bundle_path, "--source", f"{at}/in", "--sink", f"{at}/out", "--sink", f"jsonl:{log}", "--hop", "5",
        "--silence", "60", "--time", "arrival", "--store", tmp_path / "store", "--json",
    )  # fmt: skip
    listener, sensor = Client(broker.port, "out/#"), Client(broker.port)
    until(lambda: any(b'"connected"' in payload for _, payload, _ in listener.heard))
    for _ in range(20):
        sensor.say("in", [[1, 0, 0]] * 5)
    until(lambda: sum(topic.endswith("/result") for topic, *_ in listener.heard) >= 15)
    broker.kill()
    until(lambda: '"disconnected"' in log.read_text())
    time.sleep(4)
    broker.start()
    began_s = time.monotonic()
    until(lambda: log.read_text().count('"connected"') == 2, within_s=35)
    assert time.monotonic() - began_s < 31
    for _ in range(20):
        sensor.say("in", [[0, 1, 0]] * 5)
    until(lambda: log.read_text().count('"kind":"result"') >= 34)
    written = {json.loads(line)["number"] for line in log.read_text().splitlines()}
    heard = lambda: {json.loads(payload)["number"] for topic, payload, _ in listener.heard if "online" not in topic}  # noqa: E731
    # What the sink could not say meanwhile comes after all: every record that the file has.
    until(lambda: written <= heard(), within_s=40)
    output, _ = end(child)
    summary = json.loads(output)
    assert summary["stations"][0]["intake"]["connects"] == 2
    assert summary["stations"][0]["intake"]["samples"] == 200
    assert {one["sink"].split(":")[0]: one["dropped"] for one in summary["sinks"]} == {"mqtt": 0, "jsonl": 0}
    sensor.close()
    listener.close()
