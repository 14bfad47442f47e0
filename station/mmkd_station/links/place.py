"""How another machine is named: `mqtts://HOST:PORT/PATH?option=value`.

Owns the reading of such a text. An option that a protocol does not know is refused: a misspelt one would be silent.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import msgspec

from mmkd_edge.errors import UsageError, fault_of


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Another machine, and what is wanted there.

    Attributes:
        text: as it was written, for messages.
        host: a name or an address.
        port: 0 where none was named.
        path: behind the host, without its first slash.
        options: behind the question mark.
    """

    text: str
    host: str
    port: int
    path: str
    options: dict[str, str]

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """An option that is a number. Raises UsageError where it is none, or out of its range."""
        text = self.options.get(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise UsageError(
                f"{self.text}: {name}: expected a number from {least:g} to {most:g}, got {text!r}; correct it"
            )
        return value

    def one_of(self, name: str, known: Collection[str], default: str) -> str:
        """An option that is one of some words. Raises UsageError where it is none of them."""
        value = self.options.get(name, default)
        if value not in known:
            raise UsageError(
                f"{self.text}: {name}: expected one of {', '.join(known)}, got {value!r}; choose one of them"
            )
        return value

    def file(self, name: str) -> Path | None:
        """An option that names a file. Raises UsageError where it cannot be read."""
        if name not in self.options:
            return None
        path = Path(self.options[name])
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"{self.text}: {name}: {path}: {fault_of(error)}") from error
        return path

    def credentials(self) -> tuple[str, str] | None:
        """The user and the password in the file that `credentials` names: one line, `USER:PASSWORD`.

        Raises:
            UsageError: the file cannot be read, or has no such line.
        """
        path = self.file("credentials")
        if path is None:
            return None
        user, mark, password = path.read_text(encoding="utf-8").strip().partition(":")
        if not mark or not user:
            raise UsageError(f"{path}: expected one line, USER:PASSWORD, got something else; write it so")
        return user, password


def check_no_password(where: str, *, form: str) -> None:
    """Refuse a user or a password in what records, logs and errors repeat.

    Args:
        where: what may hold one.
        form: what the text begins with, for the message, which never has the rest.

    Raises:
        UsageError: there is an `@`.
    """
    if "@" in where:
        raise UsageError(f"{form}...: expected no password in the text, where others see it; use ?credentials=FILE")


def url_with_credentials(text: str, url: str) -> tuple[str, str]:
    """A URL for people, and for a library: with the user and the password of the file that `credentials` names.

    Args:
        text: all of what was written, for messages.
        url: with its scheme; its other options are left to the other side.

    Raises:
        UsageError: as of `Place.credentials`.
    """
    base, _, query = url.partition("?")
    parts = query.split("&")
    options = dict(part.partition("=")[::2] for part in parts if part.startswith("credentials="))
    query = "&".join(part for part in parts if not part.startswith("credentials="))
    shown = f"{base}?{query}" if query else base
    found = Place(text=text, host="", port=0, path="", options=options).credentials()
    if found is None:
        return shown, shown
    user, password = (quote(word, safe="") for word in found)
    scheme, _, rest = shown.partition("://")
    return shown, f"{scheme}://{user}:{password}@{rest}"


def place_of(text: str, *, scheme: str, options: Collection[str], port: int) -> Place:
    """Reads the name of another machine.

    Args:
        text: all of it.
        scheme: that it begins with, `mqtt://`.
        options: that the protocol knows.
        port: where none is named.

    Raises:
        UsageError: there is no host, the port is none, or an option is unknown.
    """
    rest, _, query = text.removeprefix(scheme).partition("?")
    where, _, path = rest.partition("/")
    check_no_password(where, form=scheme)
    host, mark, number = where.rpartition(":") if not where.endswith("]") else (where, "", "")
    if not mark:
        host, number = where, str(port)
    if not host or not number.isdecimal() or not 0 < int(number) < 65536:
        raise UsageError(f"{text}: expected {scheme}HOST:PORT/..., got no host or no port; write it so")
    found = dict(part.partition("=")[::2] for part in query.split("&") if part)
    unknown = sorted(set(found) - set(options))
    if unknown:
        raise UsageError(f"{text}: expected options among {', '.join(options)}, got {unknown[0]!r}; correct it")
    return Place(text=text, host=host.strip("[]"), port=int(number), path=path, options=found)
