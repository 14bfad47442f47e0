"""Who may see the page and who may change something.

On the loopback interface anybody may look, unless a token is set. Otherwise, and for every change, the token is
required, except for local health probes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError, os_reason

COOKIE = "mmkd_session"
_MIN_TOKEN = 16
_MAX_ADDRESSES = 1024
_MAX_GUESSES, _SECONDS_PER_GUESS = 5.0, 5.0
_MAX_GUESSES_OF_ALL, _SECONDS_PER_GUESS_OF_ALL = 50.0, 0.5
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Headers of proxies: RFC 7239, RFC 9110 section 7.6.3, and the older custom with all of `x-forwarded-`.
_FORWARDED = ("forwarded", "via", "x-real-ip")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


def read_proxy(text: str) -> Network:
    """Parse `--behind-proxy`, an address or a network. Raises UsageError."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(
            f"--behind-proxy {text}: expected the IP address or network that the proxy connects from, such as "
            "127.0.0.1 or 172.17.0.0/16, got another text; write it so"
        ) from error


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
    """Decides about requests; `is_open` lets the loopback interface look.

    Only `proxy` may name the client of a request, as the last address of `X-Forwarded-For`.
    """

    def __init__(self, token: str, address: Address, *, is_open: bool, proxy: Network | None = None) -> None:
        self._token = token
        self._is_loopback = address.is_loopback
        self._is_open = is_open and address.is_loopback and proxy is None
        self._proxy = proxy
        self._names = {*_LOCAL_NAMES, in_url(address.host)}

    @property
    def session(self) -> str:
        """Cookie of an authenticated browser."""
        return hashlib.sha256(b"mmkd-session\0" + self._token.encode()).hexdigest()

    def is_token(self, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(given.encode(), self._token.encode())

    def address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the address of a request's client from that of its connection and its `X-Forwarded-For` headers."""
        if self._proxy is None or not forwarded_for:
            return peer
        with contextlib.suppress(ValueError):  # a socket or a header without an address
            parsed = ipaddress.ip_address(peer)
            if (getattr(parsed, "ipv4_mapped", None) or parsed) in self._proxy:
                # What comes before the last address is what the client claims.
                return str(ipaddress.ip_address(forwarded_for[-1].rpartition(",")[2].strip()))
        return peer

    def gives_token(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request has a token or a session, right or wrong."""
        return "authorization" in headers or COOKIE in cookies

    def knows_token(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request has the token (`Authorization: Bearer TOKEN`) or a session cookie."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return hmac.compare_digest(cookies.get(COOKIE, "").encode(), self.session.encode())

    def is_from_here(self, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from no other origin, nor by another name where anybody may look."""
        origin = headers.get("origin")
        if self._is_open and not self._is_local_name(headers):
            return False
        if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
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
        return self._is_loopback and self._is_local_name(headers) and not _is_forwarded(headers)

    def _is_local_name(self, headers: Mapping[str, str]) -> bool:
        host = headers.get("host", "")
        return (host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host) in self._names


def _is_forwarded(headers: Mapping[str, str]) -> bool:
    return any(name in _FORWARDED or name.startswith("x-forwarded-") for name in headers)


class Guesses:
    """Limits wrong tokens per address (five, and one every five seconds) and of all (fifty, and two a second)."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # guesses, and when they were counted
        self._of_all = _MAX_GUESSES_OF_ALL, time.monotonic()

    def take(self, address: str) -> bool:
        """Count a wrong token; return whether it is within both limits."""
        now_s = time.monotonic()
        before, counted_s = self._left.pop(address, (_MAX_GUESSES, now_s))
        left = min(_MAX_GUESSES, before + (now_s - counted_s) / _SECONDS_PER_GUESS)
        before, counted_s = self._of_all
        of_all = min(_MAX_GUESSES_OF_ALL, before + (now_s - counted_s) / _SECONDS_PER_GUESS_OF_ALL)
        is_within = left >= 1 and of_all >= 1
        self._left[address] = left - is_within, now_s
        self._of_all = of_all - is_within, now_s
        if len(self._left) > _MAX_ADDRESSES:
            del self._left[next(iter(self._left))]
        return is_within
