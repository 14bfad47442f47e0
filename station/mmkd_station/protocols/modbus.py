"""`modbus://HOST` polls registers of a PLC at the modality's rate; `modbus-write://HOST?at=N` writes five registers.

A column is a register: `i7:float32` is input registers 7 and 8. Numbers are the protocol's: a manual's 40001 is `h0`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError, first_line
from mmkd_edge.machine import require_modules
from mmkd_station.protocols.base import Endpoint, LastResultSink, Source, SourceRequest, polled_source, read_endpoint
from mmkd_station.records import STATUS_CODES, ResultRecord

_PORT, _TIMEOUT_S = 502, 3.0
_REGISTER = re.compile(r"(?P<kind>[hi])(?P<number>[0-9]{1,5})(?::(?P<type>[a-z0-9]+))?")
_WORDS = {"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4, "float32": 2, "float64": 4}
_MAX_AT_ONCE = 125  # Modbus application protocol 1.1b3, section 6.3


def _pymodbus() -> tuple[Any, Any]:
    require_modules(("pymodbus",), by="Modbus", extra="live")
    import pymodbus.client
    from pymodbus.exceptions import ModbusException

    return pymodbus.client, ModbusException


def _connect(plc: Endpoint) -> Any:
    clients = _pymodbus()[0]
    client = clients.ModbusTcpClient(plc.host, port=plc.port, timeout=_TIMEOUT_S, retries=0, reconnect_delay=0)
    if not client.connect():
        client.close()
        raise ConnectionError("no answer")
    return client


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """A value in holding (`h`) or input registers (`i`) from `number` on."""

    kind: str
    number: int
    type: str

    @property
    def end(self) -> int:
        """One more than its last register."""
        return self.number + _WORDS[self.type]


def modbus_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a source of registers."""
    _pymodbus()
    plc = read_endpoint(text, scheme="modbus://", options=("unit", "every", "words"), port=_PORT)
    every_s = plc.number("every", 1 / request.rate_hz, least=1e-4, most=86400)
    unit = int(plc.number("unit", 1, least=0, most=255))
    word_order = plc.choice("words", ("big", "little"), "big")
    registers = [_register(name) for name in request.columns.names]
    blocks = list(register_blocks(registers))

    def sample(client: Any) -> list[float]:
        values: dict[tuple[str, int], int] = {}
        for kind, first, count in blocks:
            read = client.read_holding_registers if kind == "h" else client.read_input_registers
            try:
                answer = read(first, count=count, device_id=unit)
            except _pymodbus()[1] as error:
                raise ConnectionError(first_line(error)) from error
            if not answer.isError():  # what the PLC lacks is missing
                values |= {(kind, first + place): word for place, word in enumerate(answer.registers)}
        return [number(client, register, values) for register in registers]

    def number(client: Any, register: Register, values: dict[tuple[str, int], int]) -> float:
        words = [values.get((register.kind, place)) for place in range(register.number, register.end)]
        if None in words:
            return math.nan
        kind = client.DATATYPE[register.type.upper()]
        return float(client.convert_from_registers(words, kind, word_order=word_order))

    connect = partial(_connect, plc)
    return polled_source(connect, sample, name=plc.address, columns=request.columns, every_s=every_s)


def register_blocks(registers: list[Register]) -> Iterator[tuple[str, int, int]]:
    """Yield kind, first number and count of registers to read together, without gaps."""
    for kind in ("h", "i"):
        spans = sorted({(register.number, register.end) for register in registers if register.kind == kind})
        while spans:
            first, end = spans[0]
            for start, next_end in spans:
                if start <= end and next_end - first <= _MAX_AT_ONCE:
                    end = max(end, next_end)
            yield kind, first, end - first
            spans = [span for span in spans if span[1] > end]


def _register(name: str) -> Register:
    match = _REGISTER.fullmatch(name)
    kind = (match["type"] or "uint16") if match else ""
    if match is None or kind not in _WORDS or int(match["number"]) + _WORDS[kind] > 65536:
        raise UsageError(
            f"--map ...={name}: expected a register such as h100:int16 or i7:float32, got {name!r}; types are "
            f"{', '.join(_WORDS)}"
        )
    return Register(kind=match["kind"], number=int(match["number"]), type=kind)


def modbus_write_sink(text: str, place: str) -> LastResultSink:
    """Open a sink of five registers: a count, the status, the label (from 1), thousandths of probability, episodes."""
    _pymodbus()
    plc = read_endpoint(text, scheme="modbus-write://", options=("at", "unit", "station"), port=_PORT)
    if "at" not in plc.options:
        raise UsageError(f"--sink {text}: expected the first of five registers that it may write, ?at=100; name it")
    at = int(plc.number("at", 0, least=0, most=65531))
    unit = int(plc.number("unit", 1, least=0, most=255))

    def write(client: Any, result: ResultRecord, episodes: int) -> None:
        code, thousandths = STATUS_CODES[result.status], round(1000 * result.probability)
        words = [result.number & 0xFFFF, code, result.index + 1, thousandths, episodes]
        try:
            answer = client.write_registers(at, words, device_id=unit)
        except _pymodbus()[1] as error:
            raise ConnectionError(first_line(error)) from error
        if answer.isError():
            raise ConnectionError(f"the PLC refuses registers {at} to {at + 4}: {answer}")

    return LastResultSink(partial(_connect, plc), write, server=plc)
