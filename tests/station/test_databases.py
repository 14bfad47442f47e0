"""InfluxDB, VictoriaMetrics, PostgreSQL and Prometheus: real servers that are killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmkd_edge import UnavailableError, UsageError, example_bundle
from mmkd_station.intake import Intake
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import Columns, RefusedError, SourceRequest
from mmkd_station.protocols.influxdb import InfluxSink, point
from mmkd_station.protocols.postgresql import PostgresSink, postgresql_source
from mmkd_station.protocols.table import open_sink
from mmkd_station.records import record_line
from tests.edge.said import said
from tests.station.rig import (
    alarm,
    end,
    feed,
    free_port,
    http_server,
    listens,
    page_of,
    quick,
    result,
    start,
    state,
    until,
    write_certificate,
)

INFLUXD, VICTORIA, PROMETHEUS = map(shutil.which, ("influxd", "victoria-metrics", "prometheus"))
GRAFANA = Path(__file__).parents[2] / "examples" / "live" / "grafana"
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
PASSWORD = "press-s3cret"
# PostgreSQL refuses to run as root.
OWNER = "postgres" if os.geteuid() == 0 else None


class Server:
    """A server on a port of this machine, in a folder that its user may read."""

    def __init__(self):
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="mmkd-server-"))
        self.tls = write_certificate(self.folder)
        (self.folder / "user").write_text(f"press:{PASSWORD}\n")
        self.prepare()
        self.start()

    def prepare(self): ...

    def command(self):
        raise NotImplementedError

    def start(self):
        errors = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            self.command(), stdout=errors, stderr=errors, start_new_session=True, user=self.owner
        )
        errors.close()
        until(self.is_ready)

    owner: str | None = None

    def is_ready(self):
        return listens(self.port)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self):
        self.kill()
        shutil.rmtree(self.folder)


class Influx(Server):
    """InfluxDB 1 with TLS and users."""

    def prepare(self):
        (self.folder / "conf").write_text(
            f'bind-address = "127.0.0.1:{free_port()}"\nreporting-disabled = true\n[meta]\ndir = "{self.folder}/meta"\n'
            f'[data]\ndir = "{self.folder}/data"\nwal-dir = "{self.folder}/wal"\n[http]\nauth-enabled = true\n'
            f'bind-address = "127.0.0.1:{self.port}"\nhttps-enabled = true\n'
            f'https-certificate = "{self.folder}/plant.crt"\n'
            f'https-private-key = "{self.folder}/plant.key"\n[monitor]\nstore-enabled = false\n'
        )

    def command(self):
        return [str(INFLUXD), "-config", str(self.folder / "conf")]

    def ask(self, query, database="plant"):
        """The points of a query, each as an object."""
        url = f"https://127.0.0.1:{self.port}/query?u=press&p={PASSWORD}&db={database}&epoch=ns"
        data = urllib.parse.urlencode({"q": query}).encode()
        with urllib.request.urlopen(url, data=data, context=self.tls, timeout=20) as answer:
            [answered] = json.load(answer)["results"]
        assert "error" not in answered, answered
        series = answered.get("series", [])
        return [dict(zip(part["columns"], row, strict=True)) for part in series for row in part["values"]]

    @property
    def sink(self):
        return f"influxdb://127.0.0.1:{self.port}/plant?ca={self.folder}/plant.crt&credentials={self.folder}/user"

    def names(self, station):
        rows = self.ask(f"SELECT boot, number FROM /mmkd_.*/ WHERE station = '{station}'")
        return sorted((row["boot"], row["number"]) for row in rows)


class Postgres(Server):
    """PostgreSQL with TLS and a password."""

    owner = OWNER

    def prepare(self):
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "plant.key").chmod(0o600)
        if OWNER is not None:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, OWNER)
        options = ["-D", self.folder / "data", "-U", "press", "-A", "scram-sha-256", "-N"]
        subprocess.run(
            [POSTGRES / "initdb", *options, f"--pwfile={self.folder}/password"],
            check=True, capture_output=True, user=OWNER, cwd="/",
        )  # fmt: skip

    def command(self):
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder, "ssl": "on",
            "ssl_cert_file": self.folder / "plant.crt", "ssl_key_file": self.folder / "plant.key",
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(POSTGRES / "postgres"), "-D", str(self.folder / "data"), *words]

    def ask(self, query, *values):
        import psycopg

        place = f"host=127.0.0.1 port={self.port} dbname=postgres user=press password={PASSWORD} sslmode=require"
        with psycopg.connect(place, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def is_ready(self):
        return subprocess.run([POSTGRES / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0

    @property
    def place(self):
        options = f"ca={self.folder}/plant.crt&credentials={self.folder}/user"
        return f"postgresql://127.0.0.1:{self.port}/postgres?{options}"

    @property
    def sink(self):
        return self.place

    def names(self, station):
        if self.ask("SELECT to_regclass('mmkd_records')") == [(None,)]:
            return []
        return self.ask("SELECT boot, number FROM mmkd_records WHERE station = %s ORDER BY boot, number", station)


@pytest.fixture(scope="module")
def influx():
    if INFLUXD is None:
        pytest.skip("needs Debian's influxdb")
    server = Influx()
    try:
        server.ask(f"CREATE USER press WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES")
        server.ask("CREATE DATABASE plant")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg")
    if POSTGRES is None:
        pytest.skip("needs Debian's postgresql")
    server = Postgres()
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["influx", "postgres"])
def test_a_database_that_is_killed_has_every_record_once(kind, bundle_path, tmp_path, request):
    server = request.getfixturevalue(kind)
    log = tmp_path / "all.jsonl"
    arguments = (
        bundle_path, "--source", "stdin", "--sink", server.sink, "--sink", f"jsonl:{log}", "--hop", "5",
        "--store", tmp_path / "store", "--json", "--name", "press, 1",
    )  # fmt: skip

    def written():
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return [(record["boot"], record["number"]) for record in records]

    child = start(*arguments)
    lines = "1,0,0\n" * 50
    feed(child, lines)
    until(lambda: server.names("press, 1") != [])
    server.kill()
    for _ in range(20):
        feed(child, lines)
    until(lambda: len(written()) > 190)
    server.start()
    feed(child, lines)
    until(lambda: len(written()) > 200 and server.names("press, 1") == written())
    output, errors = end(child)
    first = written()
    assert server.names("press, 1") == first == [(first[0][0], number) for number in range(1, len(first) + 1)]
    facts = {sink["sink"].split(":")[0]: sink for sink in json.loads(output)["sinks"]}[server.sink.split(":")[0]]
    assert (facts["written"], facts["dropped"], facts["waiting"]) == (len(first), 0, 0)
    assert "its records wait" in errors
    assert PASSWORD not in output + errors

    # Now the station is killed too, while its database is away.
    server.kill()
    child = start(*arguments)
    feed(child, lines * 4)
    until(lambda: len(written()) > len(first) + 30)
    time.sleep(1)  # what is older than 0.2 s is on the disk
    child.kill()
    child.communicate()
    server.start()
    child = start(*arguments)
    until(lambda: server.names("press, 1") == sorted(set(written())) and len({boot for boot, _ in written()}) == 3)
    end(child)


RECORDS = [
    state(1, decided_s=1795707180.5, boot="b"),
    result(2, decided_s=1795707180.5, boot="b", label="a\0b", reason="a\\u0000 \0"),
    alarm(3, decided_s=1795707180.5, boot="b"),
]


def test_postgresql_keeps_a_record_that_comes_twice_once_and_whole(postgres):
    sink = PostgresSink(f"{postgres.place}&table=twice", "")
    for _ in range(2):
        sink.write(RECORDS)
    postgres.ask("ALTER TABLE twice ADD COLUMN note text")
    sink.write([result(2, boot="another")])
    sink.close()
    assert postgres.ask("SELECT boot, number, kind, status, label, probability FROM twice ORDER BY boot, number") == [
        ("another", 2, "result", "ok", "worn", 0.876),
        ("b", 1, "state", "connected", "", None),
        ("b", 2, "result", "ok", "a\ufffdb", 0.876),
        ("b", 3, "alarm", "raised", "worn", 0.9),
    ]
    [(decided, record)] = postgres.ask("SELECT extract(epoch FROM decided), record FROM twice WHERE number = 3")
    assert (float(decided), record) == (1795707180.5, json.loads(record_line(RECORDS[2])))
    [(reason,)] = postgres.ask("SELECT record->>'reason' FROM twice WHERE boot = 'b' AND number = 2")
    assert reason == "a\\u0000 \ufffd"
    postgres.ask("ALTER TABLE twice ADD CHECK (number < 9)")
    with pytest.raises(RefusedError, match="violates check constraint"):
        sink.write([result(9)])
    sink.write([result(8)])
    sink.close()


@pytest.mark.parametrize("kind", ["influx", "postgres"])
def test_a_record_that_a_database_refuses_is_dropped_alone(kind, request):
    server, now_s = request.getfixturevalue(kind), time.time()
    if kind == "postgres":
        server.ask("DROP TABLE IF EXISTS mmkd_records")
        with contextlib.closing(open_sink(server.sink)) as sink:
            sink.write([state(9, station="other")])
        server.ask("ALTER TABLE mmkd_records ADD CHECK (station <> 'alone' OR decided > '2001-01-01')")
    else:
        server.ask("CREATE RETENTION POLICY hour ON plant DURATION 1h REPLICATION 1 DEFAULT")
    outlet = Outlet("database", open_sink(server.sink), backoff=quick)
    for number in range(1, 21):
        outlet.put(state(number, station="alone", boot="a", decided_s=1.0 if number == 13 else now_s))
    until(lambda: outlet.facts().waiting == 0)
    outlet.close()
    assert (outlet.facts().written, outlet.facts().dropped) == (19, 1)
    assert server.names("alone") == [("a", number) for number in range(1, 21) if number != 13]
    server.ask("DROP TABLE mmkd_records" if kind == "postgres" else "ALTER RETENTION POLICY autogen ON plant DEFAULT")


def test_hostile_labels_and_stations_are_values_to_postgresql(postgres):
    postgres.ask("DROP TABLE IF EXISTS mmkd_records")
    texts = ["'); DROP TABLE mmkd_records; --", "\\.\n\\N\t$(touch x)", '"; SELECT 1 --', "a\x1b[2J<script>"]
    with contextlib.closing(open_sink(postgres.sink)) as sink:
        sink.write([result(number, label=text, station=text) for number, text in enumerate(texts)])
    assert postgres.ask("SELECT station, label FROM mmkd_records ORDER BY number") == [(text, text) for text in texts]
    postgres.ask("DROP TABLE mmkd_records")


@pytest.mark.parametrize(
    ("raises", "is_dropped"),
    [
        ("RAISE EXCEPTION 'no %', NEW.number", True),  # P0001
        ("PERFORM 1 / (NEW.number - 13)", True),  # 22012
        ("NEW.station = NULL", True),  # 23502
        ("ASSERT false", True),  # P0004
        ("PERFORM 1 FROM nowhere", False),  # 42P01
        ("RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'no right'", False),
        ("RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'disk full'", False),
        ("RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'again'", False),
    ],
)
def test_what_a_trigger_raises_for_one_record_drops_it_alone_and_what_concerns_the_sink_waits(
    raises, is_dropped, postgres, caplog
):
    sink = PostgresSink(f"{postgres.place}&table=guarded", "")
    sink.write([state(1, boot="before")])
    postgres.ask(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.number IN (13, 17) AND "
        f"NEW.boot = 'a' THEN {raises.replace('13', 'NEW.number')}; END IF; RETURN NEW; END $$"
    )
    postgres.ask("CREATE TRIGGER guard BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION guard()")
    outlet = Outlet("database", sink, backoff=quick)
    for number in range(1, 41):
        outlet.put(state(number, boot="a"))
    until(lambda: outlet.facts().failures >= 2)
    if not is_dropped:
        assert (outlet.facts().waiting, outlet.facts().dropped) == (40, 0)
        postgres.ask("DROP TRIGGER guard ON guarded")
    until(lambda: outlet.facts().waiting == 0)
    outlet.close()
    refused = (13, 17) if is_dropped else ()
    numbers = postgres.ask("SELECT number FROM guarded WHERE boot = 'a' ORDER BY number")
    assert numbers == [(number,) for number in range(1, 41) if number not in refused]
    assert (outlet.facts().written, outlet.facts().dropped) == (40 - len(refused), len(refused))
    said_once = [text for text in caplog.messages if text.endswith("; such records are dropped and counted")]
    assert len(said_once) == is_dropped
    postgres.ask("DROP TABLE guarded")
    postgres.ask("DROP FUNCTION guard")


def test_a_point_has_tags_fields_and_a_time_of_its_own():
    record = result(
        4567, station="press 1,a=b\\", decided_s=1795707180.480001, reason='say "no"\\', probability=float("nan"),
        probabilities=(0.25, 0.75), dropped=2, boot="0f",
    )  # fmt: skip
    assert point(record) == (
        r"mmkd_result,station=press\ 1\,a\=b" + "\ufffd" + r",label=worn,status=ok number=4567i,time_s=1.0,"
        r'decided_s=1795707180.480001,reason="say \"no\"\\",index=1i,probabilities_0=0.25,probabilities_1=0.75,'
        r'missing_fraction=0.0,modality="acc",dropped=2i,late=0i,boot="0f" 1795707180480001567'
    )


def test_influxdb_keeps_a_record_that_comes_twice_once_and_drops_what_it_refuses(influx):
    influx.ask("CREATE DATABASE twice")
    sink = InfluxSink(influx.sink.replace("/plant?", "/twice?"), "")
    for _ in range(2):
        sink.write(RECORDS)
    rows = influx.ask("SELECT number, label, reason FROM twice..mmkd_result")
    assert rows == [{"time": 1795707180500000002, "number": 2, "label": "a\ufffdb", "reason": "a\\u0000 \0"}]
    assert len(influx.ask("SELECT number FROM twice../mmkd_.*/")) == 3
    influx.ask("DROP DATABASE twice")
    with pytest.raises(ConnectionError, match='404 database not found: "twice"'):  # waits until it is made
        sink.write(RECORDS)
    (wrong := influx.folder / "wrong").write_text("press:other\n")
    with pytest.raises(ConnectionError, match="401 Unauthorized"):  # waits until it is corrected
        InfluxSink(influx.sink.replace(f"{influx.folder}/user", str(wrong)), "").write(RECORDS)
    influx.ask("CREATE RETENTION POLICY short ON plant DURATION 1h REPLICATION 1 DEFAULT")
    with pytest.raises(RefusedError, match="400 partial write: points beyond retention policy dropped=3"):
        InfluxSink(influx.sink, "").write(RECORDS)
    influx.ask("ALTER RETENTION POLICY autogen ON plant DEFAULT")


@pytest.mark.skipif(VICTORIA is None, reason="needs Debian's victoria-metrics")
def test_victoria_metrics_takes_the_points_of_versions_1_and_2(tmp_path, monkeypatch):
    class Victoria(Server):
        def command(self):
            return [str(VICTORIA), f"-httpListenAddr=127.0.0.1:{self.port}", f"-storageDataPath={self.folder}/data",
                    "-retentionPeriod=100y", "-memory.allowedBytes=64MB"]  # fmt: skip

    monkeypatch.setenv("INFLUX_TOKEN", "t0ken")
    server = Victoria()
    try:
        for version in ("1", "2&org=plant"):
            open_sink(f"influxdb://127.0.0.1:{server.port}/plant?tls=off&version={version}").write(RECORDS)
        url = f"http://127.0.0.1:{server.port}"
        urllib.request.urlopen(f"{url}/internal/force_flush").close()
        query = urllib.parse.urlencode({"match[]": "mmkd_alarm_probability"})
        with urllib.request.urlopen(f"{url}/api/v1/export?{query}") as answer:
            series = sorted((json.loads(line) for line in answer), key=lambda one: len(one["metric"]))
    finally:
        server.close()
    tags = {"__name__": "mmkd_alarm_probability", "station": "press 1", "label": "worn", "event": "raised"}
    assert series == [
        {"metric": metric, "values": [0.9], "timestamps": [1795707180500]} for metric in (tags, tags | {"db": "plant"})
    ]


@pytest.mark.parametrize(
    ("options", "secret", "path", "authorization"),
    [
        ("", "press:pw", "/write?db=plant&precision=ns", "Basic cHJlc3M6cHc="),
        ("&version=2&org=my org", "t0ken", "/api/v2/write?bucket=plant&precision=ns&org=my+org", "Token t0ken"),
        ("&version=3", "t0ken", "/api/v3/write_lp?db=plant&precision=nanosecond", "Bearer t0ken"),
    ],
)
def test_each_version_of_influxdb_has_its_address_and_its_secret(options, secret, path, authorization, tmp_path):
    asked = []

    def answer(request, body):
        asked.append((request.path, request.headers["Authorization"], body))
        return 204, {}

    (tmp_path / "secret").write_text(f"{secret}\n")
    with http_server(answer) as address:
        open_sink(f"influxdb://{address}/plant?tls=off&credentials={tmp_path}/secret{options}").write(RECORDS[:1])
    assert asked == [(path, authorization, point(RECORDS[0]).encode())]


def test_postgresql_takes_its_credentials_from_the_environment_too(postgres, monkeypatch):
    place = postgres.place.partition("&credentials=")[0] + "&table=environment"
    monkeypatch.setenv("PGUSER", "press")
    with pytest.raises(ConnectionError, match="no password supplied"):
        open_sink(place).write(RECORDS)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    sink = open_sink(place)
    sink.write(RECORDS)
    sink.close()
    assert postgres.ask("SELECT count(*) FROM environment") == [(3,)]
    monkeypatch.setenv("PGUSER", "somebody")
    sink = open_sink(place.replace("://", "://press@").replace("=environment", "=named_user"))
    sink.write(RECORDS)
    sink.close()
    assert postgres.ask("SELECT count(*) FROM named_user") == [(3,)]


def wanted(**changes):
    columns = Columns(names=("x", "y"), factors=(2.0, 1.0), offsets=(0.0, 0.0))
    return SourceRequest(columns=columns, rate_hz=10.0, **changes)


def test_a_table_is_replayed_in_its_order_and_goes_on_after_the_server_was_killed(postgres):
    postgres.ask("CREATE TABLE log (time timestamptz, x numeric, y int, at_ms bigint)")
    postgres.ask(
        "INSERT INTO log SELECT '2026-11-30 00:00Z'::timestamptz + n * interval '0.1 s', n / 10.0, nullif(n, 3), "
        "100 * n FROM generate_series(9999, 0, -1) AS n"
    )
    source = f"{postgres.place}&table=public.log"
    intake = Intake(may_drop=False)
    deliveries = postgresql_source(source, "", wanted()).deliveries(intake)
    pieces = [next(deliveries)]
    postgres.kill()
    starting = threading.Timer(0.5, postgres.start)
    starting.start()
    pieces += deliveries
    starting.join()
    times = [moment for piece in pieces for moment in piece.times.tolist()]
    rows = [row for piece in pieces for row in piece.rows.tolist()]
    assert times == pytest.approx([1795996800 + 0.1 * n for n in range(10_000)], abs=1e-6)
    assert np.allclose(rows[:4], [[0.0, 0.0], [0.2, 1.0], [0.4, 2.0], [0.6, np.nan]], equal_nan=True)
    assert [connected for connected, _ in intake.notes()].count(True) == 2

    some = wanted(time_column="at_ms", time_unit="ms")
    pieces = [*postgresql_source(f"{source}&since=500&until=800", "", some).deliveries(Intake(may_drop=False))]
    assert pieces[0].times.tolist() == pytest.approx([0.5, 0.6, 0.7])
    bound = f"{source}&since=2026-11-30T00:16:39.9Z"
    assert len(next(postgresql_source(bound, "", wanted()).deliveries(Intake(may_drop=False))).rows) == 1


@pytest.mark.parametrize("kind", ["float8", "timestamptz"])
def test_rows_whose_time_is_no_number_are_left_out_and_counted_with_one_reason(kind, postgres):
    moments = {"float8": "0.1 * n", "timestamptz": "to_timestamp(0.1 * n)"}[kind]
    odd = {"float8": ("-Infinity", "Infinity", "NaN"), "timestamptz": ("-infinity", "infinity")}[kind]
    postgres.ask(f"CREATE TABLE odd (time {kind}, x float8, y float8)")
    postgres.ask(f"INSERT INTO odd SELECT {moments}, n, n FROM generate_series(0, 99) AS n")
    for moment in odd:
        postgres.ask("INSERT INTO odd VALUES (%s, 1, 1)", moment)
    intake = Intake(may_drop=False)
    pieces = [*postgresql_source(f"{postgres.place}&table=odd", "", wanted(replay_speed=1e9)).deliveries(intake)]
    postgres.ask("DROP TABLE odd")
    assert np.concatenate([piece.times for piece in pieces]) == pytest.approx(0.1 * np.arange(100))
    assert intake.facts().garbage == len(odd)
    assert intake.last_garbage == f"expected a time in every row, got {odd[-1].lower().replace('inity', '')} as time"


def test_a_replay_that_cannot_begin_says_why(postgres):
    postgres.ask("CREATE TABLE IF NOT EXISTS bare (time timestamptz, x float8)")
    source = f"{postgres.place}&table=bare"
    cure = "; name table=, the columns with --map CHANNEL=COLUMN and the times with --time-column"
    refused = said(UsageError, lambda: postgresql_source(source, "", wanted()))
    assert refused == f'--source {source}: column "y" does not exist{cure}'
    absent = source.replace("bare", "absent")
    refused = said(UsageError, lambda: postgresql_source(absent, "", wanted()))
    assert refused == f'--source {absent}: relation "absent" does not exist{cure}'
    away = f"postgresql://127.0.0.1:{free_port()}/plant?table=bare&tls=off"
    refused = said(UnavailableError, lambda: postgresql_source(away, "", wanted()))
    assert "Connection refused" in refused
    assert refused.endswith("; check the address, the credentials and that PostgreSQL runs there")


@pytest.mark.parametrize("kind", ["influx", "postgres"])
def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_cure(kind, request):
    server = request.getfixturevalue(kind)
    sink = open_sink(server.sink.replace(f"ca={server.folder}/plant.crt&", ""))
    with pytest.raises(ConnectionError, match="certificate verify failed") as refused:
        sink.write(RECORDS)
    assert str(refused.value).endswith("; trust its certificate with ca=FILE, or add tls=off if the server has no TLS")
    sink.close()
    if kind == "influx":
        with pytest.raises(ConnectionError, match=r"400 Bad Request|reset by peer"):  # waits for a corrected address
            open_sink(f"{server.sink}&tls=off").write(RECORDS)


def test_a_certificate_that_the_system_vouches_for_needs_no_file(influx, postgres, monkeypatch):
    def write(server):
        sink = open_sink(server.sink.replace(f"ca={server.folder}/plant.crt&", "").replace("/plant?", "/twice?"))
        sink.write(RECORDS)
        sink.close()

    influx.ask("CREATE DATABASE twice")
    for server in (influx, postgres):
        monkeypatch.setenv("SSL_CERT_FILE", f"{server.folder}/plant.crt")
        write(server)
    monkeypatch.setattr("mmkd_station.protocols.postgresql._AUTHORITIES", ("/none", f"{postgres.folder}/plant.crt"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=None))
    monkeypatch.delenv("SSL_CERT_FILE")
    write(postgres)
    postgres.ask("DROP TABLE mmkd_records")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("influxdb://host", "--sink influxdb://host: expected influxdb://HOST/DATABASE, got no database; name it"),
        ("influxdb://u:p@host/a", "expected no password in the text, where others see it; use ?credentials=FILE"),
        ("influxdb://u@host/a", "influxdb://u@host: expected HOST alone, got a user; use ?credentials="),
        ("postgresql://u:p@host/a", "expected no password in the text, where others see it; use ?credentials=FILE"),
        ("postgresql://u@host/a?credentials=GOOD", "expected one user, got u@ and credentials=; leave one out"),
        ("influxdb://host/a?version=4", "version: expected one of 1, 2, 3, got '4'; choose one of them"),
        ("influxdb://host/a?tls=no", "tls: expected one of on, off, got 'no'; choose one of them"),
        ("influxdb://host/a?version=2&credentials=FILE", "FILE: expected one line, the token, got something else"),
        ("influxdb://host/a?credentials=FILE", "FILE: expected one line, USER:PASSWORD, got something else; write it"),
        ("postgresql://host", "postgresql://host: expected postgresql://HOST/DATABASE, got no database; name it"),
        ("postgresql://host/a?credentials=/none", "credentials: /none: no such file or directory; check the path"),
    ],
)
def test_a_text_that_names_no_database_says_why(text, expected, tmp_path):
    if text.startswith("postgresql"):
        pytest.importorskip("psycopg")
    file = tmp_path / "file"
    file.write_text("two words\n")
    (tmp_path / "good").write_text("press:secret\n")
    text = text.replace("GOOD", f"{tmp_path}/good")
    text, expected = text.replace("FILE", str(file), text.count("=FILE")), expected.replace("FILE:", f"{file}:")
    assert expected in said(UsageError, lambda: open_sink(text))


class Prometheus(Server):
    """Prometheus, which scrapes a page every second."""

    def __init__(self, page):
        self.target = page.split("/")[2]
        super().__init__()

    def prepare(self):
        job = {"job_name": "mmkd", "scrape_interval": "1s", "static_configs": [{"targets": [self.target]}]}
        (self.folder / "conf").write_text(json.dumps({"scrape_configs": [job]}))

    def command(self):
        where = [f"--config.file={self.folder}/conf", f"--storage.tsdb.path={self.folder}/data"]
        return [str(PROMETHEUS), *where, f"--web.listen-address=127.0.0.1:{self.port}"]

    def is_ready(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready") as answer:
            return answer.status == 200
        return False

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]


def panels(dashboard):
    return {panel["title"]: panel["targets"] for panel in dashboard["panels"]}


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="needs Debian's prometheus")
def test_every_panel_of_the_dashboards_shows_what_a_station_wrote(influx):
    pytest.importorskip("prometheus_client")
    influx.ask("CREATE DATABASE line1")
    sink = influx.sink.replace("/plant?", "/line1?")
    child = start(
        example_bundle(), "--source", "stdin", "--sink", sink, "--monitor", "127.0.0.1:0", "--hop", "50",
        "--name", "press 1", "--confirm", "1/1", "--min-probability", "0",
        *(word for label in ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW") for word in ("--alarm", label)),
    )  # fmt: skip
    is_over = threading.Event()

    def move():
        while not is_over.wait(0.5):
            moments = [time.time() - 0.02 * n for n in range(25, 0, -1)]
            rows = [{"time": moment, "ax": 1.0, "ay": 0.0, "az": 0.1} for moment in moments]
            feed(child, json.dumps(rows) + "\n")

    mover = threading.Thread(target=move)
    prometheus = Prometheus(page_of(child)[0])
    mover.start()
    try:
        board = json.loads((GRAFANA / "prometheus.json").read_text())
        assert board["templating"]["list"][0]["query"] == "label_values(mmkd_live_samples_total, station)"
        for title, targets in panels(board).items():
            for target in targets:
                query = target["expr"].replace("$__rate_interval", "20s").replace("$station", "(press 1)")
                asked = partial(prometheus.ask, "query", query=query)
                series = until(lambda asked=asked: has_numbers(found := asked()["result"]) and found)
                labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert all(labels <= set(one["metric"]) for one in series), title
        assert prometheus.ask("label/station/values", **{"match[]": "mmkd_live_samples_total"}) == ["press 1"]

        novel = result(1, decided_s=time.time(), novelty=0.5)  # the shipped student has no novelty
        InfluxSink(sink, "").write([novel])
        board = json.loads((GRAFANA / "influxdb.json").read_text())
        for title, targets in panels(board).items():
            for target in targets:
                query = target["query"].replace("$__interval", "1h").replace("$station", "(press 1)")
                query = query.replace("$timeFilter", "time > now() - 1h")
                asked = partial(influx.ask, query, "line1")
                rows = until(lambda asked=asked: [row for row in asked() if None not in row.values()])
                numbers = [
                    value for name, value in rows[0].items() if isinstance(value, int | float) and name != "time"
                ]
                assert title == "Events" or min(numbers) >= 0, title
                tags = set(re.findall(r"\$tag_(\w+)", target.get("alias", "")))
                assert tags <= set(re.findall(r'"(\w+)"', query.partition("GROUP BY")[2])), title
        stations = influx.ask(board["templating"]["list"][0]["query"], "line1")
        assert stations == [{"key": "station", "value": "press 1"}]
    finally:
        is_over.set()
        mover.join()
        prometheus.close()
        child.kill()
        child.communicate()


def has_numbers(series):
    return bool(series) and all(np.isfinite(float(one["value"][1])) for one in series)


def test_the_dashboards_ask_the_databases_that_the_example_provides():
    yaml = pytest.importorskip("yaml")
    sources = yaml.safe_load((GRAFANA / "datasources.yml").read_text())["datasources"]
    assert {source["uid"]: source["type"] for source in sources} == {"prometheus": "prometheus", "influxdb": "influxdb"}
    for uid in ("prometheus", "influxdb"):
        board = json.loads((GRAFANA / f"{uid}.json").read_text())
        parts = [*board["panels"], *board["templating"]["list"]]
        assert {(part["datasource"]["type"], part["datasource"]["uid"]) for part in parts} == {(uid, uid)}
