"""`webhook:URL`: post records as a JSON array.

Options follow a `#`: `kinds=alarm,state` posts only these, `headers=FILE` adds the file's `Name: value` lines.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError, os_reason
from mmkd_station.protocols.base import Sink
from mmkd_station.protocols.http import post
from mmkd_station.records import AlarmRecord, Record, ResultRecord, StateRecord

_KINDS: dict[str, type] = {"result": ResultRecord, "alarm": AlarmRecord, "state": StateRecord}
# Another try may help: timeout, too early, too many.
_TRANSIENT = (408, 425, 429)


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
