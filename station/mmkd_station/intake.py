"""Queue from the threads that read sources to the thread that answers."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

_MAX_WAITING = 1024
_WAKE_S = 0.1


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """Samples that arrived together."""

    rows: NDArray[Any]  # float32 (n, C) in the modality's unit, NaN = missing; video uint8 (n, H, W, C)
    times: NDArray[np.float64] | None  # float64 (n,) seconds on the source's clock, or None
    arrived_s: float  # `time.monotonic()`
    sensor: int = 0  # its number in the station
    waited: bool = False  # samples waited to be read, as a file's lines do, so arrival is not their time


class IntakeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Counters; `garbage` counts messages and lines that were not samples."""

    deliveries: int
    samples: int
    dropped: int
    garbage: int
    connects: int
    queued: int


class Intake:
    """Queues deliveries; if full, drops the oldest (`may_drop`) or makes the source wait. `stop` ends the sources."""

    def __init__(self, *, may_drop: bool, most: int = _MAX_WAITING) -> None:
        self.stop = threading.Event()
        self.last_garbage = ""
        self._most = most
        self._may_drop = may_drop
        self._waiting: deque[Delivery] = deque()
        self._coming: Counter[int] = Counter()  # by sensor, those that wait for room included
        self._changed = threading.Condition()
        self._ended = False
        self._counts: Counter[str] = Counter()
        self._notes: deque[tuple[bool, str]] = deque(maxlen=64)
        self._unconnected: dict[str, str] = {}  # why not, by the name of the connection

    def put(self, delivery: Delivery) -> None:
        """Add a delivery; wait for room if nothing may be dropped."""
        with self._changed:
            self._counts["deliveries"] += 1
            self._counts["samples"] += len(delivery.rows)
            self._coming[delivery.sensor] += 1
            while len(self._waiting) >= self._most and not self._ended:
                if self._may_drop:
                    self._counts["dropped"] += len(self._pop().rows)
                else:
                    self._changed.wait(_WAKE_S)
            if self._ended:  # it comes too late to be answered
                self._coming[delivery.sensor] -= 1
                self._counts["dropped"] += len(delivery.rows)
                return
            self._waiting.append(delivery)
            self._changed.notify_all()

    def take(self, *, timeout_s: float) -> Delivery | None:
        """Return the oldest delivery; None after `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._waiting:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or self._ended:
                    return None
                self._changed.wait(left_s)
            delivery = self._pop()
            self._changed.notify_all()
            return delivery

    def _pop(self) -> Delivery:
        delivery = self._waiting.popleft()
        self._coming[delivery.sensor] -= 1
        return delivery

    def awaits(self, sensor: int) -> bool:
        """Return whether a delivery of this sensor waits."""
        with self._changed:
            return self._coming[sensor] > 0

    def end(self) -> None:
        """Accept nothing more; waiting deliveries can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether the queue is empty and closed."""
        with self._changed:
            return self._ended and not self._waiting

    def garbage(self, reason: str, *, count: int = 1) -> None:
        """Count messages or lines that are not samples."""
        with self._changed:
            self._counts["garbage"] += count
            self.last_garbage = reason

    def expect(self, name: str) -> None:
        """Note that a source begins to connect."""
        with self._changed:
            self._unconnected[name] = f"{name}: no answer"

    def connection(self, connected: bool, reason: str, *, name: str) -> None:
        """Note that a source connected or was lost."""
        with self._changed:
            self._counts["connects"] += connected
            self._notes.append((connected, reason))
            if connected:
                self._unconnected.pop(name, None)
            elif name in self._unconnected:
                self._unconnected[name] = reason

    def notes(self) -> list[tuple[bool, str]]:
        """Return arguments of `connection` since the last call."""
        with self._changed:
            notes = list(self._notes)
            self._notes.clear()
            return notes

    @property
    def unconnected(self) -> tuple[str, ...]:
        """The last reason of each source that has never connected."""
        with self._changed:
            return tuple(self._unconnected.values())

    def facts(self) -> IntakeFacts:
        """Return the current counters."""
        with self._changed:
            counts = {name: self._counts[name] for name in IntakeFacts.__struct_fields__}
            return IntakeFacts(**counts | {"queued": len(self._waiting)})
