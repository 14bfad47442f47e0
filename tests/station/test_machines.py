"""Sources that ask machines, each against a real server of its protocol; sound; and a webhook's server."""

import asyncio
import contextlib
import datetime
import json
import logging
import threading
from typing import Any

import numpy as np
import pytest

from mmkd_edge import UsageError
from mmkd_station.intake import Intake
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import Columns, RefusedError, SourceRequest, read_endpoint
from mmkd_station.protocols.files import wav_source
from mmkd_station.protocols.modbus import Register, modbus_source, register_blocks
from mmkd_station.protocols.opcua import opcua_source, opcua_value, server_fault
from mmkd_station.protocols.table import open_sink
from tests.edge.said import said
from tests.station.rig import alarm, free_port, http_server, quick, result, state, until, write_certificate

NAN = float("nan")


def wanted(*names, factor=1.0, rate_hz=50.0, speed=None):
    count = len(names)
    columns = Columns(names=names, factors=(factor,) * count, offsets=(0.0,) * count)
    return SourceRequest(columns=columns, rate_hz=rate_hz, replay_speed=speed)


class Reading:
    """A source that is read in a thread."""

    def __init__(self, source):
        self.intake = Intake(most=10_000, may_drop=True)
        self._source = source
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for delivery in self._source.deliveries(self.intake):
            self.intake.put(delivery)

    def rows(self):
        found = []
        while (delivery := self.intake.take(timeout_s=0)) is not None:
            found += delivery.rows.tolist()
        return found

    def close(self):
        self.intake.stop.set()
        self._thread.join(15)
        assert not self._thread.is_alive()
        self._source.close()


class InLoop:
    """A server that lives in an event loop of its own thread."""

    def __init__(self, start, stop):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._stop = stop
        self.server = self.run(start())

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def close(self):
        self.run(self._stop(self.server))
        self.run(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _end_tasks(self):
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def plc(port):
    """A PLC with 8 registers in all tables: 1.5 as float32 in 2 and 3, -7 in 5."""
    pytest.importorskip("pymodbus")
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    async def start():
        words = [1000, 0, 0x3FC0, 0, 0, 0xFFF9, 0, 0]
        data = [SimData(0, values=words, datatype=DataType.REGISTERS)]
        device = SimDevice(id=1, simdata=data)
        server = ModbusTcpServer(device, address=("127.0.0.1", port))
        await server.serve_forever(background=True)
        return server

    async def stop(server):
        await server.shutdown()

    return InLoop(start, stop)


def test_registers_are_read_in_few_readings_with_their_types():
    server = plc(port := free_port())
    columns = ("h0", "h2:float32", "h5:int16", "i5", "h900")
    reading = Reading(modbus_source(f"modbus://127.0.0.1:{port}?every=0.02", "", wanted(*columns)))
    until(lambda: reading.intake.facts().samples >= 5)
    reading.close()
    assert reading.intake.notes() == [(True, f"127.0.0.1:{port}")]
    np.testing.assert_array_equal(reading.rows()[0], [1000, 1.5, -7, 65529, NAN])
    server.close()
    wanted_registers = (("h", 12, "uint16"), ("h", 10, "float32"), ("i", 4, "uint16"), ("h", 14, "uint16"))
    found = register_blocks([Register(kind=kind, number=number, type=of) for kind, number, of in wanted_registers])
    assert list(found) == [("h", 10, 3), ("h", 14, 1), ("i", 4, 1)]
    far = register_blocks([Register(kind="h", number=number, type="float32") for number in range(10, 138, 2)])
    assert list(far) == [("h", 10, 124), ("h", 134, 4)]  # 128 registers


def test_a_plc_that_goes_away_is_asked_again():
    server = plc(port := free_port())
    reading = Reading(modbus_source(f"modbus://127.0.0.1:{port}", "", wanted("h0", factor=0.001)))
    until(lambda: reading.intake.facts().samples >= 3)
    server.close()
    until(lambda: any(not connected for connected, _ in reading.intake.notes()))
    server = plc(port)
    before = reading.intake.facts().samples
    until(lambda: reading.intake.facts().samples > before + 3)
    assert reading.intake.facts().connects == 2
    reading.close()
    assert reading.rows()[-1] == [1.0]
    server.close()


def test_the_last_result_is_written_to_five_registers_that_are_named():
    server = plc(port := free_port())
    outlet = Outlet("plc", open_sink(f"modbus-write://127.0.0.1:{port}?at=1&station=press 1"))
    for record in (alarm(1), result(65538, status="degraded"), result(9, station="press 2", index=0)):
        outlet.put(record)
    until(lambda: outlet.facts().written == 3)
    reading = Reading(modbus_source(f"modbus://127.0.0.1:{port}", "", wanted(*(f"h{number}" for number in range(7)))))
    until(lambda: reading.intake.facts().samples)
    assert reading.rows()[0] == [1000, 2, 1, 2, 876, 1, 0]
    reading.close()
    outlet.close()
    server.close()


def test_what_is_no_register_says_why():
    pytest.importorskip("pymodbus")
    for options, column, expected in (
        ("", "40001", "expected a register such as h100:int16 or i7:float32, got '40001'"),
        ("", "h65535:int32", "expected a register such as h100:int16"),
        ("?unit=300", "h1", "unit: expected a number from 0 to 255, got '300'; correct it"),
        ("?every=soon", "h1", "every: expected a number from 0.0001 to 86400, got 'soon'; correct it"),
    ):
        assert expected in said(UsageError, modbus_source, f"modbus://plc{options}", "", wanted(column))


@pytest.fixture
def opcua():
    """An OPC UA server with two numbers and a text; gives its port and its variables."""
    asyncua = pytest.importorskip("asyncua")
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    port, variables = free_port(), list[Any]()

    async def start():
        server = asyncua.Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
        space = await server.register_namespace("press")
        for name, value in (("AccX", 1.5), ("AccY", 2), ("Name", "press 1")):
            node = asyncua.ua.NodeId(name, space)
            variables.append(await server.nodes.objects.add_variable(node, name, value))
        for name, kind in (("Label", "String"), ("Code", "Byte"), ("Share", "UInt16"), ("P", "Float"), ("N", "Int16")):
            node, of = asyncua.ua.NodeId(name, space), asyncua.ua.VariantType[kind]
            variables.append(await server.nodes.objects.add_variable(node, name, "" if kind == "String" else 0, of))
            await variables[-1].set_writable()
        await server.start()
        return server

    async def stop(server):
        await server.stop()

    found = InLoop(start, stop)
    yield port, found, variables
    found.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nodes_of_a_server_are_read_and_bad_values_are_missing(opcua):
    from asyncua import ua

    port, server, variables = opcua
    columns = ("ns=2;s=AccX", "ns=2;s=AccY", "ns=2;s=Name")
    reading = Reading(opcua_source(f"opcua://127.0.0.1:{port}?every=0.05", "", wanted(*columns)))
    until(lambda: reading.intake.facts().samples >= 3)
    first = reading.intake.take(timeout_s=1)
    assert first.times is None
    np.testing.assert_array_equal(first.rows, np.array([[1.5, 2, NAN]], dtype=np.float32))
    bad = ua.DataValue(ua.Variant(9.0), ua.StatusCode(ua.UInt32(ua.StatusCodes.BadSensorFailure)))
    server.run(variables[0].write_value(bad))
    until(lambda: any(np.isnan(row[0]) for row in reading.rows()))
    reading.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_last_result_is_written_to_the_nodes_that_are_named_and_to_no_other(opcua):
    port, server, variables = opcua
    named = "label=ns=2;s=Label&status=ns=2;s=Code&probability=ns=2;s=Share&episodes=ns=2;s=P&count=ns=2;s=N"
    sink = open_sink(f"opcua-write://127.0.0.1:{port}?{named}&station=press 1")
    sink.write([alarm(1), result(32768 + 7, status="degraded"), result(9, station="press 2", index=0)])
    found = [server.run(one.read_value()) for one in variables]
    assert found == [1.5, 2, "press 1", "worn", 1, 876, 1.0, 7]
    sink.write([alarm(2, episode=2)])  # no result: nothing is written
    assert [server.run(one.read_value()) for one in variables] == found
    sink.close()

    def refusal(node):
        refusing = open_sink(f"opcua-write://127.0.0.1:{port}?{node}")
        return said(ConnectionError, lambda: refusing.write([result(1)]))

    assert refusal("label=ns=2;s=Name") == (
        f"127.0.0.1:{port}: node ns=2;s=Name: BadUserAccessDenied: User does not have permission to perform the "
        "requested operation."
    )
    assert refusal("count=ns=2;s=None").startswith(f"127.0.0.1:{port}: node ns=2;s=None: ")
    assert refusal("probability=ns=2;s=Code") == (
        f"127.0.0.1:{port}: node ns=2;s=Code: expected one of Int16, UInt16, Int32, UInt32, Int64, UInt64, Float, "
        "Double, String, got Byte; name another node"
    )


@pytest.mark.parametrize(
    ("thing", "type_name", "value"),
    [
        ("count", "Byte", 2),  # 258 modulo 256
        ("count", "String", "258"),
        ("status", "String", "degraded"),
        ("label", "Int32", 2),
        ("probability", "Double", 0.876),
        ("probability", "String", "0.876"),
        ("episodes", "SByte", 127),  # the most that it holds
        ("value", "String", ""),
        ("value", "Float", pytest.approx(NAN, nan_ok=True)),
    ],
)
def test_a_result_becomes_a_value_of_the_type_of_its_node(thing, type_name, value):
    assert opcua_value(thing, result(258, status="degraded"), 300, type_name) == value


def test_what_names_no_node_to_write_says_why():
    pytest.importorskip("asyncua")

    def refused(text):
        return said(UsageError, open_sink, text)

    things = "count, status, label, probability, value, episodes"
    assert refused("opcua-write://plc") == (
        f"--sink opcua-write://plc: expected a node that it may write for one of {things}, "
        "?label=ns=2;s=Press1.Label; name it"
    )
    assert refused("opcua-write://plc?label=Label") == (
        "--sink opcua-write://plc?label=Label: label: expected a node such as ns=2;s=Press1.AccX, got 'Label'; "
        "correct it"
    )
    assert refused("opcua-write://plc?labl=i=1") == (
        f"opcua-write://plc?labl=i=1: expected options among {things}, station, credentials, policy, ca, cert, "
        "key, got 'labl'; correct it"
    )


def test_what_is_no_node_says_why():
    pytest.importorskip("asyncua")
    with pytest.raises(UsageError, match=r"expected a node such as ns=2;s=Press1.AccX, got 'x'"):
        opcua_source("opcua://plc", "", wanted("x"))
    text = "opcua://plc?policy=Basic256Sha256"
    for options, told in {
        "": "policy Basic256Sha256: needs ca=FILE and cert=FILE and key=FILE; name what is missing",
        "&ca=/dev/null&cert=/dev/null": "policy Basic256Sha256: needs key=FILE; name what is missing",
        "&ca=/dev/null&cert=/dev/null&key=/dev/null": "ca: /dev/null: expected a certificate, PEM or DER, got none; "
        "name such a file",
    }.items():
        assert said(UsageError, opcua_source, text + options, "", wanted("i=1")) == f"{text}{options}: {told}"


def test_a_client_of_opc_ua_with_the_key_of_another_certificate_is_refused_at_the_start(tmp_path, monkeypatch):
    pytest.importorskip("asyncua")
    monkeypatch.chdir(tmp_path)
    for name in ("client", "other"):
        write_certificate(tmp_path, name)
    text = "opcua://plc?policy=Basic256Sha256&ca=other.crt&cert=client.crt&key="
    for key in ("other.key", "other.crt"):
        assert said(UsageError, opcua_source, text + key, "", wanted("i=1")) == (
            f"{text}{key}: key: {key}: expected the private key of cert=, PEM or DER without a password, got another; "
            "name it"
        )


@contextlib.contextmanager
def opcua_with(certificate):
    """An OPC UA server that encrypts, with a certificate and its key; gives its port."""
    asyncua = pytest.importorskip("asyncua")
    from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    port = free_port()

    async def start():
        validity = CertificateValidatorOptions.BASIC_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
        server = asyncua.Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
        server.set_security_policy([asyncua.ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        server.set_certificate_validator(CertificateValidator(validity))
        await server.load_certificate(certificate.read_bytes(), format="pem")
        await server.load_private_key(certificate.with_suffix(".key").read_bytes(), format="pem")
        space = await server.register_namespace("press")
        node = await server.nodes.objects.add_variable(asyncua.ua.NodeId("Label", space), "Label", "")
        await node.set_writable()
        await server.start()
        return server

    async def stop(server):
        await server.stop()

    server = InLoop(start, stop)
    try:
        yield port
    finally:
        server.close()


UNKNOWN = "neither in ca={ca}.crt nor signed by a valid authority of it; give the server's own certificate, or that of "
UNKNOWN += "who signed it, as ca=FILE"
RENEW = "valid from {first} to {last}; renew it there, and check the clock of this device"
ELSEWHERE = "for other and 10.0.0.9, not for 127.0.0.1; connect to a name that it has, or renew it"
OPC_UA_CERTIFICATES = pytest.mark.parametrize(
    ("changes", "ca", "reason"),
    [
        ({}, "plant", ""),
        ({"signed_by": None, "purposes": ()}, "server", ""),
        ({}, "stranger", UNKNOWN),
        ({}, "client", UNKNOWN),  # who may sign nothing
        ({"days": (-9, -2)}, "plant", RENEW),
        ({"days": (2, 9)}, "server", RENEW),
        ({"host": "10.0.0.9"}, "plant", ELSEWHERE),
        ({"purposes": ("CLIENT_AUTH",)}, "plant", "not one for servers; make one with the purpose serverAuth"),
    ],
)


def write_opcua_certificates(folder, changes, ca, reason):
    """Writes those of a server, its client and others; returns what is said of the server's."""
    write_certificate(folder)
    write_certificate(folder, "stranger")
    made = {"signed_by": "plant", "uri": "urn:plc", "purposes": ("SERVER_AUTH",)} | changes
    write_certificate(folder, "server", **made)
    write_certificate(folder, "client", signed_by="plant", uri="urn:mmkd", purposes=("CLIENT_AUTH",))
    now = datetime.datetime.now(datetime.timezone.utc)
    first, last = (f"{now + datetime.timedelta(days=day):%Y-%m-%d}" for day in made.get("days", (0, 0)))
    return f"the server's certificate is {reason.format(ca=ca, first=first, last=last)}" if reason else ""


@OPC_UA_CERTIFICATES
def test_an_opc_ua_server_is_trusted_by_its_certificate_or_the_reason_says_what_to_do(tmp_path, changes, ca, reason):
    x509 = pytest.importorskip("cryptography.x509")
    told = write_opcua_certificates(tmp_path, changes, ca, reason)
    text = f"opcua://127.0.0.1?ca={ca}.crt"
    endpoint = read_endpoint(text.replace("ca=", f"ca={tmp_path}/"), scheme="opcua://", options=("ca",), port=4840)
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    assert server_fault(endpoint, certificate).replace(f"{tmp_path}/", "") == told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@OPC_UA_CERTIFICATES
def test_only_a_trusted_opc_ua_server_is_written_to(tmp_path, monkeypatch, changes, ca, reason):
    monkeypatch.chdir(tmp_path)
    told = write_opcua_certificates(tmp_path, changes, ca, reason)
    with opcua_with(tmp_path / "server.crt") as port:
        options = f"policy=Basic256Sha256&ca={ca}.crt&cert=client.crt&key=client.key"
        sink = open_sink(f"opcua-write://127.0.0.1:{port}?label=ns=2;s=Label&{options}")
        if told:
            assert said(ConnectionError, sink.write, [result(1)]) == f"127.0.0.1:{port}: {told}"
        else:
            sink.write([result(1)])
        sink.close()


def test_a_server_that_is_not_there_is_asked_again_and_ends_when_told():
    pytest.importorskip("asyncua")
    reading = Reading(opcua_source(f"opcua://127.0.0.1:{free_port()}", "", wanted("i=1")))
    until(lambda: reading.intake.notes())
    reading.close()
    assert reading.intake.facts().connects == 0


def test_a_sound_file_is_read_from_its_beginning_to_its_end(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    sound = np.linspace(-0.5, 0.5, 2000, dtype=np.float32).reshape(1000, 2)
    soundfile.write(tmp_path / "log.wav", sound, 4000, subtype="FLOAT")
    reading = Reading(wav_source("", f"{tmp_path}/log.wav", wanted("1", "0", factor=2.0, rate_hz=4000.0)))
    until(lambda: reading.intake.facts().samples == 1000)
    np.testing.assert_array_equal(reading.rows(), 2 * sound[:, ::-1])
    reading.close()
    with pytest.raises(UsageError, match="expected sound at 50 Hz, got 4000 Hz; resample the file"):
        wav_source("", f"{tmp_path}/log.wav", wanted("0"))
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(UsageError, match=r"text.wav: expected a sound file, got "):
        wav_source("", f"{tmp_path}/text.wav", wanted("0"))


def test_a_webhook_is_tried_again_until_it_takes_records_and_what_it_refuses_is_dropped(tmp_path):
    asked = []
    codes = iter([503, 200, 400, 200])

    def answer(request, body):
        asked.append((request.headers["X-Key"], [one["number"] for one in json.loads(body)]))
        return next(codes), {}

    (tmp_path / "headers").write_text("X-Key: secret\n")
    with http_server(answer) as address:
        sink = open_sink(f"webhook:http://{address}/hook#headers={tmp_path}/headers&kinds=state")
        outlet = Outlet("hook", sink, backoff=quick)
        outlet.put(state(1))
        until(lambda: outlet.facts().written == 1)
        outlet.put(state(2))
        until(lambda: outlet.facts().dropped == 1)
        assert outlet.facts().fault.endswith("400 Bad Request")
        outlet.put(state(3))
        until(lambda: outlet.facts().written == 2)
        outlet.close()
    assert asked == [("secret", [1]), ("secret", [1]), ("secret", [2]), ("secret", [3])]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_webhook_that_moved_gets_nothing_at_its_new_address_and_the_fault_names_it(tmp_path, code):
    asked = []

    def answer(request, _):
        asked.append(f"{request.command} {request.path}")
        return (code, {"Location": "/new"}) if request.path == "/old" else (200, {})

    (tmp_path / "headers").write_text("Authorization: Bearer secret\n")
    with http_server(answer) as address:
        sink = open_sink(f"webhook:http://{address}/old#headers={tmp_path}/headers")
        error = said(ConnectionError, lambda: sink.write([state(1)]))
    assert error.endswith(f": {code}, moved to /new; name that address")
    assert asked == ["POST /old"]


@pytest.mark.parametrize("place", ["webhook:http://{}/hook", "influxdb://{}/plant?tls=off"])
def test_an_answer_that_concerns_a_record_drops_it_and_one_that_concerns_the_sink_waits(place):
    concern_records = (400, 409, 413, 422)
    others = (301, 401, 403, 404, 405, 407, 408, 410, 421, 425, 429, 500, 502, 503, 504, 507)
    codes = iter([*concern_records, *others])
    with http_server(lambda *_: (next(codes), {})) as address:
        sink = open_sink(place.format(address))
        for kind, answers in ((RefusedError, concern_records), (ConnectionError, others)):
            for code in answers:
                assert f"{address}: {code}" in said(kind, lambda: sink.write([state(1)]))


@pytest.mark.parametrize("place", ["reason", "Location", "X-Influxdb-Error"])
def test_no_answer_of_a_web_server_repaints_a_terminal_or_a_log(place, caplog):
    def answer(request, _):
        request.responses = {**request.responses, 400: ("no\x1b[2J\x9b1m" if place == "reason" else "no", "")}
        return (302 if place == "Location" else 400), {} if place == "reason" else {place: "no\x1b[2J\x9b1m"}

    with http_server(answer) as address:
        outlet = Outlet("hook", open_sink(f"webhook:http://{address}/"), backoff=quick)
        outlet.put(state(1))
        until(lambda: outlet.facts().fault)
        outlet.close(drain_s=0.1)
    assert "no\\x1b[2J\\x9b1m" in outlet.facts().fault
    assert "no\\x1b[2J\\x9b1m" in caplog.messages[0]
    assert "\x1b" not in caplog.text + outlet.facts().fault


def test_what_is_no_sink_says_why():
    for text, expected in {
        "webhook:ftp://x": "expected an address with http:// or https://; write it out",
        "webhook:http://x#kinds=all": "got 'all'; correct it",
        "modbus-write://plc": "expected the first of five registers that it may write, ?at=100; name it",
        "kafka:x": "--sink kafka:x: expected one of -, jsonl:FILE, csv:FILE, webhook:URL, modbus-write://HOST?at=N, ",
    }.items():
        assert expected in said(UsageError, open_sink, text)
