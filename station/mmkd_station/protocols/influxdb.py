"""`influxdb://HOST/DATABASE`: records as points, in line protocol over HTTP or, by default, HTTPS.

A record that comes twice replaces itself: its time is `decided_s` in microseconds, and the last three digits of its
nanoseconds are those of `number`.
"""

from __future__ import annotations

import math
import os
import re
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_station.protocols.base import Endpoint, Sink, read_endpoint, with_tls_cure
from mmkd_station.protocols.http import RECORD_CODES, NoRedirects, post
from mmkd_station.records import Record

TOKEN_VARIABLE = "INFLUX_TOKEN"
# Path, names of the database and of the precision, and the precision, by version.
_APIS = {
    "1": ("/write", "db", "ns"),
    "2": ("/api/v2/write", "bucket", "ns"),
    "3": ("/api/v3/write_lp", "db", "nanosecond"),
}
_TAGS = ("station", "label", "status", "event", "state")
_ESCAPED = re.compile("[,= ]")
_NOT_IN_TAGS = re.compile(r"[\\\0-\x1f\x7f]")


class InfluxSink(Sink):
    """Writes points; drops and counts those that the server refuses by `RECORD_CODES`."""

    def __init__(self, text: str, place: str) -> None:
        options = ("version", "org", "credentials", "ca", "tls")
        self._server = read_endpoint(text, scheme="influxdb://", options=options, port=8086)
        version = self._server.choice("version", _APIS, "1")
        if not self._server.path:
            raise UsageError(f"--sink {text}: expected influxdb://HOST/DATABASE, got no database; name it")
        path, database, precision = _APIS[version]
        query = {database: self._server.path, "precision": precision}
        if "org" in self._server.options:
            query["org"] = self._server.options["org"]
        scheme = "https" if self._server.uses_tls() else "http"
        self._url = f"{scheme}://{self._server.address}{path}?{urlencode(query)}"
        self._headers = {"Content-Type": "text/plain; charset=utf-8"} | _authorization(self._server, version)
        context = ssl.create_default_context(cafile=self._server.file("ca"))
        self._opener = urllib.request.build_opener(NoRedirects, urllib.request.HTTPSHandler(context=context))

    def write(self, records: Sequence[Record]) -> None:
        """Write points. Raises RefusedError for an answer that concerns a point, else OSError."""
        lines = "\n".join(point(record) for record in records).encode()
        request = urllib.request.Request(self._url, data=lines, headers=self._headers)
        try:
            post(request, concerns_record=_concerns_record, opener=self._opener)
        except ConnectionError as error:
            raise ConnectionError(with_tls_cure(str(error))) from error


def _concerns_record(error: urllib.error.HTTPError) -> bool:
    # Plain HTTP to a port with TLS is a bad request too, but its records wait for a corrected address.
    return error.code in RECORD_CODES and b"HTTPS" not in error.read(1000)


def _authorization(server: Endpoint, version: str) -> dict[str, str]:
    path = server.file("credentials")
    if version == "1" and path is not None:
        user, password = server.credentials() or ("", "")
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get(TOKEN_VARIABLE, "").strip() if path is None else path.read_text(encoding="utf-8").strip()
    if not token and path is None:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise UsageError(f"{path or TOKEN_VARIABLE}: expected one line, the token, got something else; write it so")
    return {"Authorization": f"{'Bearer' if version == '3' else 'Token'} {token}"}


def point(record: Record) -> str:
    """Return a record as a line of the line protocol."""
    values = msgspec.structs.asdict(record)
    tags = {name: _ESCAPED.sub(r"\\\g<0>", _NOT_IN_TAGS.sub("\ufffd", values.pop(name, ""))) for name in _TAGS}
    measurement = f"mmkd_{record.__struct_config__.tag}"
    keys = ",".join([measurement, *(f"{name}={text}" for name, text in tags.items() if text)])
    fields = ",".join(field for name, value in values.items() for field in _fields(name, value))
    return f"{keys} {fields} {round(record.decided_s * 1e6) * 1000 + record.number % 1000}"


def _fields(name: str, value: object) -> Iterator[str]:
    match value:
        case tuple():
            for number, part in enumerate(value):
                yield from _fields(f"{name}_{number}", part)
        case int():
            yield f"{name}={value}i"
        case float() if math.isfinite(value):
            yield f"{name}={value!r}"
        case str() if value:
            text = value.replace("\\", "\\\\").replace('"', '\\"')
            yield f'{name}="{text}"'
