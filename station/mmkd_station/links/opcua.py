"""Sessions with an OPC UA server, for threads that know no event loop; asyncua, imported where it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from mmkd_edge.errors import UnavailableError, UsageError, first_line
from mmkd_station.links.place import Place, place_of

_OPTIONS = ("credentials", "policy", "mode", "cert", "key")
_POLICIES = ("None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
_PORT = 4840
_TIMEOUT_S = 4.0


def server_of(text: str, *, scheme: str, options: Sequence[str]) -> Place:
    """Reads the name of a server, whose options are those of a session and the ones given.

    Raises:
        UsageError: the text is none, or a policy lacks its files.
        UnavailableError: asyncua is not installed.
    """
    opcua_library()
    place = place_of(text, scheme=scheme, options=(*options, *_OPTIONS), port=_PORT)
    policy = place.one_of("policy", _POLICIES, "None")
    place.one_of("mode", ("Sign", "SignAndEncrypt"), "SignAndEncrypt")
    place.credentials()
    if policy != "None" and (place.file("cert") is None or place.file("key") is None):
        raise UsageError(f"{text}: policy {policy}: expected cert=FILE and key=FILE beside it; name them")
    return place


def node_of(name: str, *, where: str) -> Any:
    """A node by its name. Raises UsageError, which begins with `where`, if it is none."""
    try:
        return opcua_library()[1].NodeId.from_string(name)
    except Exception as error:  # errors of its own, and ValueError
        raise UsageError(f"{where}: expected a node such as ns=2;s=Press1.AccX, got {name!r}; correct it") from error


class Session:
    """A session in an event loop of this thread; it runs while somebody asks or waits.

    Args:
        place: the server.

    Attributes:
        client: asyncua's.

    Raises:
        OSError: the server is not there, or does not let this program in.
    """

    def __init__(self, place: Place) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self.client = self.run(_opened(place))
        except OSError:
            self._loop.close()
            raise

    def run(self, work: Any) -> Any:
        """The result; whatever breaks on the way, of the network or of the protocol, is an OSError."""
        try:
            return self._loop.run_until_complete(work)
        except Exception as error:  # asyncua raises errors of its own, of asyncio and of the system
            raise ConnectionError(first_line(error)) from error

    def close(self) -> None:
        """End it."""
        try:
            self.run(asyncio.wait_for(self.client.disconnect(), 2.0))
        except OSError:  # it is gone already
            pass
        finally:
            self.run(_cancelled())
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
