"""`modbus-write://HOST?at=100`: the last result in five holding registers of a PLC. Nothing else is written to one.

From register `at` on: a count that moves with every result, so that a PLC sees that it is alive; the status, 0 `ok`,
1 `degraded`, 2 `stale`, 3 `warming_up`, 4 `invalid`, 5 `unknown`; the label, 1 for the first, 0 where there is no
answer; its probability in thousandths; how many episodes are open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmkd_edge.errors import UsageError, first_line
from mmkd_station.links.modbus import modbus_library
from mmkd_station.links.place import place_of
from mmkd_station.records import Record
from mmkd_station.sinks.machine import STATUS_CODES, LastKnown

_OPTIONS = ("at", "unit", "station")
_PORT, _TIMEOUT_S = 502, 3.0


class ModbusWriteSink:
    """Writes what is known last; results that wait together are one writing.

    Args:
        text: `modbus-write://`, the host and options: `at`, the first register; `unit`; `station`, where there are
            several.

    Raises:
        UsageError: the text is none, or names no register.
        UnavailableError: pymodbus is not installed.
    """

    def __init__(self, text: str) -> None:
        modbus_library()
        self._place = place_of(text, scheme="modbus-write://", options=_OPTIONS, port=_PORT)
        if "at" not in self._place.options:
            raise UsageError(f"--sink {text}: expected the first of five registers that it may write, ?at=100; name it")
        self._at = int(self._place.number("at", 0, least=0, most=65531))
        self._unit = int(self._place.number("unit", 1, least=0, most=255))
        self._last = LastKnown(self._place.options.get("station"))
        self._client: Any = None

    def write(self, records: Sequence[Record]) -> None:
        """Write the last result. Raises OSError where the PLC does not take it."""
        told = self._last.after(records)
        if told is not None:
            last = told.result
            self._send(
                [
                    last.number & 0xFFFF,
                    STATUS_CODES[last.status],
                    last.index + 1,
                    round(1000 * last.probability),
                    told.episodes,
                ]
            )

    def _send(self, words: list[int]) -> None:
        client_module, errors = modbus_library()
        if self._client is None:
            self._client = client_module.ModbusTcpClient(
                self._place.host, port=self._place.port, timeout=_TIMEOUT_S, retries=0, reconnect_delay=0
            )
        try:
            if not self._client.connected and not self._client.connect():
                raise ConnectionError("no answer")
            answer = self._client.write_registers(self._at, words, device_id=self._unit)
            if answer.isError():
                raise ConnectionError(f"the PLC refuses registers {self._at} to {self._at + 4}: {answer}")
        except (OSError, errors) as error:
            self.close()
            raise ConnectionError(f"{self._place.host}:{self._place.port}: {first_line(error)}") from error

    def close(self) -> None:
        """End the connection; the registers keep what they have."""
        if self._client is not None:
            self._client.close()
            self._client = None
