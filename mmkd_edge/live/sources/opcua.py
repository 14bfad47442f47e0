"""`opcua://HOST:PORT`: values of nodes, read by asyncua at the pace of the modality. Nothing is written to the server.

A column is a node: `ns=2;s=Press1.AccX`. A value whose status is bad is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from mmkd_edge.errors import UnavailableError, UsageError, first_line
from mmkd_edge.live.intake import Delivery, Listener
from mmkd_edge.live.links.place import Place, place_of
from mmkd_edge.live.sources.base import Wanted
from mmkd_edge.live.sources.polling import asked_again

_OPTIONS = ("every", "credentials", "policy", "mode", "cert", "key")
_POLICIES = ("None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
_PORT = 4840
_TIMEOUT_S = 4.0


class OpcUaSource:
    """Nodes, one sample after the other. The time is that of the reading: a value that rests keeps its old one.

    Args:
        text: `opcua://`, the host, the path and options.
        wanted: nodes as columns.

    Raises:
        UsageError: the text is none, or a column is no node.
        UnavailableError: asyncua is not installed.
    """

    live = True

    def __init__(self, text: str, wanted: Wanted) -> None:
        _, ua = opcua_library()
        self._place = place_of(text, scheme="opcua://", options=_OPTIONS, port=_PORT)
        self._every_s = self._place.number("every", 1 / wanted.rate_hz, least=1e-3, most=86400)
        policy = self._place.one_of("policy", _POLICIES, "None")
        self._place.one_of("mode", ("Sign", "SignAndEncrypt"), "SignAndEncrypt")
        self._place.credentials()
        if policy != "None" and (self._place.file("cert") is None or self._place.file("key") is None):
            raise UsageError(f"{text}: policy {policy}: expected cert=FILE and key=FILE beside it; name them")
        self._nodes = [_node(ua, name) for name in wanted.columns.names]
        self._wanted = wanted

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """A sample for each reading."""
        yield from asked_again(
            lambda: _Connection(self._place, self._nodes),
            name=f"{self._place.host}:{self._place.port}",
            columns=self._wanted.columns,
            every_s=self._every_s,
            listener=listener,
        )

    def close(self) -> None:
        """The connection ends with `deliveries`."""


class _Connection:
    """A session in an event loop of this thread; it runs while somebody asks or waits."""

    def __init__(self, place: Place, nodes: list[Any]) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._client = self._run(_opened(place))
        except OSError:
            self._loop.close()
            raise
        self._nodes = [self._client.get_node(node) for node in nodes]

    def _run(self, work: Any) -> Any:
        """The result; whatever breaks on the way, of the network or of the protocol, is an OSError."""
        try:
            return self._loop.run_until_complete(work)
        except Exception as error:  # asyncua raises errors of its own, of asyncio and of the system
            raise ConnectionError(first_line(error)) from error

    def sample(self) -> list[float]:
        _, ua = opcua_library()
        found = self._run(self._client.read_attributes(self._nodes, ua.AttributeIds.Value))
        return [_number(one) for one in found]

    def wait(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    def close(self) -> None:
        try:
            self._run(asyncio.wait_for(self._client.disconnect(), 2.0))
        except OSError:  # it is gone already
            pass
        finally:
            self._run(_cancelled())
            self._loop.close()


async def _opened(place: Place) -> Any:
    asyncua, _ = opcua_library()
    client = asyncua.Client(f"opc.tcp://{place.host}:{place.port}/{place.path}", timeout=_TIMEOUT_S)
    if (found := place.credentials()) is not None:
        client.set_user(found[0])
        client.set_password(found[1])
    policy = place.options.get("policy", "None")
    if policy != "None":
        mode = place.options.get("mode", "SignAndEncrypt")
        await client.set_security_string(f"{policy},{mode},{place.file('cert')},{place.file('key')}")
    await client.connect()
    return client


async def _cancelled() -> None:
    """End what the library left running in this loop."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _number(value: Any) -> float:
    """A value as a number; NaN where its status is bad or it is none."""
    inside = None if value.Value is None else value.Value.Value
    if (value.StatusCode is not None and not value.StatusCode.is_good()) or not isinstance(inside, int | float):
        return float("nan")
    return float(inside)


def _node(ua: Any, name: str) -> Any:
    try:
        return ua.NodeId.from_string(name)
    except Exception as error:  # errors of its own, and ValueError
        raise UsageError(
            f"--map ...={name}: expected a node such as ns=2;s=Press1.AccX, got {name!r}; name the node of each channel"
        ) from error


def opcua_library() -> tuple[Any, Any]:
    """Asyncua and its types. Raises UnavailableError where it is not installed."""
    try:
        import asyncua
        from asyncua import ua
    except ImportError as error:
        raise UnavailableError(
            "OPC UA needs asyncua, which this Python lacks; run: pip install 'mmkd-edge[opcua]'"
        ) from error
    return asyncua, ua
