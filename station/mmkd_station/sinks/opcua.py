"""`opcua-write://HOST?label=ns=2;s=Press1.Label`: the last result in nodes that are named, each for one thing.

Owns which thing goes to which node, and how it becomes a value of the node's type. No other node is written to.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from mmkd_edge.errors import UsageError
from mmkd_station.links.opcua import Session, node_of, opcua_library, server_of
from mmkd_station.records import Record
from mmkd_station.sinks.machine import STATUS_CODES, LastKnown, Told

_THINGS = ("count", "status", "label", "probability", "value", "episodes")
_WHOLE_BITS = {"SByte": 7, "Byte": 8, "Int16": 15, "UInt16": 16, "Int32": 31, "UInt32": 32, "Int64": 63, "UInt64": 64}
_REAL = ("Float", "Double")
# What each thing may become; thousandths of a probability need ten bits.
_TYPES = dict.fromkeys(_THINGS, (*_WHOLE_BITS, *_REAL, "String")) | {
    "probability": (*(name for name, bits in _WHOLE_BITS.items() if bits > 10), *_REAL, "String"),
    "value": (*_REAL, "String"),
}


class OpcUaWriteSink:
    """Writes what is known last; results that wait together are one writing.

    A number goes to a numeric node as of `modbus-write://`: a count, which begins anew at the end of the node's range;
    the status's code; the label, 1 for the first; the probability, in thousandths where the node takes whole numbers;
    the value of a student of numbers, NaN without one; open episodes. Text goes to a String: the status, the label, and
    the others as they are written.

    Args:
        text: `opcua-write://`, the host, the path and options: a node for each thing that is written; `station`, where
            there are several; and those of a session.

    Raises:
        UsageError: the text is none, or names no node.
        UnavailableError: asyncua is not installed.
    """

    def __init__(self, text: str) -> None:
        self._place = server_of(text, scheme="opcua-write://", options=(*_THINGS, "station"))
        options = self._place.options
        self._nodes = {
            thing: node_of(options[thing], where=f"--sink {text}: {thing}") for thing in _THINGS if thing in options
        }
        if not self._nodes:
            raise UsageError(
                f"--sink {text}: expected a node that it may write for one of {', '.join(_THINGS)}, "
                "?label=ns=2;s=Press1.Label; name it"
            )
        self._last = LastKnown(options.get("station"))
        self._session: Session | None = None
        self._types: dict[str, Any] = {}

    def write(self, records: Sequence[Record]) -> None:
        """Write the last result. Raises OSError where the server does not take it."""
        told = self._last.after(records)
        if told is None:
            return
        try:
            if self._session is None:
                self._session = Session(self._place)
                self._types = {thing: self._type_of(thing, self._session) for thing in self._nodes}
            self._send(told, self._session)
        except OSError as error:
            self.close()
            raise ConnectionError(f"{self._place.host}:{self._place.port}: {error}") from error

    def _type_of(self, thing: str, session: Session) -> Any:
        node = session.client.get_node(self._nodes[thing])
        try:
            found = session.run(node.read_data_type_as_variant_type())
        except OSError as error:
            raise ConnectionError(f"node {self._place.options[thing]}: {error}") from error
        if found.name not in _TYPES[thing]:
            raise ConnectionError(
                f"node {self._place.options[thing]}: expected one of {', '.join(_TYPES[thing])} for {thing}, "
                f"got {found.name}; name another node"
            )
        return found

    def _send(self, told: Told, session: Session) -> None:
        _, ua = opcua_library()
        nodes = [session.client.get_node(node) for node in self._nodes.values()]
        # Without a time of the source: many a server refuses to be told one.
        values = [
            ua.DataValue(ua.Variant(value_of(thing, told, self._types[thing].name), self._types[thing]))
            for thing in self._nodes
        ]
        found = session.run(session.client.write_values(nodes, values, raise_on_partial_error=False))
        for thing, status in zip(self._nodes, found, strict=True):
            if not status.is_good():
                raise ConnectionError(f"node {self._place.options[thing]}: {status.name}: {status.doc}")

    def close(self) -> None:
        """End the session; the nodes keep what they have."""
        if self._session is not None:
            with contextlib.suppress(OSError):
                self._session.close()
            self._session = None


def value_of(thing: str, told: Told, type_name: str) -> int | float | str:
    """One of the things as a value of a type of OPC UA (part 6, table 1)."""
    result = told.result
    number, text = {
        "count": (result.number, str(result.number)),
        "status": (STATUS_CODES[result.status], result.status),
        "label": (result.index + 1, result.label),
        "probability": (result.probability, f"{result.probability:.4g}"),
        "value": (math.nan, "") if result.value is None else (result.value, f"{result.value:.6g}"),
        "episodes": (told.episodes, str(told.episodes)),
    }[thing]
    if type_name == "String":
        return text
    if type_name in _REAL:
        return float(number)
    most = (1 << _WHOLE_BITS[type_name]) - 1
    if thing == "count":
        return int(number) & most
    return min(most, round(1000 * number) if thing == "probability" else int(number))
