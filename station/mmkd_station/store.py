"""Keep unsent records, and the last alarm of each label, in one SQLite file.

A record may be offered twice but never changes: its station, boot and number identify it. While the disk is not
writable, records stay in memory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mmkd_edge.errors import UsageError, os_reason
from mmkd_station.records import AlarmRecord, Record, record_from_line, record_line

logger = logging.getLogger(__name__)

FILE_NAME = "records.sqlite"
_TICK_S = 0.1
_TRIES_AGAIN_S = 1.0
# A full or failed disk; other errors mean a wrong folder.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (sink TEXT, id INTEGER, line BLOB, PRIMARY KEY (sink, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alarms (station TEXT, label TEXT, line BLOB, PRIMARY KEY (station, label)) WITHOUT ROWID;
"""


class _MemoryQueue(Protocol):
    """Records of one sink in memory, newer than those on disk. Called with the lock of the store."""

    def unsaved(self, *, everything: bool) -> tuple[Sequence[Record], Sequence[Record]]:
        """Return records being tried and records that wait; if not `everything`, none that came since the last tick."""
        ...

    def saved(self) -> None: ...


class Store:
    """Records and alarms on disk. Thread-safe. Raises UsageError if the folder cannot be used by this process.

    Args:
        folder: created if it does not exist; locked until `close`.
        most_bytes: limit per sink; beyond it the oldest records are dropped.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self.lock = threading.RLock()
        self._path = folder / FILE_NAME
        self._most_bytes = most_bytes
        self._backlogs: list[_Backlog] = []
        self._alarms: dict[tuple[str, str], AlarmRecord] = {}  # not on the disk yet
        self._fault, self._tried_s = "", 0.0
        self._connection: sqlite3.Connection | None = None
        self._last_id = 0
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, OSError) and error.errno not in _DISK_ERRORS:
                raise UsageError(f"{folder}: expected a folder for records that wait: {os_reason(error)}") from error
            if "locked" in str(error):
                raise UsageError(
                    f"{folder}: expected a folder for the records of one mmkd-run, got one that another mmkd-run has; "
                    "stop that one, or name another --store"
                ) from error
            self._fail(error)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def backlog(self, sink: str, queue: _MemoryQueue) -> _Backlog:
        """Return the records of a sink on disk; records that stay in `queue` for a tick are added."""
        with self.lock:
            backlog = _Backlog(self, sink, queue)
            self._backlogs.append(backlog)
            return backlog

    def last_alarms(self) -> list[AlarmRecord]:
        """Return the last alarm that raised, continued or cleared an episode, per label and station."""
        records = _readable([line for (line,) in self.rows("SELECT line FROM alarms ORDER BY station, label")])
        return [record for record in records if isinstance(record, AlarmRecord)]

    @contextlib.contextmanager
    def together(self, alarm: AlarmRecord) -> Iterator[None]:
        """Put an alarm into queues in this block: no sink gets it before it is on disk for all of them."""
        with self.lock:
            yield
            if alarm.event in ("raised", "continued", "cleared"):
                self._alarms[alarm.station, alarm.label] = alarm
            self.save(everything=True)

    def save(self, *, everything: bool) -> None:
        """Write waiting records (if not `everything`, those older than a tick) and delete sent ones."""
        with self.lock:
            if self._fault and time.monotonic() - self._tried_s < _TRIES_AGAIN_S:
                return
            for backlog in self._backlogs:
                backlog.collect(everything=everything)
            if not (self._alarms or any(backlog.is_changed for backlog in self._backlogs)):
                return
            try:
                self._write()
            except (OSError, sqlite3.Error) as error:
                self._fail(error)
                return
            if self._fault:
                logger.warning("%s: can be written again", self._path)
            self._fault = ""

    def rows(self, query: str, *values: object) -> list[Any]:
        """Return the rows of a query; none if the file cannot be read."""
        with self.lock:
            try:
                return [] if self._connection is None else self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._fail(error)
                return []

    def close(self) -> None:
        """Save what waits and unlock the folder; may be called again."""
        self._closing.set()
        self._thread.join()
        with self.lock:
            if self._connection is not None:
                self.save(everything=True)
                self._connection.close()
                self._connection = None
                self._backlogs.clear()

    def _run(self) -> None:
        while not self._closing.wait(_TICK_S):
            self.save(everything=False)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = _connected(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"{FILE_NAME}.damaged")
            logger.warning("%s: damaged: %s; kept as %s, and a new file is begun", self._path, error, aside.name)
            self._path.replace(aside)
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(f"{FILE_NAME}-wal").replace(aside.with_name(f"{aside.name}-wal"))
            connection = _connected(self._path)
        self._last_id = connection.execute("SELECT COALESCE(MAX(id), 0) FROM records").fetchone()[0]
        for backlog in self._backlogs:  # records of an earlier run wait for the next start
            backlog.sent_until = backlog.deleted_until = self._last_id
        self._connection = connection

    def _write(self) -> None:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        last_id = self._last_id
        with self._connection as connection:
            for backlog in self._backlogs:
                rows = [(backlog.sink, number, line) for number, line in enumerate(backlog.lines, start=last_id + 1)]
                last_id += len(rows)
                connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
                sent = backlog.sink, backlog.deleted_until, backlog.sent_until
                connection.execute("DELETE FROM records WHERE sink = ? AND id > ? AND id <= ?", sent)
            alarms = [(alarm.station, alarm.label, record_line(alarm)) for alarm in self._alarms.values()]
            connection.executemany("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?)", alarms)
        self._alarms.clear()
        for backlog in self._backlogs:
            self._last_id = backlog.written(after=self._last_id)
        for backlog in self._backlogs:
            self._give_up(connection, backlog)

    def _give_up(self, connection: sqlite3.Connection, backlog: _Backlog) -> None:
        """Delete the oldest records of a sink beyond its limit, except those being tried."""
        excess_bytes = backlog.size_bytes - self._most_bytes
        if excess_bytes <= 0:
            return
        after = until = max(backlog.sent_until, backlog.offered_until)
        query = "SELECT id, LENGTH(line) FROM records WHERE sink = ? AND id > ? ORDER BY id"
        count = size_bytes = 0
        for until, length in connection.execute(query, (backlog.sink, after)):  # noqa: B007 - the last one is used
            count, size_bytes = count + 1, size_bytes + length
            if size_bytes >= excess_bytes:
                break
        with connection:
            connection.execute(
                "DELETE FROM records WHERE sink = ? AND id > ? AND id <= ?", (backlog.sink, after, until)
            )
        backlog.count -= count
        backlog.size_bytes -= size_bytes
        backlog.dropped += count

    def _fail(self, error: Exception) -> None:
        text = os_reason(error) if isinstance(error, OSError) else str(error)
        if not self._fault:
            logger.warning("%s: cannot be used: %s; records wait in memory", self._path, text)
        self._fault, self._tried_s = text, time.monotonic()


class _Backlog:
    """The records of one sink on disk, all older than those in memory.

    `lines` are added by the next transaction; `offered_until`, `sent_until`, `deleted_until` are ids of last records.
    """

    def __init__(self, store: Store, sink: str, queue: _MemoryQueue) -> None:
        self.sink = sink
        self.store = store
        self.dropped = 0
        self.lines: list[bytes] = []
        self.offered_until = self.sent_until = self.deleted_until = 0
        self._queue = queue
        self._tried = 0
        self._offered_count = self._offered_bytes = self._unreadable = 0
        totals = store.rows("SELECT COUNT(*), COALESCE(SUM(LENGTH(line)), 0) FROM records WHERE sink = ?", sink)
        self.count: int = totals[0][0] if totals else 0
        self.size_bytes: int = totals[0][1] if totals else 0

    @property
    def is_changed(self) -> bool:
        return bool(self.lines) or self.sent_until > self.deleted_until

    def collect(self, *, everything: bool) -> None:
        tried, waiting = self._queue.unsaved(everything=everything)
        self._tried = len(tried)
        self.lines = [record_line(record) for record in (*tried, *waiting)]

    def written(self, *, after: int) -> int:
        """Note that the transaction is on disk with ids from `after` + 1; return the last id."""
        self.deleted_until = self.sent_until
        if not self.lines:
            return after
        self.count += len(self.lines)
        self.size_bytes += sum(map(len, self.lines))
        if self._tried:
            self._offer(self.lines[: self._tried], until=after + self._tried)
        last_id, self.lines = after + len(self.lines), []
        self._queue.saved()
        return last_id

    def oldest(self, most: int) -> list[Record]:
        """Return the oldest records, at most so many; drop unreadable ones."""
        query = "SELECT id, line FROM records WHERE sink = ? AND id > ? ORDER BY id LIMIT ?"
        with self.store.lock:
            while self.count:
                rows = self.store.rows(query, self.sink, self.sent_until, most)
                if not rows:
                    self.dropped += self.count
                    self.count = self.size_bytes = 0
                    break
                records = self._offer([line for _, line in rows], until=rows[-1][0])
                if records:
                    return records
                self.sent()
            return []

    def _offer(self, lines: Sequence[bytes], *, until: int) -> list[Record]:
        records = _readable(lines)
        self.offered_until = until
        self._offered_count, self._offered_bytes = len(lines), sum(map(len, lines))
        self._unreadable = len(lines) - len(records)
        return records

    def sent(self) -> None:
        with self.store.lock:
            self.sent_until = self.offered_until
            self.count -= self._offered_count
            self.size_bytes -= self._offered_bytes
            self.dropped += self._unreadable
            self._offered_count = self._offered_bytes = self._unreadable = 0


def _connected(path: Path) -> sqlite3.Connection:
    """Connect exclusively. Raises sqlite3.DatabaseError if the file is damaged."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=0.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("database disk image is malformed")  # noqa: TRY301
    except BaseException:
        connection.close()
        raise
    return connection


def _readable(lines: Sequence[bytes]) -> list[Record]:
    records = []
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError):
            records.append(record_from_line(line))
    return records
