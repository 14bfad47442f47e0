"""Pass records to a sink in a thread; while it hangs or fails they wait in order, in memory or on disk."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Sequence

import msgspec

from mmkd_edge.errors import first_line
from mmkd_station.protocols.base import Backoff, GoneError, RefusedError, Sink
from mmkd_station.records import Record
from mmkd_station.store import RecordQueue, Store

logger = logging.getLogger(__name__)

_MAX_WAITING = 10_000
_TOGETHER = 256
_MOST_REASONS = 16  # of refusals, in the log
DRAIN_S = 5.0


class OutletFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Counters; `waiting` includes records on disk; `fault` is empty while the sink works."""

    sink: str
    written: int
    dropped: int
    failures: int
    waiting: int
    fault: str


class Outlet:
    """Writes records to one sink in a thread, and closes it. Thread-safe."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        store: Store | None = None,  # saves records that the sink does not take at once; not closed here
        key: str = "",  # name of the sink in the store
        most: int = _MAX_WAITING,  # records in memory; more go to the store, or the oldest is dropped
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self.name = name
        self.is_gone = False
        self._sink = sink
        self._backoff = backoff()
        self.queue = RecordQueue(key or name, store=store, most=most)
        self._closing = threading.Event()
        self._abandon = threading.Event()
        self._written = self._failures = 0
        self._together = _TOGETHER  # fewer after a refusal, until the refused record is alone
        self._fault = ""
        self._reasons: set[str] = set()  # of refusals that are in the log, without numbers
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Add a record without waiting; one in `most` waits for a store's disk."""
        self.queue.put(record)

    def facts(self) -> OutletFacts:
        """Return the current counters."""
        with self.queue.lock:
            return OutletFacts(
                sink=self.name,
                written=self._written,
                dropped=self.queue.dropped,
                failures=self._failures,
                waiting=self.queue.waiting(),
                fault=self._fault,
            )

    def close(self, *, drain_s: float = DRAIN_S) -> None:
        """Write records for at most `drain_s` and close; store or drop the rest."""
        self.queue.save()  # what waits for the store's next tick
        self._closing.set()
        self.queue.has_news.set()
        self._thread.join(drain_s)
        self._abandon.set()
        self._thread.join(0.5)
        self.queue.close()

    # ---- in the thread

    def _run(self) -> None:
        while not self._abandon.is_set():
            self.queue.has_news.clear()
            batch = self.queue.offer(self._together)
            if not batch:
                if self._closing.is_set():
                    break
                self.queue.has_news.wait(1.0)
            if batch and not self._write_batch(batch):
                self.queue.put_back()
                if self.is_gone:
                    break
                if self._together < len(batch):  # a part of it may be taken
                    continue
                # A few quick tries at the end.
                closing = self._closing.is_set()
                (self._abandon if closing else self._closing).wait(0.2 if closing else self._backoff.next_s())
        with contextlib.suppress(Exception):  # a sink that is gone has nothing to close
            self._sink.close()

    def _write_batch(self, batch: Sequence[Record]) -> bool:
        fault, refused = "", 0
        try:
            self._sink.write(batch)
        except GoneError as error:
            self.is_gone, self._fault = True, first_line(error)
            return False
        except RefusedError as error:
            if error.count is None and len(batch) > 1:
                self._together = len(batch) // 2
                return False
            fault, refused = first_line(error), error.count or len(batch)
            kind = re.sub(r"\d+", "", fault)
            if kind not in self._reasons and len(self._reasons) < _MOST_REASONS:
                self._reasons.add(kind)
                logger.warning("sink %s: %s; such records are dropped and counted", self.name, fault)
        except Exception as error:  # whatever a sink raises, records wait and stations go on
            with self.queue.lock:
                self._failures += 1
                if not self._fault:
                    logger.warning("sink %s: %s; its records wait", self.name, first_line(error))
                self._fault = first_line(error)
            return False
        with self.queue.lock:
            self._fault = fault
            self._failures += refused > 0
            self.queue.dropped += refused
            self._written += len(batch) - refused
            if not refused:
                self._together = min(2 * self._together, _TOGETHER)
                self._backoff.succeeded()
            self.queue.settle()
        return True
