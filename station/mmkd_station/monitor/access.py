"""Who may see the page and who may change something.

On the loopback interface anybody may look, unless a token or an origin is set. Otherwise, and for every change, the
token is required, except for local health probes. Other origins are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mmkd_edge.errors import UsageError, os_reason

COOKIE = "mmkd_session"
_MIN_TOKEN = 16
_MAX_ADDRESSES = 1024
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Headers of proxies: RFC 7239, and the older custom.
_FORWARDED = ("forwarded", "x-forwarded-for")
_USUAL_PORTS = {"http": 80, "https": 443}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the page is served; port 0 takes any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_address(text: str) -> Address:
    """Parse `HOST:PORT`, `:PORT` or `PORT`. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise UsageError(f"--monitor {text}: expected HOST:PORT, such as 127.0.0.1:8090, got no port; write it so")
    return Address(host=host.strip("[]") or "127.0.0.1", port=int(port))


def read_origin(text: str) -> str:
    """Parse `SCHEME://HOST[:PORT]`, as in the `Origin` header. Raises UsageError."""
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in _USUAL_PORTS or "@" in parts.netloc or parts.path not in ("", "/"):
        raise UsageError(
            f"--monitor-origin {text}: expected what the browser shows before the path, such as "
            "https://plant.example; write it so"
        )
    return f"{parts.scheme}://{in_url(host)}" + ("" if port in (None, _USUAL_PORTS[parts.scheme]) else f":{port}")


def in_url(host: str) -> str:
    """Put IPv6 hosts in brackets for a URL."""
    return f"[{host}]" if ":" in host else host


def token_from(file: Path | None) -> str:
    """Return a file's token, or a new one without a file. Raises UsageError."""
    if file is None:
        return secrets.token_urlsafe(18)
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{file}: expected a file with the token of the page: {reason}") from error
    if len(token) < _MIN_TOKEN:
        raise UsageError(
            f"{file}: expected a token of {_MIN_TOKEN} characters or more, got {len(token)}; make it longer"
        )
    return token


class Access:
    """Decides about requests: `is_open` lets the loopback interface look; `origin` is a proxy's."""

    def __init__(self, token: str, address: Address, *, is_open: bool, origin: str | None = None) -> None:
        self._token = token
        self._is_alone = address.is_loopback and origin is None
        self._is_open = is_open and self._is_alone
        self._origin = origin
        self._names = {*_LOCAL_NAMES, in_url(address.host)} if address.is_loopback else None

    @property
    def session(self) -> str:
        """Cookie of an authenticated browser."""
        return hashlib.sha256(b"mmkd-session\0" + self._token.encode()).hexdigest()

    def is_token(self, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(given.encode(), self._token.encode())

    def knows_token(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request has the token (`Authorization: Bearer TOKEN`) or a session cookie."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return hmac.compare_digest(cookies.get(COOKIE, "").encode(), self.session.encode())

    def is_from_here(self, headers: Mapping[str, str]) -> bool:
        """Whether a request names this machine, and comes from no other origin."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        seen = None if self._origin is None else self._origin.partition("://")[2]
        if self._names is not None and name not in self._names and host != seen:
            return False
        origin = headers.get("origin")
        if origin is not None and origin != self._origin and origin.partition("://")[2] != host:
            return False
        # Any site may link here, but only the page may send requests.
        return headers.get("sec-fetch-mode") == "navigate" or headers.get("sec-fetch-site", "none") in (
            "none",
            "same-origin",
        )

    def may_look(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request may see anything."""
        return (self._is_open and not _is_forwarded(headers)) or self.knows_token(headers, cookies)

    def may_probe(self, headers: Mapping[str, str]) -> bool:
        """Whether a request may probe health without the token."""
        return self._is_alone and not _is_forwarded(headers)


def _is_forwarded(headers: Mapping[str, str]) -> bool:
    return any(name in headers for name in _FORWARDED)


class Guesses:
    """Limits wrong tokens per address."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def take(self, address: str) -> bool:
        """Count a wrong token; return whether the address is within its limit."""
        bucket = self._buckets.pop(address, None) or Bucket(rate_hz=0.2, burst=5)
        self._buckets[address] = bucket
        if len(self._buckets) > _MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take()


class Bucket:
    """Rate limit with bursts."""

    def __init__(self, *, rate_hz: float, burst: int) -> None:
        self._rate_hz = rate_hz
        self._burst = float(burst)
        self._left = float(burst)
        self._seen_s = time.monotonic()

    def take(self) -> bool:
        """Count a request; return whether it is within the limit."""
        now_s = time.monotonic()
        self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._rate_hz)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
