"""Sparkplug B at a real mosquitto, decoded by Google's protobuf with the fields of Eclipse Tahu's sparkplug_b.proto."""

import socket
import time

import pytest

from mmkd_edge import UsageError
from mmkd_station.protocols.sparkplug import SparkplugSink
from mmkd_station.protocols.table import open_sink
from tests.edge.said import said
from tests.station.rig import alarm, result, state, until
from tests.station.test_mqtt import Client, broker, is_written, needs_mosquitto

__all__ = ["broker"]
descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
unknown_fields = pytest.importorskip("google.protobuf.unknown_fields")

# Number, name, type and whether repeated, of `Payload` and `Payload.Metric`; types by FieldDescriptorProto.Type.
FIELDS = {
    "Payload": [(1, "timestamp", "UINT64", 0), (2, "metrics", "MESSAGE", 1), (3, "seq", "UINT64", 0),
                (4, "uuid", "STRING", 0), (5, "body", "BYTES", 0)],
    "Metric": [(1, "name", "STRING", 0), (2, "alias", "UINT64", 0), (3, "timestamp", "UINT64", 0),
               (4, "datatype", "UINT32", 0), (5, "is_historical", "BOOL", 0), (6, "is_transient", "BOOL", 0),
               (7, "is_null", "BOOL", 0), (10, "int_value", "UINT32", 0), (11, "long_value", "UINT64", 0),
               (12, "float_value", "FLOAT", 0), (13, "double_value", "DOUBLE", 0), (14, "boolean_value", "BOOL", 0),
               (15, "string_value", "STRING", 0), (16, "bytes_value", "BYTES", 0)],
}  # fmt: skip
VALUES = {4: "long_value", 8: "long_value", 10: "double_value", 11: "boolean_value", 12: "string_value"}


def payload_class():
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", syntax="proto2")
    kind = descriptor_pb2.FieldDescriptorProto
    for message, fields in FIELDS.items():
        made = file.message_type.add(name=message)
        for number, name, type_, is_repeated in fields:
            made.field.add(
                name=name, number=number, type=getattr(kind, f"TYPE_{type_}"), label=3 if is_repeated else 1,
                type_name="Metric" if type_ == "MESSAGE" else None,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Payload"))


PAYLOAD = payload_class()


class Host:
    """A host application: every message as its kind, its place, its sequence number and its metrics."""

    def __init__(self, port):
        self.client = Client(port, "spBv1.0/#")

    def heard(self):
        return [self.read(topic, payload) for topic, payload, _ in list(self.client.heard) if "/NCMD/" not in topic]

    def read(self, topic, payload):
        message = PAYLOAD.FromString(payload)
        assert not any(len(unknown_fields.UnknownFieldSet(part)) for part in (message, *message.metrics))
        metrics = {
            metric.name: None if metric.is_null else getattr(metric, VALUES[metric.datatype])
            for metric in message.metrics
        }
        self.historical = [metric.is_historical for metric in message.metrics]
        _, group, kind, place = topic.split("/", 3)
        assert group == "plant"
        return kind, place, message.seq if message.HasField("seq") else None, metrics

    def wait(self, count):
        until(lambda: len(self.client.heard) >= count)
        return self.heard()


@pytest.fixture
def host(broker):
    opened = Host(broker.port)
    yield opened
    opened.client.close()


@needs_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_node_is_born_with_its_devices_and_dies_with_its_connection(broker, host, version):
    sink = SparkplugSink(f"sparkplug://127.0.0.1:{broker.port}/plant/line1?tls=off&version={version}", "")
    now_s = time.time()
    records = [
        state(1, station="press/1", state="started", reason="", boot="b", decided_s=now_s),
        result(2, station="press/1", boot="b", decided_s=now_s),
        alarm(300, station="press/1", boot="b", decided_s=now_s - 60),
    ]
    sink.write(records)
    node, device, *data = host.wait(5)
    number = node[3]["bdSeq"]
    assert (number - int(now_s) + 5) % 256 in range(10)  # counted from the start of the sink
    assert node == ("NBIRTH", "line1", 0, {"bdSeq": number, "Node Control/Rebirth": False})
    assert device[:3] == ("DBIRTH", "line1/press%2F1", 1)
    assert set(device[3].values()) == {None}
    sent = [
        {"boot": "b", "number": 1, "state/state": "started", "state/reason": ""},
        {
            "boot": "b", "number": 2, "result/status": "ok", "result/reason": "", "result/label": "worn",
            "result/modality": "acc", "result/probability": 0.876, "result/value": None, "result/novelty": None,
            "result/missing_fraction": 0.0, "result/input_age_s": None, "result/time_s": 1.0, "result/dropped": 0,
            "result/late": 0,
        },
        {
            "boot": "b", "number": 300, "alarm/event": "raised", "alarm/label": "worn", "alarm/reason": "",
            "alarm/probability": 0.9, "alarm/time_s": None, "alarm/since_s": None, "alarm/episode": 1,
            "alarm/windows": 3,
        },
    ]  # fmt: skip
    assert data == [("DDATA", "line1/press%2F1", 2 + n, metrics) for n, metrics in enumerate(sent)]
    assert set(host.historical) == {True}  # the alarm is older than the connection
    assert set(device[3]) == set().union(*sent)

    sink._connection._client.socket().shutdown(socket.SHUT_RDWR)  # a cable is cut: nobody says goodbye
    assert host.wait(6)[5] == ("NDEATH", "line1", None, {"bdSeq": number})
    again = state(301, station="press/1", state="stopped", reason="", boot="b", decided_s=time.time())
    until(lambda: is_written(sink, again))
    born = host.wait(10)[6:]
    assert [(kind, seq) for kind, _, seq, _ in born] == [("NBIRTH", 0), ("DBIRTH", 1), ("DDATA", 2), ("DDEATH", 3)]
    number = (number + 1) % 256
    assert born[0][3]["bdSeq"] == number
    assert born[1][3] == {**sent[0], **sent[1], **sent[2]}  # what was last known

    sink.write([result(302, station="press 2", boot="b", decided_s=time.time())])
    host.client.say("spBv1.0/plant/NCMD/line1", b"\x12\x18\x0a\x14Node Control/Rebirth\x70\x01")
    until(lambda: len(host.heard()) >= 14)
    born = [(kind, place, seq) for kind, place, seq, _ in host.heard()[12:]]
    assert born == [("NBIRTH", "line1", 0), ("DBIRTH", "line1/press 2", 1)]
    sink.close()
    until(lambda: host.heard()[-1] == ("NDEATH", "line1", None, {"bdSeq": number}))


def test_a_text_that_names_no_node_says_why():
    path = "expected sparkplug://HOST/GROUP/NODE, got another path; write it so"
    for end, expected in {"plant": path, "plant/line+1": path, "plant/line1?qos=1": "got 'qos'; correct it"}.items():
        assert expected in said(UsageError, open_sink, f"sparkplug://host/{end}")


def test_a_node_is_reached_with_tls_unless_it_is_turned_off():
    sinks = [SparkplugSink(f"sparkplug://host/a/b{option}", "") for option in ("", "?tls=off", "?tls=off&version=5")]
    assert [(sink._tls, sink._endpoint.port) for sink in sinks] == [(True, 8883), (False, 1883), (False, 1883)]
