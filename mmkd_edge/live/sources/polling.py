"""Sources that ask: one sample at a time, at a pace, over a connection that may break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from mmkd_edge.errors import first_line
from mmkd_edge.live.backoff import Backoff
from mmkd_edge.live.channels import Columns
from mmkd_edge.live.intake import Delivery, Listener


class Asked(Protocol):
    """One connection to what is asked."""

    def sample(self) -> list[float]:
        """A value for each column; NaN is missing. Raises OSError where it breaks."""
        ...

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def asked_again(
    connect: Callable[[], Asked], *, name: str, columns: Columns, every_s: float, listener: Listener
) -> Iterator[Delivery]:
    """Samples at a pace; a connection that breaks is made again after 1 to 30 seconds.

    Args:
        connect: makes a connection; raises OSError where it cannot.
        name: of the other side, for people.
        columns: what the values are multiplied with, and what is added.
        every_s: from one sample to the next. One that took longer is followed by the next at once.
        listener: learns of the connection.
    """
    backoff = Backoff()
    while not listener.stop.is_set():
        try:
            connection = connect()
        except OSError as error:
            listener.connection(False, first_line(error))
            backoff.wait(listener.stop)
            continue
        listener.connection(True, name)
        try:
            for delivery in _samples(connection, columns, every_s, listener):
                backoff.succeeded()
                yield delivery
        except OSError as error:
            listener.connection(False, first_line(error))
            backoff.wait(listener.stop)
        finally:
            connection.close()


def _samples(connection: Asked, columns: Columns, every_s: float, listener: Listener) -> Iterator[Delivery]:
    due_s = time.monotonic()
    while not listener.stop.is_set():
        values = connection.sample()
        arrived_s = time.monotonic()
        rows = columns.scaled(np.array([values], dtype=np.float64).astype(np.float32))
        yield Delivery(rows=rows, times=None, arrived_s=arrived_s)
        due_s = max(due_s + every_s, arrived_s)
        while (left_s := due_s - time.monotonic()) > 0 and not listener.stop.is_set():
            connection.wait(min(left_s, 0.2))
