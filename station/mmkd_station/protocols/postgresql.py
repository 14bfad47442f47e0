"""`postgresql://HOST/DATABASE` by psycopg 3: records in a table, each once; samples replayed from a table.

The table's key is station, boot, number and time, as a hypertable of TimescaleDB needs it.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from mmkd_edge.errors import UnavailableError, UsageError, first_line
from mmkd_edge.machine import require_modules
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import (
    Backoff,
    Endpoint,
    RefusedError,
    Sink,
    Source,
    SourceRequest,
    paced_source,
    read_endpoint,
    with_tls_cure,
)
from mmkd_station.protocols.samples import read_seconds
from mmkd_station.records import Record, record_line

_OPTIONS = ("table", "credentials", "ca", "cert", "key", "tls")
_TIMEOUT_S = 10
_CURE = "name table=, the columns with --map CHANNEL=COLUMN and the times with --time-column"
_MAX_TOGETHER = 4096
# Of Debian and of Red Hat: the OpenSSL in psycopg's wheels looks in a folder that no system has.
_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# Types of times, pg_type.dat: date, timestamp, timestamptz; other columns hold numbers.
_TIME_TYPES = (1082, 1114, 1184)
# Classes of SQLSTATE (PostgreSQL 17, appendix A) that concern a record; all others concern the sink, which waits.
_RECORD_CLASSES = {
    "21": "cardinality violation", "22": "data exception", "23": "integrity constraint violation",
    "38": "external routine exception", "44": "WITH CHECK OPTION violation", "54": "program limit exceeded",
    "P0": "PL/pgSQL error, as a trigger's RAISE EXCEPTION",
}  # fmt: skip
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # JSON that PostgreSQL refuses
_COLUMNS = {
    "station": "text", "boot": "text", "number": "bigint", "decided": "timestamptz", "kind": "text", "status": "text",
    "label": "text", "probability": "float8", "value": "float8", "record": "jsonb",
}  # fmt: skip
_NAMES, _TYPED = ", ".join(_COLUMNS), ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
_CREATE = f"CREATE TABLE {{}} ({_TYPED}, PRIMARY KEY (station, boot, number, decided))"
_INCOMING = f"CREATE TEMPORARY TABLE mmkd_incoming ({_TYPED}) ON COMMIT DELETE ROWS"
_INSERT = f"INSERT INTO {{}} ({_NAMES}) SELECT {_NAMES} FROM mmkd_incoming ON CONFLICT DO NOTHING"


def _psycopg() -> Any:
    require_modules(("psycopg",), by="PostgreSQL", extra="databases")
    import psycopg

    return psycopg


def _server(text: str, *, options: Sequence[str] = ()) -> Endpoint:
    _psycopg()
    known = (*_OPTIONS, *options)
    server = read_endpoint(text, scheme="postgresql://", options=known, port=5432, takes_user=True)
    if not server.path:
        raise UsageError(f"{text}: expected postgresql://HOST/DATABASE, got no database; name it")
    if server.credentials() and server.user:
        raise UsageError(f"{text}: expected one user, got {server.user}@ and credentials=; leave one out")
    for name in ("ca", "cert", "key"):
        server.file(name)
    server.uses_tls()
    return server


def _connect(server: Endpoint) -> Any:
    """Return a connection that commits each transaction. Raises psycopg.OperationalError."""
    tls = {"sslmode": "disable"}
    if server.uses_tls():
        known = (ssl.get_default_verify_paths().cafile, *filter(os.path.exists, _AUTHORITIES), "system")
        trusted = server.file("ca") or next(filter(None, known))
        files = {"sslrootcert": trusted, "sslcert": server.file("cert"), "sslkey": server.file("key")}
        tls = {"sslmode": "verify-full"} | {name: str(file) for name, file in files.items() if file}
    user, password = server.credentials() or (server.user or None, None)
    return _psycopg().connect(
        host=server.host,
        port=server.port,
        dbname=server.path,
        user=user,
        password=password,
        connect_timeout=_TIMEOUT_S,
        tcp_user_timeout=1000 * _TIMEOUT_S,  # a server that is gone answers nothing, also while its answer is awaited
        keepalives_idle=_TIMEOUT_S,
        keepalives_interval=_TIMEOUT_S,
        application_name="mmkd-run",
        autocommit=True,
        **tls,
    )


def _table(server: Endpoint, default: str) -> Any:
    _psycopg()
    from psycopg.sql import Identifier

    return Identifier(*server.options.get("table", default).split("."))


def _query(text: str, *names: Any) -> Any:
    from psycopg.sql import SQL

    return SQL(text).format(*names)


class PostgresSink(Sink):
    """Copies records into a table in one transaction; one that is there already is left out."""

    def __init__(self, text: str, place: str) -> None:
        self._server = _server(text)
        self._table = _table(self._server, "mmkd_records")
        self._connection: Any = None

    def write(self, records: Sequence[Record]) -> None:
        """Insert all records or none. Raises RefusedError for an error that concerns a record, else OSError."""
        psycopg = _psycopg()
        try:
            self._connection = self._connection or self._open()
            with self._connection.transaction(), self._connection.cursor() as cursor:
                with cursor.copy("COPY mmkd_incoming FROM STDIN") as copy:
                    for record in records:
                        copy.write_row(_row(record))
                cursor.execute(_query(_INSERT, self._table))
        except psycopg.Error as error:
            if (error.sqlstate or "22" * isinstance(error, psycopg.DataError))[:2] in _RECORD_CLASSES:
                raise RefusedError(f"{self._server.address}: {first_line(error)}") from error
            self.close()
            reason = with_tls_cure(first_line(error))
            raise ConnectionError(f"{self._server.address}: {reason}") from error

    def _open(self) -> Any:
        connection = _connect(self._server)
        try:
            if connection.execute("SELECT to_regclass(%s)", [self._table.as_string(None)]).fetchone() == (None,):
                connection.execute(_query(_CREATE, self._table))
            connection.execute(_INCOMING)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            with contextlib.suppress(_psycopg().Error):
                self._connection.close()
            self._connection = None


def _row(record: Record) -> tuple[object, ...]:
    line = _NUL.sub(rb"\1\\ufffd", record_line(record)).decode()
    decided = datetime.fromtimestamp(record.decided_s, tz=timezone.utc)
    kind, label = str(record.__struct_config__.tag), getattr(record, "label", "")
    status = getattr(record, {"result": "status", "alarm": "event", "state": "state"}[kind])
    texts = (text.replace("\0", "\ufffd") for text in (record.station, record.boot, kind, status, label))
    station, boot, kind, status, label = texts
    probability, value = getattr(record, "probability", None), getattr(record, "value", None)
    return station, boot, record.number, decided, kind, status, label, probability, value, line


def postgresql_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a replay of a table's rows, in the order of their times."""
    server = _server(text, options=("since", "until"))
    if "table" not in server.options:
        raise UsageError(f"--source {text}: expected ?table=NAME, the table of the samples, got none; name it")
    psycopg = _psycopg()
    try:
        with _connect(server) as connection:
            query, bounds, _ = _replay_query(connection, server, request)
            connection.execute(_query("{} LIMIT 0", query), [*bounds, None, None])
    except psycopg.OperationalError as error:
        cure = "check the address, the credentials and that PostgreSQL runs there"
        raise UnavailableError(f"--source {text}: {with_tls_cure(first_line(error))}; {cure}") from error
    except psycopg.Error as error:
        raise UsageError(f"--source {text}: {first_line(error)}; {_CURE}") from error
    together = _MAX_TOGETHER if request.replay_speed is None else max(1, round(request.rate_hz / 10))

    def read(intake: Intake) -> Iterator[Delivery]:
        backoff, last, is_at_end = Backoff(), None, False
        while not (is_at_end or intake.stop.is_set()):
            try:
                with _connect(server) as connection, connection.transaction():
                    intake.connection(True, server.address, name=server.address)
                    query, bounds, scale = _replay_query(connection, server, request)
                    with connection.cursor(name="mmkd_replay") as cursor:
                        cursor.execute(query, [*bounds, last, last])
                        while rows := cursor.fetchmany(together):
                            backoff.succeeded()
                            table = np.array(rows, dtype=np.float64)
                            timed = np.isfinite(table[:, 0])
                            if not timed.all():
                                odd = table[~timed][0, 0]
                                reason = f"expected a time in every row, got {odd:g} as {request.time_column}"
                                intake.garbage(reason, count=int((~timed).sum()))
                                table = table[timed]
                            if not len(table):
                                continue
                            last = float(table[-1, 0])
                            yield Delivery(
                                rows=request.columns.scaled(table[:, 1:].astype(np.float32)),
                                times=table[:, 0] * scale,
                                arrived_s=time.monotonic(),
                                waited=True,
                            )
                    is_at_end = True
            except psycopg.OperationalError as error:
                intake.connection(False, f"{server.address}: {first_line(error)}", name=server.address)
                intake.stop.wait(backoff.next_s())
            except psycopg.Error as error:
                raise UsageError(f"--source {text}: {first_line(error)}; {_CURE}") from error

    return Source(deliveries=lambda intake: paced_source(read(intake), request).deliveries(intake), live=False)


def _replay_query(connection: Any, server: Endpoint, request: SourceRequest) -> tuple[Any, list[str], float]:
    """Return the query of times and columns, its first parameters, and the unit of the times in seconds."""
    from psycopg.sql import SQL, Identifier

    table, moment = _table(server, ""), Identifier(request.time_column)
    column = connection.execute(_query("SELECT {} FROM {} LIMIT 0", moment, table)).description[0]
    is_timestamp = column.type_code in _TIME_TYPES
    seconds = _query("extract(epoch FROM {})::float8" if is_timestamp else "{}::float8", moment)
    columns = SQL(", ").join(_query("{}::float8", Identifier(name)) for name in request.columns.names)
    bounds = {" >= %s": server.options.get("since"), " < %s": server.options.get("until")}
    limits = [_query("AND {}" + sign, moment) for sign, value in bounds.items() if value]
    query = _query(
        "SELECT {}, {} FROM {} WHERE {} IS NOT NULL {} AND (%s::float8 IS NULL OR {} > %s::float8) ORDER BY {}",
        *(seconds, columns, table, moment, SQL(" ").join(limits), seconds, moment),
    )
    scale = 1.0 if is_timestamp else read_seconds(1, unit=request.time_unit)
    return query, [value for value in bounds.values() if value], scale
