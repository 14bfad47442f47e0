"""Sources and sinks, their addresses, and reconnection."""

from __future__ import annotations

import contextlib
import math
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote, unquote

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import ModalitySpec
from mmkd_edge.errors import UsageError, first_line, os_reason
from mmkd_edge.spec import ReplayedRecording
from mmkd_station.intake import Delivery, Intake
from mmkd_station.records import AlarmRecord, Record, ResultRecord

SourceTimeUnit = Literal["s", "ms", "us", "ns"]
# Random fraction, so that stations do not reconnect at once.
_JITTER = 0.2
_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+"
# Column, factor, offset; a column whose name ends alike needs quotes.
_COLUMN = re.compile(
    rf"""(?:"(?P<quoted>[^"]+)"|(?P<plain>.+?))(?:\*(?P<factor>-?(?:{_NUMBER})))?(?P<offset>[-+](?:{_NUMBER}))?"""
)


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The column, factor and offset of each channel."""

    names: tuple[str, ...]
    factors: tuple[float, ...]
    offsets: tuple[float, ...]

    def scaled(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert raw values (n, C) to the modality's unit, float32 (n, C), maybe the same array."""
        if set(self.factors) == {1.0} and set(self.offsets) == {0.0}:
            return rows
        return np.asarray((rows * np.array(self.factors) + np.array(self.offsets)).astype(np.float32))


def map_columns(modality: ModalitySpec, mapping: Mapping[str, str]) -> Columns:
    """Parse `COLUMN[*FACTOR][+OFFSET]` by channel, as `ax=accel.x*9.81+0.2`. Raises UsageError."""
    columns = {channel: (channel, 1.0, 0.0) for channel in modality.channels}
    for channel, text in mapping.items():
        if channel not in columns:
            raise UsageError(
                f"--map {channel}={text}: modality {modality.name!r} has no channel {channel!r}; "
                f"expected one of {', '.join(modality.channels)}"
            )
        match = _COLUMN.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--map {channel}={text}: expected CHANNEL=COLUMN[*FACTOR][+OFFSET], got no column; name it"
            )
        factor, offset = float(match["factor"] or 1), float(match["offset"] or 0)
        if factor == 0 or not math.isfinite(factor) or not math.isfinite(offset):
            raise UsageError(f"--map {channel}={text}: expected a factor other than 0, got {factor:g}; correct it")
        columns[channel] = match["quoted"] or match["plain"], factor, offset
    names, factors, offsets = zip(*columns.values(), strict=True)
    return Columns(names=names, factors=factors, offsets=offsets)


class SourceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a source must give."""

    columns: Columns
    rate_hz: float
    time_column: str = "time"
    time_unit: SourceTimeUnit = "s"
    follow: bool = False  # wait for more at the end of a file
    replay_speed: float | None = None  # multiple of real time; None is as fast as possible
    window_s: float = 0.0
    frame: tuple[int, int, int] | None = None  # (H, W, C) of a video frame, else None
    load_recordings: Callable[[str], Sequence[ReplayedRecording]] = lambda place: ()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An open source. Opening it raises UsageError, or UnavailableError if a library or device is missing."""

    deliveries: Callable[[Intake], Iterator[Delivery]]  # yields samples until the source ends or the intake stops
    live: bool  # its samples are current, so silence means something
    close: Callable[[], object] = lambda: None  # may be called again


class RefusedError(Exception):
    """No try can write some of these records; they are dropped and counted.

    `count` is their number if the sink has taken all others; without it the others are offered again, in parts.
    """

    def __init__(self, reason: str, *, count: int | None = None) -> None:
        super().__init__(reason)
        self.count = count


class GoneError(Exception):
    """Nobody reads this output any more, so the run ends."""


class Sink(Protocol):
    """Takes records in order, from one thread."""

    def write(self, records: Sequence[Record]) -> None:
        """Write all records, or raise; they are offered again, so some may come twice."""

    def close(self) -> None:
        """Disconnect; may be called again."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A network address `mqtts://HOST:PORT/PATH?option=value`. `text` is as written, `path` has no first slash."""

    text: str
    host: str
    port: int
    path: str
    options: dict[str, str]
    user: str = ""

    @property
    def address(self) -> str:
        """`HOST:PORT`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """Return a numeric option. Raises UsageError."""
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

    def choice(self, name: str, known: Collection[str], default: str) -> str:
        """Return an option with fixed choices. Raises UsageError."""
        value = self.options.get(name, default)
        if value not in known:
            raise UsageError(
                f"{self.text}: {name}: expected one of {', '.join(known)}, got {value!r}; choose one of them"
            )
        return value

    def file(self, name: str) -> Path | None:
        """Return an option's file. Raises UsageError if unreadable."""
        if name not in self.options:
            return None
        path = Path(self.options[name])
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"{self.text}: {name}: {path}: {os_reason(error)}") from error
        return path

    def uses_tls(self) -> bool:
        """Return whether the connection is encrypted: yes without `tls=off`. Raises UsageError."""
        return self.choice("tls", ("on", "off"), "on") == "on"

    def credentials(self) -> tuple[str, str] | None:
        """Return user and password from the `credentials` file, one line `USER:PASSWORD`. Raises UsageError."""
        path = self.file("credentials")
        if path is None:
            return None
        user, mark, password = path.read_text(encoding="utf-8").strip().partition(":")
        if not mark or not user:
            raise UsageError(f"{path}: expected one line, USER:PASSWORD, got something else; write it so")
        return user, password


def read_endpoint(text: str, *, scheme: str, options: Collection[str], port: int, takes_user: bool = False) -> Endpoint:
    """Parse a network address that begins with `scheme`, with `USER@` if `takes_user`. Raises UsageError."""
    rest, _, query = text.removeprefix(scheme).partition("?")
    where, _, path = rest.partition("/")
    user, _, address = where.rpartition("@")
    if not takes_user or ":" in user:
        check_no_password(where, form=scheme)
    where = address
    host, mark, number = where.rpartition(":") if not where.endswith("]") else (where, "", "")
    if not mark:
        host, number = where, str(port)
    if not host or not number.isdecimal() or not 0 < int(number) < 65536:
        raise UsageError(f"{text}: expected {scheme}HOST:PORT/..., got no host or no port; write it so")
    given = dict(part.partition("=")[::2] for part in query.split("&") if part)
    unknown = sorted(set(given) - set(options))
    if unknown:
        raise UsageError(f"{text}: expected options among {', '.join(options)}, got {unknown[0]!r}; correct it")
    return Endpoint(text=text, host=host.strip("[]"), port=int(number), path=path, options=given, user=unquote(user))


def with_tls_cure(reason: str) -> str:
    """Add to a reason that concerns TLS what to do about it."""
    cure = "; trust its certificate with ca=FILE, or add tls=off if the server has no TLS"
    return reason + cure * bool(re.search("SSL|certificate", reason))


def check_no_password(where: str, *, form: str) -> None:
    """Raise UsageError for credentials in `where`, which records, logs and errors repeat."""
    user, mark, _ = where.rpartition("@")
    if ":" in user:
        raise UsageError(f"{form}...: expected no password in the text, where others see it; use ?credentials=FILE")
    if mark:
        raise UsageError(
            f"{form}{where}: expected HOST alone, got a user; use ?credentials=FILE, one line USER:PASSWORD"
        )


def url_with_credentials(text: str, url: str) -> tuple[str, str]:
    """Return a URL to show, and one with credentials from their file."""
    base, _, query = url.partition("?")
    parts = query.split("&")
    options = dict(part.partition("=")[::2] for part in parts if part.startswith("credentials="))
    query = "&".join(part for part in parts if not part.startswith("credentials="))
    shown = f"{base}?{query}" if query else base
    credentials = Endpoint(text=text, host="", port=0, path="", options=options).credentials()
    if credentials is None:
        return shown, shown
    user, password = (quote(word, safe="") for word in credentials)
    scheme, _, rest = shown.partition("://")
    return shown, f"{scheme}://{user}:{password}@{rest}"


class Backoff:
    """Waits that double with each failure, with jitter."""

    def __init__(self, *, first_s: float = 1.0, most_s: float = 30.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the seconds to wait after another failure."""
        wait_s = self._next_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._next_s = min(2 * self._next_s, self._most_s)
        return min(max(wait_s, self._first_s), self._most_s)

    def succeeded(self) -> None:
        """Reset to the first wait."""
        self._next_s = self._first_s


class _Connection(Protocol):
    def close(self) -> None: ...


_Open = TypeVar("_Open", bound=_Connection)


def live_source(
    connect: Callable[[], _Open], read: Callable[[_Open, Intake], Iterator[Delivery]], *, name: str
) -> Source:
    """Return a source that reads a connection, and reconnects after OSError within 1 to 30 seconds."""

    def deliveries(intake: Intake) -> Iterator[Delivery]:
        backoff = Backoff()
        intake.expect(name)
        while not intake.stop.is_set():
            connection = None
            try:
                connection = connect()
                intake.connection(True, name, name=name)
                for delivery in read(connection, intake):
                    backoff.succeeded()
                    yield delivery
            except OSError as error:
                reason = first_line(error)
                intake.connection(False, reason if reason.startswith(name) else f"{name}: {reason}", name=name)
                intake.stop.wait(backoff.next_s())
            finally:
                if connection is not None:
                    connection.close()

    return Source(deliveries=deliveries, live=True)


def polled_source(
    connect: Callable[[], _Open],
    sample: Callable[[_Open], list[float]],  # a value per column; NaN is missing. Raises OSError
    *,
    name: str,
    columns: Columns,
    every_s: float,
    wait: Callable[[_Open, float], object] = lambda _, seconds: time.sleep(seconds),
) -> Source:
    """Return a live source that reads a sample every `every_s` seconds."""

    def read(connection: _Open, intake: Intake) -> Iterator[Delivery]:
        due_s = time.monotonic()
        while not intake.stop.is_set():
            values = sample(connection)
            arrived_s = time.monotonic()
            rows = columns.scaled(np.array([values], dtype=np.float64).astype(np.float32))
            yield Delivery(rows=rows, times=None, arrived_s=arrived_s)
            due_s = max(due_s + every_s, arrived_s)
            while (left_s := due_s - time.monotonic()) > 0 and not intake.stop.is_set():
                wait(connection, min(left_s, 0.2))

    return live_source(connect, read, name=name)


class LastResultSink(Sink):
    """Writes the last waiting result and the number of open episodes. `station` None is all stations."""

    def __init__(
        self, connect: Callable[[], Any], write: Callable[[Any, ResultRecord, int], None], *, server: Endpoint
    ) -> None:
        self._connect, self._write = connect, write  # both raise OSError
        self._name, self._station = server.address, server.options.get("station")
        self._connection: Any = None
        self._open: set[tuple[str, int]] = set()

    def write(self, records: Sequence[Record]) -> None:
        """Write the last result, if any. Raises OSError."""
        last = None
        for record in records:
            if self._station not in (None, record.station):
                continue
            if isinstance(record, ResultRecord):
                last = record
            elif isinstance(record, AlarmRecord) and record.event in ("raised", "continued"):
                self._open.add((record.station, record.episode))
            elif isinstance(record, AlarmRecord) and record.event == "cleared":
                self._open.discard((record.station, record.episode))
        if last is None:
            return
        try:
            self._connection = self._connection or self._connect()
            self._write(self._connection, last, len(self._open))
        except OSError as error:
            self.close()
            raise ConnectionError(f"{self._name}: {first_line(error)}") from error

    def close(self) -> None:
        """Disconnect; values stay."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None


def paced_source(
    deliveries: Iterator[Delivery], request: SourceRequest, *, close: Callable[[], object] = lambda: None
) -> Source:
    """Return recorded samples, at `replay_speed` times the pace of their times or expected rate."""

    def paced(intake: Intake) -> Iterator[Delivery]:
        speed = request.replay_speed
        if speed is None:
            yield from deliveries
            return
        began_s, origin_s, count = time.monotonic(), None, 0
        for delivery in deliveries:
            count += len(delivery.rows)
            moment_s = count / request.rate_hz if delivery.times is None else float(delivery.times[-1])
            if origin_s is None:
                origin_s = moment_s if delivery.times is not None else 0.0
            due_s = began_s + (moment_s - origin_s) / speed
            now_s = time.monotonic()
            if not -1.0 <= due_s - now_s <= 60.0:
                began_s, origin_s = now_s, moment_s
            elif due_s > now_s and intake.stop.wait(due_s - now_s):
                return
            yield msgspec.structs.replace(delivery, arrived_s=time.monotonic())

    return Source(deliveries=paced, live=False, close=close)
