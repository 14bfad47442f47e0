"""The server behind the page: a thread beside the stations."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from mmkd_edge.errors import UnavailableError, UsageError, fault_of
from mmkd_station.monitor.access import Access, Address, in_url
from mmkd_station.monitor.app import MonitorApp
from mmkd_station.monitor.app import logger as app_logger
from mmkd_station.monitor.board import Board
from mmkd_station.service import Service

_ENDS_WITHIN_S = 3.0
_SAME_LOG_LINE_S = 60.0
_SPARE_CONNECTIONS = 64  # above the limit that closes waiting ones: if so many are being answered, uvicorn refuses


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """A page that is served.

    Attributes:
        url: where it is.
    """

    url: str


@contextlib.contextmanager
def page_of(
    service: Service, boards: Mapping[str, Board], *, address: Address, access: Access, serve_predict: bool
) -> Iterator[Open]:
    """Serves the page of a service while the block runs.

    Raises:
        UsageError: the address cannot be used.
        UnavailableError: starlette or uvicorn is not installed.
    """
    uvicorn, protocol = _uvicorn()
    from mmkd_station.monitor.connections import MOST_CONNECTIONS, Connections

    connections = Connections(protocol)
    listening = _listening(address)
    host, port = listening.getsockname()[:2]
    stopping = threading.Event()
    monitor = MonitorApp(service, boards, access=access, stopping=stopping, serve_predict=serve_predict)
    config = uvicorn.Config(
        monitor.app(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        http=connections.connect,
        callback_notify=connections.close_late,
        timeout_notify=-(1 << 60),  # at each tick of a second, also after the clock was set back
        backlog=64,  # of which so many are accepted at once: each is read before 256 later ones take its place
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=MOST_CONNECTIONS + _SPARE_CONNECTIONS,
    )
    loggers, is_new = (app_logger, logging.getLogger("uvicorn.error")), _repetition_filter()
    for logger in loggers:
        logger.addFilter(is_new)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="page", daemon=True)
    thread.start()
    try:
        yield Open(url=f"http://{in_url(host)}:{port}/")
    finally:
        stopping.set()
        server.should_exit = True
        thread.join(_ENDS_WITHIN_S)
        listening.close()
        for logger in loggers:
            logger.removeFilter(is_new)


def _repetition_filter() -> Callable[[logging.LogRecord], bool]:
    """Lets each message pass once a minute, whatever its arguments: clients must not fill a disk with log lines."""
    seen: dict[tuple[str, object], float] = {}

    def is_new(record: logging.LogRecord) -> bool:
        key = record.msg, record.exc_info and record.exc_info[0]
        now_s = time.monotonic()
        if now_s - seen.get(key, -_SAME_LOG_LINE_S) < _SAME_LOG_LINE_S:
            return False
        seen[key] = now_s
        return True

    return is_new


def _listening(address: Address) -> socket.socket:
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(128)  # whoever asks before the server runs waits for it
    except OSError as error:
        reason = fault_of(error)
        raise UsageError(
            f"--monitor {address.host}:{address.port}: cannot listen there: {reason}; choose another address or port"
        ) from error
    return listening


def _uvicorn() -> tuple[Any, Any]:
    """uvicorn, and its class of a connection."""
    try:
        import starlette  # noqa: F401 - the page needs both
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError as error:
        raise UnavailableError(
            "--monitor needs starlette and uvicorn, which this Python lacks; run: pip install 'mmkd-edge[monitor]'"
        ) from error
    return uvicorn, H11Protocol
