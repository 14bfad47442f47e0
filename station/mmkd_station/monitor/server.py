"""Serve the page in a thread; close connections that wait too long for a client.

uvicorn closes only idle connections between requests, and counts all for `limit_concurrency`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mmkd_edge.errors import UsageError, os_reason
from mmkd_edge.machine import require_modules
from mmkd_station.monitor.access import Access, Address, in_url
from mmkd_station.monitor.app import MonitorApp
from mmkd_station.monitor.app import logger as app_logger
from mmkd_station.service import Service

_MAX_CONNECTIONS = 256
WAIT_LIMIT_S = 20.0
"""A large window over a slow network needs seconds."""
_ENDS_WITHIN_S = 3.0
_SAME_LOG_LINE_S = 60.0
_SPARE_CONNECTIONS = 64  # above the limit that closes waiting ones; beyond, uvicorn refuses


@contextlib.contextmanager
def serve_page(service: Service, *, address: Address, access: Access) -> Iterator[str]:
    """Serve the page inside the block; yield its URL. Raises UsageError, UnavailableError without starlette."""
    require_modules(("starlette", "uvicorn"), by="--monitor", extra="monitor")
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    connections = _Connections(H11Protocol)
    listening = _open_socket(address)
    host, port = listening.getsockname()[:2]
    stopping = threading.Event()
    monitor = MonitorApp(service, access=access, stopping=stopping)
    config = uvicorn.Config(
        monitor.app(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        http=connections.connect,  # type: ignore[arg-type] # uvicorn calls it
        callback_notify=connections.close_late,
        timeout_notify=-(1 << 60),  # each second, also after the clock was set back
        backlog=64,  # accepted at once: each is read before 256 later ones replace it
        server_header=False,
        proxy_headers=False,  # else it trusts them from this machine; `Access` judges them
        timeout_graceful_shutdown=1,
        limit_concurrency=_MAX_CONNECTIONS + _SPARE_CONNECTIONS,
    )
    loggers, is_new = (app_logger, logging.getLogger("uvicorn.error")), _repetition_filter()
    for logger in loggers:
        logger.addFilter(is_new)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="page", daemon=True)
    thread.start()
    try:
        yield f"http://{in_url(host)}:{port}/"
    finally:
        stopping.set()
        server.should_exit = True
        thread.join(_ENDS_WITHIN_S)
        listening.close()
        for logger in loggers:
            logger.removeFilter(is_new)


def _repetition_filter() -> Callable[[logging.LogRecord], bool]:
    """Pass each message once a minute: clients must not fill a disk."""
    seen: dict[tuple[str, object], float] = {}

    def is_new(record: logging.LogRecord) -> bool:
        key = record.msg, record.exc_info and record.exc_info[0]
        now_s = time.monotonic()
        if now_s - seen.get(key, -_SAME_LOG_LINE_S) < _SAME_LOG_LINE_S:
            return False
        seen[key] = now_s
        return True

    return is_new


def _open_socket(address: Address) -> socket.socket:
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(128)  # clients that connect before the server runs wait for it
    except OSError as error:
        reason = os_reason(error)
        raise UsageError(
            f"--monitor {address.host}:{address.port}: cannot listen there: {reason}; choose another address or port"
        ) from error
    return listening


class _Connections:
    """Connections of uvicorn's h11 class; closes those that wait longest."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._waiting: dict[Any, tuple[object, float]] = {}  # last request, start of the wait

    def connect(self, **arguments: Any) -> Any:
        self._forget_closed()
        if len(self._waiting) >= _MAX_CONNECTIONS:
            waiting = (connection for connection in self._waiting if _is_waiting(connection))
            oldest = min(waiting, key=lambda connection: self._waiting[connection][1], default=None)
            if oldest is not None:
                oldest.transport.abort()
                del self._waiting[oldest]
        connection = self._protocol(**arguments)
        self._waiting[connection] = None, time.monotonic()
        return connection

    async def close_late(self) -> None:
        """Close connections that waited too long; uvicorn calls this once a second."""
        self._forget_closed()
        now_s = time.monotonic()
        for connection, (request, since_s) in self._waiting.items():
            if not _is_waiting(connection) or connection.cycle is not request:
                self._waiting[connection] = connection.cycle, now_s
            elif now_s - since_s > WAIT_LIMIT_S:
                connection.transport.abort()

    def _forget_closed(self) -> None:
        closed = [each for each in self._waiting if each.transport is not None and each not in each.connections]
        for connection in closed:
            del self._waiting[connection]


def _is_waiting(connection: Any) -> bool:
    """Whether it is the client's turn."""
    import h11  # comes with uvicorn

    return connection.transport is not None and (
        connection.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        or connection.flow.write_paused
        or connection.transport.is_closing()
    )
