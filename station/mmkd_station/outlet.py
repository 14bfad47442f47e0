"""Pass records to a sink in a thread of its own, so that a sink that hangs delays nothing else.

While a sink fails, records wait in memory (and on disk with a store), and are offered again in order.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from mmkd_edge.errors import first_line
from mmkd_station.protocols.base import Backoff, GoneError, RefusedError, Sink
from mmkd_station.records import Record
from mmkd_station.store import Store

logger = logging.getLogger(__name__)

_MAX_WAITING = 10_000
_TOGETHER = 256
DRAIN_S = 5.0


class OutletFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a sink: `waiting` includes records on disk; `fault` is the last error, empty while it works."""

    sink: str
    written: int
    dropped: int
    failures: int
    waiting: int
    fault: str


class Outlet:
    """Writes records to one sink in a thread of its own, and closes it. Thread-safe.

    Args:
        store: keeps records on disk that the sink does not take at once; not closed here.
        key: name of the sink in the store.
        most: records in memory; more go to the store, or the oldest is dropped.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        store: Store | None = None,
        key: str = "",
        most: int = _MAX_WAITING,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self.name = name
        self.is_gone = False
        self._sink = sink
        self._most = most
        self._backoff = backoff()
        self._waiting: deque[Record] = deque()  # `put` appends without the lock: it must not wait for the disk
        self._lock = threading.RLock() if store is None else store.lock
        self._has_news = threading.Event()
        self._closing = threading.Event()
        self._abandon = threading.Event()
        self._written = self._dropped = self._failures = 0
        # Records being tried, and whether they are also in the store, or counted as dropped.
        self._batch: Sequence[Record] = ()
        self._is_kept = False
        self._oldest: Record | None = None  # in memory alone, at the last tick of the store
        self._saving = 0
        self._fault = ""
        self._backlog = None if store is None else store.backlog(key or name, self)
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Add a record and return at once, except that one in `most` waits for the disk of a store."""
        self._waiting.append(record)
        self._has_news.set()
        if len(self._waiting) > self._most:
            if self._backlog is not None:
                self._backlog.store.save(everything=True)
            self._give_up(self._most)

    def _give_up(self, most: int) -> None:
        with self._lock:
            while len(self._waiting) > most:
                self._waiting.popleft()
                self._dropped += 1

    def facts(self) -> OutletFacts:
        """Return the current counters."""
        with self._lock:
            stored, lost = (0, 0) if self._backlog is None else (self._backlog.count, self._backlog.dropped)
            return OutletFacts(
                sink=self.name,
                written=self._written,
                dropped=self._dropped + lost,
                failures=self._failures,
                waiting=len(self._waiting) + (0 if self._is_kept else len(self._batch)) + stored,
                fault=self._fault,
            )

    def close(self, *, drain_s: float = DRAIN_S) -> None:
        """Write records for at most `drain_s` seconds and close; the rest stays in the store, or counts as dropped."""
        self._closing.set()
        self._has_news.set()
        self._thread.join(drain_s)
        self._abandon.set()
        self._thread.join(0.5)
        if self._backlog is not None:
            self._backlog.store.save(everything=True)
        with self._lock:
            if not self._is_kept:
                self._dropped += len(self._batch)
                self._is_kept = True
            self._give_up(0)

    # ---- for the store, with its lock

    def unsaved(self, *, everything: bool) -> tuple[Sequence[Record], Sequence[Record]]:
        """Return records in memory, being tried and waiting; none if they came since the last tick."""
        tried = () if self._is_kept else self._batch
        waiting = tuple(self._waiting)
        oldest = next(iter(tried or waiting), None)
        is_new, self._oldest = oldest is not self._oldest, oldest
        if is_new and not everything:
            tried, waiting = (), ()
        self._saving = len(waiting)
        return tried, waiting

    def saved(self) -> None:
        """Forget the records that `unsaved` returned: they are on disk."""
        self._is_kept = True
        for _ in range(self._saving):
            self._waiting.popleft()

    # ---- in the thread

    def _run(self) -> None:
        while not self._abandon.is_set():
            batch = self._next_batch()
            if self.is_gone or (not batch and self._closing.is_set() and not self.facts().waiting):
                break
            if batch and not self._accepted(batch):
                self._put_back()
                # At the end there are a few more quick tries.
                closing = self._closing.is_set()
                (self._abandon if closing else self._closing).wait(0.2 if closing else self._backoff.next_s())
        with contextlib.suppress(Exception):  # a sink that is gone has nothing to close
            self._sink.close()

    def _next_batch(self) -> Sequence[Record]:
        """Return the oldest records, from the store or else from memory; wait a moment if there are none."""
        if not self.facts().waiting and not self._closing.is_set():
            self._has_news.wait(1.0)
        with self._lock:
            self._has_news.clear()
            self._batch = () if self._backlog is None else self._backlog.oldest(_TOGETHER)
            self._is_kept = bool(self._batch)
            if not self._batch:
                self._batch = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
            return self._batch

    def _settle(self) -> None:
        if self._is_kept and self._backlog is not None:
            self._backlog.sent()
        self._batch, self._is_kept = (), False

    def _accepted(self, batch: Sequence[Record]) -> bool:
        try:
            self._sink.write(batch)
        except GoneError as error:
            self.is_gone, self._fault = True, first_line(error)
            return False
        except RefusedError as error:
            with self._lock:
                self._failures, self._fault = self._failures + 1, first_line(error)
                self._dropped += len(batch)
                self._settle()
            return True
        except Exception as error:  # whatever a sink's library raises, records must wait and stations go on
            with self._lock:
                self._failures += 1
                if not self._fault:
                    logger.warning("sink %s: %s; its records wait", self.name, first_line(error))
                self._fault = first_line(error)
            return False
        with self._lock:
            self._written += len(batch)
            self._fault = ""
            self._settle()
        self._backoff.succeeded()
        return True

    def _put_back(self) -> None:
        with self._lock:
            if not self._is_kept:
                self._waiting.extendleft(reversed(self._batch))
            self._batch, self._is_kept = (), False
        if self._backlog is None:
            self._give_up(self._most)
