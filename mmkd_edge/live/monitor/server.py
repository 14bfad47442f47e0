"""The server behind the page: a thread beside the stations."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mmkd_edge.bundle.files import fault_of
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.live.monitor.access import Access, Address, in_url
from mmkd_edge.live.monitor.app import MonitorApp
from mmkd_edge.live.monitor.board import Board
from mmkd_edge.live.service import Service

_ENDS_WITHIN_S = 3.0


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
    uvicorn = _uvicorn()
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
        http="h11",
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=256,
    )
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


def _uvicorn() -> Any:
    try:
        import starlette  # noqa: F401 - the page needs both
        import uvicorn
    except ImportError as error:
        raise UnavailableError(
            "--monitor needs starlette and uvicorn, which this Python lacks; run: pip install 'mmkd-edge[monitor]'"
        ) from error
    return uvicorn
