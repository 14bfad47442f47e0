"""Connections that break and are made again, and sources that ask over one: a sample at a time, at a pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from mmkd_edge.errors import first_line
from mmkd_station.channels import Columns
from mmkd_station.intake import Delivery, Listener
from mmkd_station.links.backoff import Backoff


class Connection(Protocol):
    """What is open, and may break."""

    def close(self) -> None:
        """End it."""
        ...


class PolledConnection(Connection, Protocol):
    """One connection to what is asked."""

    def sample(self) -> list[float]:
        """A value for each column; NaN is missing. Raises OSError where it breaks."""
        ...

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        ...


_Open = TypeVar("_Open", bound=Connection)


def asked_again(
    connect: Callable[[], PolledConnection], *, name: str, columns: Columns, every_s: float, listener: Listener
) -> Iterator[Delivery]:
    """Samples at a pace, over a connection as of `made_again`.

    Args:
        connect: makes a connection; raises OSError where it cannot.
        name: of the other side, for people.
        columns: what the values are multiplied with, and what is added.
        every_s: from one sample to the next. One that took longer is followed by the next at once.
        listener: learns of the connection.
    """
    yield from made_again(
        connect, lambda connection: _samples(connection, columns, every_s, listener), name=name, listener=listener
    )


def made_again(
    connect: Callable[[], _Open],
    deliveries_of: Callable[[_Open], Iterator[Delivery]],
    *,
    name: str,
    listener: Listener,
) -> Iterator[Delivery]:
    """What a connection delivers; one that breaks is made again after 1 to 30 seconds.

    Args:
        connect: makes a connection; raises OSError where it cannot.
        deliveries_of: reads it until it breaks, with OSError, or the listener stops.
        name: of the other side, for people.
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
            for delivery in deliveries_of(connection):
                backoff.succeeded()
                yield delivery
        except OSError as error:
            listener.connection(False, first_line(error))
            backoff.wait(listener.stop)
        finally:
            connection.close()


def _samples(connection: PolledConnection, columns: Columns, every_s: float, listener: Listener) -> Iterator[Delivery]:
    due_s = time.monotonic()
    while not listener.stop.is_set():
        values = connection.sample()
        arrived_s = time.monotonic()
        rows = columns.scaled(np.array([values], dtype=np.float64).astype(np.float32))
        yield Delivery(rows=rows, times=None, arrived_s=arrived_s)
        due_s = max(due_s + every_s, arrived_s)
        while (left_s := due_s - time.monotonic()) > 0 and not listener.stop.is_set():
            connection.wait(min(left_s, 0.2))
