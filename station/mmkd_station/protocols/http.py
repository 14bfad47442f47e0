"""`webhook:URL`: post records as a JSON array; and posts of every sink that speaks HTTP."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError, os_reason, printable
from mmkd_station.protocols.base import RefusedError, Sink
from mmkd_station.records import AlarmRecord, Record, ResultRecord, StateRecord

_KINDS: dict[str, type] = {"result": ResultRecord, "alarm": AlarmRecord, "state": StateRecord}
# Answers that concern a record (RFC 9110, 15.5): malformed, in conflict with an earlier one, too large, invalid. All
# others concern the sink: credentials, address, load, a server that fails or moved.
RECORD_CODES = (400, 409, 413, 422)

_TIMEOUT_S = 10.0


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: records would be lost, and headers would go to another host."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""
        return


_OPENER = urllib.request.build_opener(NoRedirects)


def url_host(url: str) -> str:
    """Return a URL up to its host: the rest is often secret, and pages and logs are read."""
    scheme, mark, rest = url.partition("://")
    return scheme + mark + re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]


def post(
    request: urllib.request.Request,
    *,
    concerns_record: Callable[[urllib.error.HTTPError], bool] = lambda error: error.code in RECORD_CODES,
    opener: urllib.request.OpenerDirector = _OPENER,
) -> None:
    """Post once. Raises RefusedError for an answer that concerns a record, else OSError."""
    host = url_host(request.full_url)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            failure = RefusedError if concerns_record(error) else ConnectionError
        # InfluxDB gives its reason in a header.
        reason = f"{error.code} {error.headers.get('X-Influxdb-Error') or error.reason}"
        if 300 <= error.code < 400:
            address = error.headers.get("Location", "an address it does not name")
            reason = f"{error.code}, moved to {address}; name that address"
        raise failure(printable(f"{host}: {reason}")) from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"{host}: {error.reason}") from error


class WebhookSink(Sink):
    """Posts records; drops and counts those that a server refuses by `RECORD_CODES`."""

    def __init__(self, text: str, place: str) -> None:
        self._url, _, options = place.partition("#")
        if not self._url.startswith(("http://", "https://")) or len(self._url.partition("://")[2]) == 0:
            raise UsageError(f"--sink {text}: expected an address with http:// or https://; write it out")
        given = dict(part.partition("=")[::2] for part in options.split("&") if part)
        unknown = sorted(set(given) - {"kinds", "headers"})
        names = given.get("kinds", "result,alarm,state").split(",")
        unknown += [name for name in names if name not in _KINDS]
        if unknown:
            raise UsageError(
                f"--sink {text}: expected #kinds=result,alarm,state and headers=FILE, got {unknown[0]!r}; correct it"
            )
        self._kinds = tuple(_KINDS[name] for name in names)
        self._headers = {"Content-Type": "application/json"} | _headers(given.get("headers"))

    def write(self, records: Sequence[Record]) -> None:
        """Post records. Raises RefusedError for an answer that concerns a record, else OSError."""
        posted = [record for record in records if isinstance(record, self._kinds)]
        if not posted:
            return
        post(urllib.request.Request(self._url, data=msgspec.json.encode(posted), headers=self._headers))


def _headers(file: str | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{file}: expected a file of headers: {os_reason(error)}") from error
    pairs = [line.partition(":") for line in lines if line.strip()]
    if not all(mark and name.strip().replace("-", "").isalnum() for name, mark, _ in pairs):
        raise UsageError(f"{file}: expected lines of 'Name: value', got another; correct it")
    return {name.strip(): value.strip() for name, _, value in pairs}
