"""Unsent records and each label's last alarm, in one SQLite file; in memory while the disk is not writable.

A record may be offered twice but never changes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError, os_reason
from mmkd_station.records import AlarmRecord, Record, record_from_line, record_line

logger = logging.getLogger(__name__)

FILE_NAME = "records.sqlite"
_TICK_S = 0.1
_TRIES_AGAIN_S = 1.0
# Full or failed disk; others mean a wrong folder.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_DELETE = "DELETE FROM records WHERE sink = ? AND id > ? AND id <= ?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (sink TEXT, id INTEGER, line BLOB, PRIMARY KEY (sink, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alarms (station TEXT, label TEXT, line BLOB, PRIMARY KEY (station, label)) WITHOUT ROWID;
"""


class Store:
    """Records and alarms on disk. Thread-safe. Raises UsageError if this process cannot use the folder."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self.lock = threading.RLock()
        self._path = folder / FILE_NAME  # made if needed, locked until `close`
        self._most_bytes = most_bytes  # per sink; beyond it the oldest records are dropped
        self.queues: list[RecordQueue] = []
        self._alarms: dict[tuple[str, str], AlarmRecord] = {}  # not on the disk yet
        self._fault, self._tried_s = "", 0.0
        self._connection: sqlite3.Connection | None = None
        self.last_id = 0
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

    def last_alarms(self) -> list[AlarmRecord]:
        """Return each last alarm that raised, continued or cleared, per label and station."""
        try:
            records = _readable([line for (line,) in self.rows("SELECT line FROM alarms ORDER BY station, label")])
        except sqlite3.Error:
            return []
        return [record for record in records if isinstance(record, AlarmRecord)]

    @contextlib.contextmanager
    def together(self, alarm: AlarmRecord) -> Iterator[None]:
        """Queue an alarm in this block: no sink gets it before it is on disk for all."""
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
            changes = [queue.collect(everything=everything) for queue in self.queues]
            if not (self._alarms or any(changes)):
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
        """Return a query's rows, none while there is no file; log and raise sqlite3.Error if it cannot be read."""
        with self.lock:
            try:
                return [] if self._connection is None else self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._fail(error)
                raise

    def close(self) -> None:
        """Save records and unlock the folder; may be called again."""
        self._closing.set()
        self._thread.join()
        with self.lock:
            if self._connection is not None:
                self.save(everything=True)
                self._connection.close()
                self._connection = None
                self.queues.clear()

    def _run(self) -> None:
        while not self._closing.wait(_TICK_S):
            self.save(everything=False)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = _connect(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"{FILE_NAME}.damaged")
            logger.warning("%s: damaged: %s; kept as %s, and a new file is begun", self._path, error, aside.name)
            self._path.replace(aside)
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(f"{FILE_NAME}-wal").replace(aside.with_name(f"{aside.name}-wal"))
            connection = _connect(self._path)
        self.last_id = connection.execute("SELECT COALESCE(MAX(id), 0) FROM records").fetchone()[0]
        for queue in self.queues:  # earlier records wait for the next start
            queue.sent_until = queue.deleted_until = self.last_id
        self._connection = connection

    def _write(self) -> None:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        last_id = self.last_id
        with self._connection as connection:
            for queue in self.queues:
                rows = [(queue.sink, number, line) for number, line in enumerate(queue.lines, start=last_id + 1)]
                last_id += len(rows)
                connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
                connection.execute(_DELETE, (queue.sink, queue.deleted_until, queue.sent_until))
            alarms = [(alarm.station, alarm.label, record_line(alarm)) for alarm in self._alarms.values()]
            connection.executemany("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?)", alarms)
        self._alarms.clear()
        for queue in self.queues:
            self.last_id = queue.written(after=self.last_id)
        for queue in self.queues:
            self._drop_oldest(connection, queue)

    def _drop_oldest(self, connection: sqlite3.Connection, queue: RecordQueue) -> None:
        """Delete a sink's oldest records beyond its limit, not those being tried."""
        excess_bytes = queue.stored.size_bytes - self._most_bytes
        if excess_bytes <= 0:
            return
        after = until = max(queue.sent_until, 0 if queue.offered is None else queue.offered.until)
        query = "SELECT id, LENGTH(line) FROM records WHERE sink = ? AND id > ? ORDER BY id"
        dropped = _Rows()
        for until, length in connection.execute(query, (queue.sink, after)):  # noqa: B007 - the last one is used
            dropped.count, dropped.size_bytes = dropped.count + 1, dropped.size_bytes + length
            if dropped.size_bytes >= excess_bytes:
                break
        with connection:
            connection.execute(_DELETE, (queue.sink, after, until))
        queue.forget(dropped)
        queue.dropped += dropped.count

    def _fail(self, error: Exception) -> None:
        text = os_reason(error) if isinstance(error, OSError) else str(error)
        if not self._fault:
            logger.warning("%s: cannot be used: %s; records wait in memory", self._path, text)
        self._fault, self._tried_s = text, time.monotonic()


class _Rows(msgspec.Struct):
    """`until` is the last id."""

    count: int = 0
    size_bytes: int = 0
    unreadable: int = 0
    until: int = 0


class RecordQueue:
    """Records that a sink has not taken, oldest first: on disk, then in memory. Thread-safe; `most` as in `Outlet`."""

    def __init__(self, sink: str, *, store: Store | None, most: int) -> None:
        self.sink = sink
        self.lock = threading.RLock() if store is None else store.lock
        self.dropped = 0
        self.lines: list[bytes] = []  # added by the store's next transaction
        self.stored = _Rows()
        self.offered: _Rows | None = None  # the offered records, if on disk
        self.sent_until = self.deleted_until = 0  # ids of the last records sent and deleted
        self._store = store
        self._most = most
        self._memory: deque[Record] = deque()  # `put` appends without the lock, so it never waits for the disk
        self._batch: list[Record] = []
        self._oldest: Record | None = None  # only in memory, at the store's last tick
        self._save_counts = 0, 0
        if store is not None:
            with self.lock:
                query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(line)), 0) FROM records WHERE sink = ?"
                try:
                    for count, size_bytes in store.rows(query, sink):
                        self.stored = _Rows(count, size_bytes)
                except sqlite3.Error:  # earlier records wait for the next start
                    self.sent_until = self.deleted_until = store.last_id
                store.queues.append(self)

    def put(self, record: Record) -> None:
        """Add a record; see `Outlet.put`."""
        self._memory.append(record)
        if len(self._memory) > self._most:
            if self._store is not None:
                self._store.save(everything=True)
            self._drop(self._most)

    def _drop(self, most: int) -> None:
        with self.lock:
            while len(self._memory) > most:
                self._memory.popleft()
                self.dropped += 1

    def waiting(self) -> int:
        """Return the number of records, offered ones included."""
        with self.lock:
            return len(self._memory) + self.stored.count + (len(self._batch) if self.offered is None else 0)

    def offer(self, most: int) -> list[Record]:
        """Return at most `most` of the oldest records that can be read."""
        with self.lock:
            self._batch = self._read_batch(most)
            if not self._batch:
                self.offered = None
                self._batch = [self._memory.popleft() for _ in range(min(most, len(self._memory)))]
            return self._batch

    def _read_batch(self, most: int) -> list[Record]:
        query = "SELECT id, line FROM records WHERE sink = ? AND id > ? ORDER BY id LIMIT ?"
        while self._store is not None and self.stored.count:
            try:
                rows = self._store.rows(query, self.sink, self.sent_until, most)
            except sqlite3.Error:  # they stay on disk; later ones need not wait
                break
            if not rows:
                self.dropped += self.stored.count
                self.stored = _Rows()
                break
            lines = [line for _, line in rows]
            records = _readable(lines)
            self.offered = _Rows(len(lines), sum(map(len, lines)), len(lines) - len(records), rows[-1][0])
            if records:
                return records
            self.settle()
        return []

    def settle(self) -> None:
        """Forget the offered records, taken or refused."""
        with self.lock:
            if self.offered is not None:
                self.sent_until = max(self.sent_until, self.offered.until)
                self.forget(self.offered)
                self.dropped += self.offered.unreadable
            self._batch, self.offered = [], None

    def forget(self, rows: _Rows) -> None:
        """Subtract records deleted from disk."""
        self.stored.count -= rows.count
        self.stored.size_bytes -= rows.size_bytes

    def put_back(self) -> None:
        """Put the offered records back."""
        with self.lock:
            if self.offered is None:
                self._memory.extendleft(reversed(self._batch))
            self._batch, self.offered = [], None
        if self._store is None:
            self._drop(self._most)

    def close(self) -> None:
        """Save the records, or count them as dropped."""
        if self._store is not None:
            self._store.save(everything=True)
        with self.lock:
            if self.offered is None:
                self.dropped += len(self._batch)
                self.offered = _Rows()
            self._drop(0)

    def collect(self, *, everything: bool) -> bool:
        """Return whether the next transaction concerns the queue; `everything` includes records newer than a tick."""
        # Behind records that could not be read a tried one is not saved: sending it would delete them.
        tried = self._batch if self.offered is None and not self.stored.count else []
        waiting = list(self._memory)
        oldest = next(iter([*tried, *waiting]), None)
        is_new, self._oldest = oldest is not self._oldest, oldest
        if is_new and not everything:
            tried, waiting = [], []
        self._save_counts = len(tried), len(waiting)
        self.lines = [record_line(record) for record in (*tried, *waiting)]
        return bool(self.lines) or self.sent_until > self.deleted_until

    def written(self, *, after: int) -> int:
        """Note that ids from `after` + 1 are on disk; return the last id."""
        self.deleted_until = self.sent_until
        tried, waiting = self._save_counts
        if tried:
            self.offered = _Rows(tried, sum(map(len, self.lines[:tried])), 0, after + tried)
        for _ in range(waiting):
            self._memory.popleft()
        self.stored.count += len(self.lines)
        self.stored.size_bytes += sum(map(len, self.lines))
        last_id, self.lines = after + len(self.lines), []
        return last_id


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(0o600)
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
