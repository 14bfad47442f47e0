"""Between the stations and a sink: a thread and a bounded queue, so that a sink that hangs holds up nobody.

Owns what happens while a sink fails: its records wait, in memory or in a store on the disk, and are offered again in
their order, after one second, then two, at most thirty.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from mmkd_edge.errors import first_line
from mmkd_edge.live.links.backoff import Backoff
from mmkd_edge.live.records import Record
from mmkd_edge.live.sinks.base import GoneError, RefusedError, Sink
from mmkd_edge.live.sinks.store import Store

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
_TOGETHER = 256
# After the end records have so long to get out.
DRAIN_S = 5.0


class OutletFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a sink is doing.

    Attributes:
        sink: as it was named.
        written: records that it took.
        dropped: records that were given up because too many waited.
        failures: how often it failed.
        waiting: records that wait now, in memory and on the disk.
        fault: what it said when it failed last; empty while it works.
    """

    sink: str
    written: int
    dropped: int
    failures: int
    waiting: int
    fault: str


class Outlet:
    """Writes records to one sink in a thread of its own. May be shared by threads.

    Args:
        name: of the sink, as it was named.
        sink: closed by `close`.
        store: where records wait on the disk while the sink fails; None keeps them in memory alone.
        most: records that wait in memory; then the oldest is given up, or goes to the store.
        backoff: waits between two tries.

    Attributes:
        name: of the sink, as it was named.
        is_gone: whether nobody will ever read there again: the standard output was closed.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        store: Store | None = None,
        most: int = MOST_WAITING,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self.name = name
        self.is_gone = False
        self._sink = sink
        self._store = store
        self._most = most
        self._backoff = backoff()
        self._waiting: deque[Record] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._abandon = threading.Event()
        self._written = self._dropped = self._failures = 0
        # What the sink is trying, and whether it waits elsewhere too: in the store, or counted as dropped.
        self._batch: list[Record] = []
        self._is_kept = False
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Take a record; returns at once, but for one record in `most`, which waits for the disk of a store."""
        with self._changed:
            if len(self._waiting) >= self._most:
                if self._store is not None:
                    self._leave()
                while len(self._waiting) >= self._most:
                    self._waiting.popleft()
                    self._dropped += 1
            self._waiting.append(record)
            self._changed.notify()

    def _leave(self) -> None:
        """Keep all that is in memory elsewhere, in order: in the store, or counted as dropped."""
        batch = [] if self._is_kept else self._batch
        self._is_kept = True
        if self._store is None:
            self._dropped += len(batch) + len(self._waiting)
        else:
            if batch:
                self._store.offer(batch)
            if self._waiting:
                self._store.append(list(self._waiting))
        self._waiting.clear()

    def facts(self) -> OutletFacts:
        """How the sink is doing."""
        with self._changed:
            stored = 0 if self._store is None else self._store.count
            lost = 0 if self._store is None else self._store.dropped
            return OutletFacts(
                sink=self.name,
                written=self._written,
                dropped=self._dropped + lost,
                failures=self._failures,
                waiting=len(self._waiting) + (0 if self._is_kept else len(self._batch)) + stored,
                fault=self._fault,
            )

    def close(self, *, drain_s: float = DRAIN_S) -> None:
        """Write what waits, for so many seconds at most, and close the sink.

        What is left then stays in the store, or is counted as dropped.
        """
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(drain_s)
        self._abandon.set()
        self._thread.join(0.5)
        with self._changed:
            self._leave()
        if self._store is not None:
            self._store.close()

    # ---- in the thread

    def _run(self) -> None:
        while not self._abandon.is_set():
            batch = self._taken()
            if self.is_gone or (not batch and self._closing.is_set() and not self.facts().waiting):
                break
            if batch and not self._accepted(batch):
                self._keep(batch)
                # At the end a sink that is away is asked a few more times, quickly.
                closing = self._closing.is_set()
                (self._abandon if closing else self._closing).wait(0.2 if closing else self._backoff.next_s())
        with contextlib.suppress(Exception):  # a sink that is gone has nothing to close
            self._sink.close()

    def _taken(self) -> list[Record]:
        """The oldest records, from the store or else from memory; waits a moment where there are none."""
        stored = [] if self._store is None else self._store.oldest(_TOGETHER)
        with self._changed:
            if stored:
                self._batch, self._is_kept = stored, True
                return stored
            if not self._waiting and not self._closing.is_set():
                self._changed.wait(1.0)
            if self._store is not None and self._store.count:  # left there meanwhile, and older than what is in memory
                return []
            batch = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
            self._batch, self._is_kept = batch, False
            return batch

    def _settled(self, count: int) -> None:
        """So many need not be offered again."""
        if self._is_kept and self._store is not None:
            self._store.sent(count)
        self._batch, self._is_kept = [], False

    def _accepted(self, batch: list[Record]) -> bool:
        """Whether the sink took them."""
        try:
            self._sink.write(batch)
        except GoneError as error:
            self.is_gone, self._fault = True, first_line(error)
            return False
        except RefusedError as error:
            with self._changed:
                self._failures, self._fault = self._failures + 1, first_line(error)
                self._dropped += len(batch)
                self._settled(len(batch))
            return True
        except Exception as error:  # whatever a sink's library raises, records must wait and stations go on
            with self._changed:
                self._failures += 1
                if not self._fault:
                    logger.warning("sink %s: %s; its records wait", self.name, first_line(error))
                self._fault = first_line(error)
            return False
        with self._changed:
            self._written += len(batch)
            self._fault = ""
            self._settled(len(batch))
        self._backoff.succeeded()
        return True

    def _keep(self, batch: list[Record]) -> None:
        """Put what was not taken back where it came from; with a store everything goes to the disk."""
        with self._changed:
            if not self._is_kept:
                self._waiting.extendleft(reversed(batch))
            self._batch, self._is_kept = [], False
            while self._store is None and len(self._waiting) > self._most:
                self._waiting.popleft()
                self._dropped += 1
            moved = [] if self._store is None else list(self._waiting)
            self._waiting = self._waiting if self._store is None else deque()
        if self._store is not None and moved:  # without the lock: who puts a record must not wait for the disk
            self._store.append(moved)
