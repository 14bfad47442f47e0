"""`modbus://HOST`: registers of a PLC, read by pymodbus at the pace of the modality. Nothing is written to it.

A column is a register: `h100:int16` is holding register 100, `i7:float32` input registers 7 and 8; without a type it is
`uint16`. Numbers are those of the protocol, from 0: what a manual calls 40001 is `h0`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator

import msgspec

from mmkd_edge.errors import UsageError, first_line
from mmkd_station.intake import Delivery, Listener
from mmkd_station.links.modbus import modbus_library
from mmkd_station.links.place import Place, place_of
from mmkd_station.sources.base import Wanted
from mmkd_station.sources.polling import asked_again

logger = logging.getLogger(__name__)

_OPTIONS = ("unit", "every", "words")
_PORT = 502
_REGISTER = re.compile(r"(?P<kind>[hi])(?P<number>[0-9]{1,5})(?::(?P<type>[a-z0-9]+))?")
_WORDS = {"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4, "float32": 2, "float64": 4}
_MOST_AT_ONCE = 125  # Modbus application protocol 1.1b3, section 6.3
# Of its section 7: illegal data address, illegal data value.
_REFUSALS = (2, 3)
_TIMEOUT_S = 3.0
Block = tuple[str, int, int]
"""Kind, first number and count of registers that are read together."""


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """One value in a PLC.

    Attributes:
        kind: `h` for a holding register, `i` for an input register.
        number: of the first one, from 0.
        type: of the number in it.
    """

    kind: str
    number: int
    type: str

    @property
    def end(self) -> int:
        """One more than its last register."""
        return self.number + _WORDS[self.type]


class ModbusSource:
    """Registers, one sample after the other.

    Args:
        text: `modbus://`, the host and options.
        wanted: registers as columns.

    Raises:
        UsageError: the text is none, or a column is no register.
        UnavailableError: pymodbus is not installed.
    """

    live = True

    def __init__(self, text: str, wanted: Wanted) -> None:
        modbus_library()
        self._place = place_of(text, scheme="modbus://", options=_OPTIONS, port=_PORT)
        self._every_s = self._place.number("every", 1 / wanted.rate_hz, least=1e-4, most=86400)
        self._unit = int(self._place.number("unit", 1, least=0, most=255))
        self._place.one_of("words", ("big", "little"), "big")
        self._registers = [_register(name) for name in wanted.columns.names]
        self._wanted = wanted

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """A sample for each reading."""
        yield from asked_again(
            lambda: _Connection(self._place, self._unit, self._registers),
            name=f"{self._place.host}:{self._place.port}",
            columns=self._wanted.columns,
            every_s=self._every_s,
            listener=listener,
        )

    def close(self) -> None:
        """The connection ends with `deliveries`."""


class _Connection:
    def __init__(self, place: Place, unit: int, registers: list[Register]) -> None:
        client_module, self._errors = modbus_library()
        self._unit = unit
        self._words = place.options.get("words", "big")
        self._registers = registers
        self._blocks = list(blocks_of(registers))
        self._client = client_module.ModbusTcpClient(
            place.host, port=place.port, timeout=_TIMEOUT_S, retries=0, reconnect_delay=0
        )
        if not self._client.connect():
            raise ConnectionError(f"{place.host}:{place.port}: no answer")

    def sample(self) -> list[float]:
        read: dict[tuple[str, int], int] = {}
        for block in list(self._blocks):
            words, is_refused = self._read(block)
            parts = _parts_of(block, self._registers) if is_refused else []
            if len(parts) > 1:
                kind, first, count = block
                logger.warning("the PLC refuses %s%d to %d at once; read one by one", kind, first, first + count - 1)
                place = self._blocks.index(block)
                self._blocks[place : place + 1] = parts
                for part in parts:
                    words |= self._read(part)[0]
            read |= words
        return [self._value(register, read) for register in self._registers]

    def _read(self, block: Block) -> tuple[dict[tuple[str, int], int], bool]:
        """The words of a block, none where the PLC gives an error, and whether it refuses these registers."""
        kind, first, count = block
        ask = self._client.read_holding_registers if kind == "h" else self._client.read_input_registers
        try:
            answer = ask(first, count=count, device_id=self._unit)
        except self._errors as error:
            raise ConnectionError(first_line(error)) from error
        if answer.isError():  # these are missing: the PLC is there, and lacks them
            return {}, getattr(answer, "exception_code", None) in _REFUSALS
        return {(kind, first + place): word for place, word in enumerate(answer.registers)}, False

    def _value(self, register: Register, read: dict[tuple[str, int], int]) -> float:
        words = [read.get((register.kind, number)) for number in range(register.number, register.end)]
        if None in words:
            return float("nan")
        kind = self._client.DATATYPE[register.type.upper()]
        return float(self._client.convert_from_registers(words, kind, word_order=self._words))

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        self._client.close()


def _parts_of(block: Block, registers: list[Register]) -> list[Block]:
    """What of a block is asked for, a value at a time."""
    kind, first, count = block
    inside = {(one.number, one.end) for one in registers if one.kind == kind and first <= one.number}
    return [(kind, start, end - start) for start, end in sorted(inside) if end <= first + count]


def blocks_of(registers: list[Register]) -> Iterator[Block]:
    """The fewest readings that give all registers: kind, first number and count; small gaps are read along."""
    for kind in ("h", "i"):
        spans = sorted({(one.number, one.end) for one in registers if one.kind == kind})
        while spans:
            first = spans[0][0]
            inside = [end for start, end in spans if end - first <= _MOST_AT_ONCE]
            yield kind, first, max(inside) - first
            spans = [span for span in spans if span[1] - first > _MOST_AT_ONCE]


def _register(name: str) -> Register:
    match = _REGISTER.fullmatch(name)
    kind = (match["type"] or "uint16") if match else ""
    if match is None or kind not in _WORDS or int(match["number"]) + _WORDS[kind] > 65536:
        raise UsageError(
            f"--map ...={name}: expected a register such as h100:int16 or i7:float32, got {name!r}; types are "
            f"{', '.join(_WORDS)}"
        )
    return Register(kind=match["kind"], number=int(match["number"]), type=kind)
