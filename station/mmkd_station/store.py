"""Unsent records and each label's last alarm, in one SQLite file; in memory while the disk is not writable.

A record is on disk for all its sinks, by one transaction, before any of them sees it. It may be offered twice but never
changes: each row has a checksum, and a damaged one is left out and counted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError, os_reason, printable
from mmkd_station.records import AlarmRecord, Record, record_from_line, record_line

logger = logging.getLogger(__name__)

FILE_NAME = "records.sqlite"
_TICK_S = 0.1  # at most one transaction in it
_IDLE_S = 1.0  # then records that were sent are deleted
_TRIES_AGAIN_S = 1.0
# Full or failed disk; others mean a wrong folder.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_DELETE = "DELETE FROM records WHERE sink = ? AND id > ? AND id <= ?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (sink TEXT, id INTEGER, line BLOB, sum INTEGER, PRIMARY KEY (sink, id))
WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alarms (station TEXT, label TEXT, line BLOB, sum INTEGER, PRIMARY KEY (station, label))
WITHOUT ROWID;
"""
_KEYS = {"records": ("sink", "id"), "alarms": ("station", "label")}
_TYPES = {"sink": str, "id": int, "line": bytes, "sum": int, "station": str, "label": str}


class Store:
    """Records and alarms on disk. Thread-safe. Raises UsageError if this process cannot use the folder."""

    def __init__(self, folder: Path, *, most_bytes: int, loss_s: float = 0.0) -> None:
        self.lock = threading.RLock()  # of the file, and of what is offered
        self._path = folder / FILE_NAME  # made if needed, locked until `close`
        self._most_bytes = most_bytes  # per sink; beyond it the oldest records are dropped
        self._loss_s = loss_s  # if above 0, sinks get results at once, and those still unsent are saved within it
        self.queues: list[RecordQueue] = []
        self.left_out: Counter[str] = Counter()  # damaged records, by sink
        self._gate = threading.Lock()  # of what is put; nobody waits for the disk in it
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
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def sends_unsaved(self) -> bool:
        """Whether sinks may see records that are not on disk: by choice, or because it takes none."""
        return self._loss_s > 0 or bool(self._fault)

    def last_alarms(self) -> list[AlarmRecord]:
        """Return each last alarm that raised, continued or cleared, per label and station."""
        try:
            rows = self.rows("SELECT station, label, line, sum FROM alarms ORDER BY station, label")
        except sqlite3.Error:
            return []
        records = _readable([row[2] for row in rows])
        return [record for record in records if isinstance(record, AlarmRecord)]

    def put(self, record: Record, queues: Sequence[RecordQueue]) -> None:
        """Queue a record for its sinks, without waiting for the disk unless a queue is full; see `Store`."""
        is_alarm = isinstance(record, AlarmRecord)
        if any(queue.is_full for queue in queues):
            self.save()
        # Alarms are on disk first, whatever may be lost.
        with self.lock if is_alarm and self._loss_s > 0 else contextlib.nullcontext():
            with self._gate:
                for queue in queues:
                    queue.add(record)
                if isinstance(record, AlarmRecord) and record.event in ("raised", "continued", "cleared"):
                    self._alarms[record.station, record.label] = record
            if is_alarm and self._loss_s > 0:
                self.save()
        for queue in queues:
            queue.drop_excess()
        if not self._loss_s:
            self._news.set()

    def save(self, *, everything: bool = True) -> None:
        """Write waiting records (if not `everything`, those older than a tick) and delete sent ones."""
        with self.lock:
            if self._fault and time.monotonic() - self._tried_s < _TRIES_AGAIN_S:
                return
            with self._gate:
                alarms = dict(self._alarms)
                changes = [queue.collect(everything=everything) for queue in self.queues]
            if not (alarms or any(changes)):
                return
            try:
                self._write(alarms)
            except (OSError, sqlite3.Error) as error:
                self._fail(error)
                return
            with self._gate:
                for key, alarm in alarms.items():
                    if self._alarms[key] is alarm:
                        del self._alarms[key]
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
        self._news.set()
        self._thread.join()
        with self.lock:
            if self._connection is not None:
                self.save()
                self._connection.close()
                self._connection = None
                self.queues.clear()

    def _run(self) -> None:
        while not self._closing.wait(self._loss_s / 2 or _TICK_S):
            if not self._loss_s:
                self._news.wait(_IDLE_S)
                self._news.clear()
            self.save(everything=not self._loss_s)

    def _open(self) -> None:
        _make_folder(self._path.parent)
        try:
            connection = self._read()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such "):
                raise
            aside = self._path.with_name(f"{FILE_NAME}.damaged")
            logger.warning("%s: damaged: %s; kept as %s, and a new file is begun", self._path, error, aside.name)
            self._path.replace(aside)
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(f"{FILE_NAME}-wal").replace(aside.with_name(f"{aside.name}-wal"))
            connection = self._read()
        self.last_id = connection.execute("SELECT COALESCE(MAX(id), 0) FROM records").fetchone()[0]
        for queue in self.queues:  # earlier records wait for the next start
            queue.sent_until = queue.deleted_until = self.last_id
        self._connection = connection

    def _read(self) -> sqlite3.Connection:
        connection = _connect(self._path)
        try:
            with connection:
                self._leave_out_damaged(connection)
        except BaseException:
            connection.close()  # which ends its lock
            raise
        return connection

    def _leave_out_damaged(self, connection: sqlite3.Connection) -> None:
        for table, keys in _KEYS.items():
            for row in connection.execute(f"SELECT {', '.join(keys)}, line, sum FROM {table}").fetchall():
                if reason := _damage(keys, row):
                    where = printable(" ".join(map(str, row[:2])))
                    logger.warning("%s: %s: %s: %s; it is left out", self._path, table, where, reason)
                    connection.execute(f"DELETE FROM {table} WHERE {keys[0]} IS ? AND {keys[1]} IS ?", row[:2])
                    self.left_out[str(row[0])] += table == "records"

    def _write(self, alarms: Mapping[tuple[str, str], AlarmRecord]) -> None:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        last_id = self.last_id
        with self._connection as connection:
            for queue in self.queues:
                rows = [
                    (queue.sink, number, line, checksum(queue.sink, number, line))
                    for number, line in enumerate(queue.lines, start=last_id + 1)
                ]
                last_id += len(rows)
                connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
                connection.execute(_DELETE, (queue.sink, queue.deleted_until, queue.sent_until))
            lines = [(*key, record_line(alarm)) for key, alarm in alarms.items()]
            changed = [(*row, checksum(*row)) for row in lines]
            connection.executemany("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?, ?)", changed)
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
        for queue in self.queues:  # what waited for the disk goes out without it
            queue.has_news.set()


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
        self.has_news = threading.Event()  # records can be offered
        self.lock = threading.RLock() if store is None else store.lock
        self.dropped = 0
        self.lines: list[bytes] = []  # added by the store's next transaction
        self.stored = _Rows()
        self.offered: _Rows | None = None  # the offered records, if on disk
        self.sent_until = self.deleted_until = 0  # ids of the last records sent and deleted
        self._store = store
        self._most = most
        self._memory: deque[Record] = deque()  # `add` appends without the lock, so it never waits for the disk
        self._batch: list[Record] = []
        self._oldest: Record | None = None  # only in memory, at the store's last tick
        self._save_counts = 0, 0
        if store is not None:
            with self.lock:
                query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(line)), 0) FROM records WHERE sink = ?"
                try:
                    for count, size_bytes in store.rows(query, sink):
                        self.stored = _Rows(count, size_bytes)
                        self.dropped = store.left_out.pop(sink, 0)
                except sqlite3.Error:  # earlier records wait for the next start
                    self.sent_until = self.deleted_until = store.last_id
                store.queues.append(self)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another record in memory."""
        return len(self._memory) >= self._most

    def put(self, record: Record) -> None:
        """Add a record for this sink alone; see `Outlet.put`."""
        if self._store is not None:
            self._store.put(record, [self])
        else:
            self.add(record)
            self.drop_excess()

    def add(self, record: Record) -> None:
        """Append a record in memory."""
        self._memory.append(record)
        if self._store is None or self._store.sends_unsaved:
            self.has_news.set()

    def drop_excess(self) -> None:
        """Drop the oldest records that have no room in memory."""
        if len(self._memory) > self._most:
            self._drop(self._most)

    def save(self) -> None:
        """Write records to disk, if there is a store."""
        if self._store is not None:
            self._store.save()

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
                if self._store is None or self._store.sends_unsaved:
                    self._batch = [self._memory.popleft() for _ in range(min(most, len(self._memory)))]
            return self._batch

    def _read_batch(self, most: int) -> list[Record]:
        query = "SELECT sink, id, line, sum FROM records WHERE sink = ? AND id > ? ORDER BY id LIMIT ?"
        while self._store is not None and self.stored.count:
            try:
                rows = self._store.rows(query, self.sink, self.sent_until, most)
            except sqlite3.Error:  # they stay on disk; later ones need not wait
                break
            if not rows:
                self.dropped += self.stored.count
                self.stored = _Rows()
                break
            records = _readable([row[2] for row in rows if not _damage(_KEYS["records"], row)])
            size_bytes = sum(len(line or b"") for _, _, line, _ in rows)
            self.offered = _Rows(len(rows), size_bytes, len(rows) - len(records), rows[-1][1])
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
        self.save()
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
        if self.stored.count:
            self.has_news.set()
        return last_id


def _make_folder(folder: Path) -> None:
    """Make a folder whose name a loss of power does not take; SQLite flushes the names in it."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in absent:
        with contextlib.suppress(PermissionError):  # of Windows, whose journal keeps names
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(0o600)
    connection = sqlite3.connect(path, timeout=0.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.text_factory = lambda text: text.decode(errors="replace")  # a damaged one is left out
        connection.executescript(_SCHEMA)
        for table, keys in _KEYS.items():
            _add_checksums(connection, table, keys)
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("database disk image is malformed")  # noqa: TRY301
    except BaseException:
        connection.close()
        raise
    return connection


def _add_checksums(connection: sqlite3.Connection, table: str, keys: tuple[str, str]) -> None:
    """Give the rows of a file from before checksums theirs."""
    if "sum" not in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
        connection.create_function("checksum", 3, checksum)
        with connection:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN sum INTEGER")
            connection.execute(f"UPDATE {table} SET sum = checksum({', '.join(keys)}, line)")


def _readable(lines: Sequence[bytes]) -> list[Record]:
    records = []
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError):
            records.append(record_from_line(line))
    return records


def checksum(*parts: object) -> int:
    """Return the CRC-32 of a row's columns."""
    return zlib.crc32(b"\0".join(part if isinstance(part, bytes) else str(part).encode() for part in parts))


def _damage(keys: tuple[str, str], row: Sequence[object]) -> str:
    """Return why a row with these keys, its line and its checksum is not what was written, or empty."""
    for name, value in zip((*keys, "line", "sum"), row, strict=True):
        if not isinstance(value, _TYPES[name]):
            return f"{name}: expected {_TYPES[name].__name__}, got {type(value).__name__}"
    return "" if checksum(*row[:3]) == row[3] else "its checksum differs"
