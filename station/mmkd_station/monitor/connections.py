"""Connections to the page: those that wait for a client are closed in time, so that the next client finds a place.

A connection waits for its client while no whole request has arrived, or while nobody reads its answer. uvicorn limits
neither: it ends a connection that rests between two requests, and counts all of them against `limit_concurrency`.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

MOST_CONNECTIONS = 256
WAIT_LIMIT_S = 20.0
"""A large window over a slow network needs seconds."""


class Connections:
    """Makes the connections of a server and closes those that wait too long, or for whose place another one asks.

    Args:
        protocol: uvicorn's class of a connection with h11.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._waiting: dict[Any, tuple[object, float]] = {}  # the last request of each, and since when it may wait

    def connect(self, **arguments: Any) -> Any:
        """A new connection; uvicorn calls this for each."""
        self._forget_closed()
        if len(self._waiting) >= MOST_CONNECTIONS:
            self._make_room()
        connection = self._protocol(**arguments)
        self._waiting[connection] = None, time.monotonic()
        return connection

    async def close_late(self) -> None:
        """Close connections that have waited too long; uvicorn calls this once a second."""
        self._forget_closed()
        now_s = time.monotonic()
        for connection, (request, since_s) in self._waiting.items():
            if not _is_waiting(connection) or connection.cycle is not request:
                self._waiting[connection] = connection.cycle, now_s
            elif now_s - since_s > WAIT_LIMIT_S:
                connection.transport.abort()

    def _make_room(self) -> None:
        """Close a connection that waits: the one that has waited longest, of the address that holds most."""
        waiting = [connection for connection in self._waiting if _is_waiting(connection)]
        if not waiting:
            return
        held = Counter(_host(connection) for connection in self._waiting)
        first = max(waiting, key=lambda connection: (held[_host(connection)], -self._waiting[connection][1]))
        first.transport.abort()
        del self._waiting[first]

    def _forget_closed(self) -> None:
        closed = [one for one in self._waiting if one.transport is not None and one not in one.connections]
        for connection in closed:
            del self._waiting[connection]


def _is_waiting(connection: Any) -> bool:
    """Whether it is the client's turn; not before the connection is set up."""
    import h11  # comes with uvicorn

    return connection.transport is not None and (
        connection.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        or connection.flow.write_paused
        or connection.transport.is_closing()
    )


def _host(connection: Any) -> str:
    return connection.client[0] if connection.client else ""
