"""`opcua://HOST:PORT`: values of nodes, read by asyncua at the pace of the modality. Nothing is written to the server.

A column is a node: `ns=2;s=Press1.AccX`. A value whose status is bad is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from mmkd_station.intake import Delivery, Listener
from mmkd_station.links.opcua import Session, node_of, opcua_library, server_of
from mmkd_station.links.place import Place
from mmkd_station.sources.base import Wanted
from mmkd_station.sources.polling import asked_again


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
        self._place = server_of(text, scheme="opcua://", options=("every",))
        self._every_s = self._place.number("every", 1 / wanted.rate_hz, least=1e-3, most=86400)
        self._nodes = [node_of(name, where=f"--map ...={name}") for name in wanted.columns.names]
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
    def __init__(self, place: Place, nodes: list[Any]) -> None:
        self._session = Session(place)
        self._nodes = [self._session.client.get_node(node) for node in nodes]

    def sample(self) -> list[float]:
        _, ua = opcua_library()
        found = self._session.run(self._session.client.read_attributes(self._nodes, ua.AttributeIds.Value))
        return [_number(one) for one in found]

    def wait(self, seconds: float) -> None:
        self._session.run(asyncio.sleep(seconds))

    def close(self) -> None:
        self._session.close()


def _number(value: Any) -> float:
    """A value as a number; NaN where its status is bad or it is none."""
    inside = None if value.Value is None else value.Value.Value
    if (value.StatusCode is not None and not value.StatusCode.is_good()) or not isinstance(inside, int | float):
        return float("nan")
    return float(inside)
