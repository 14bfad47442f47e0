"""`webhook:URL`: post records as a JSON array; and posts of every sink that speaks HTTP."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError, os_reason
from mmkd_station.protocols.base import RefusedError, Sink
from mmkd_station.records import AlarmRecord, Record, ResultRecord, StateRecord

_KINDS: dict[str, type] = {"result": ResultRecord, "alarm": AlarmRecord, "state": StateRecord}
# Another try may help: timeout, too early, too many.
_TRANSIENT = (408, 425, 429)

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
    is_final: Callable[[urllib.error.HTTPError], bool],
    opener: urllib.request.OpenerDirector = _OPENER,
) -> None:
    """Post once. Raises RefusedError for a final or moved answer, else OSError."""
    host = url_host(request.full_url)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            failure = RefusedError if is_final(error) else ConnectionError
        if 300 <= error.code < 400:
            address = error.headers.get("Location", "an address it does not name")
            raise RefusedError(f"{host}: {error.code}, moved to {address}; name that address") from error
        # InfluxDB gives its reason in a header.
        reason = f"{host}: {error.code} {error.headers.get('X-Influxdb-Error') or error.reason}"
        raise failure(reason) from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"{host}: {error.reason}") from error


class WebhookSink(Sink):
    """Posts records; drops and counts those refused for good."""

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
        """Post records. Raises RefusedError if the server refuses them for good, else OSError."""
        posted = [record for record in records if isinstance(record, self._kinds)]
        if not posted:
            return
        request = urllib.request.Request(self._url, data=msgspec.json.encode(posted), headers=self._headers)
        post(request, is_final=lambda error: 400 <= error.code < 500 and error.code not in _TRANSIENT)


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
