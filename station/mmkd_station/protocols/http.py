"""Posts for sinks that speak HTTP."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable

from mmkd_station.protocols.base import RefusedError

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
