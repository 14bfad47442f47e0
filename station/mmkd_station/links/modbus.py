"""pymodbus, imported where it is used."""

from __future__ import annotations

from typing import Any

from mmkd_edge.errors import UnavailableError


def modbus_library() -> tuple[Any, Any]:
    """Pymodbus's clients and the error that they raise. Raises UnavailableError where it is not installed."""
    try:
        import pymodbus.client
        from pymodbus.exceptions import ModbusException
    except ImportError as error:
        raise UnavailableError(
            "Modbus needs pymodbus, which this Python lacks; run: pip install 'mmkd-edge[live]'"
        ) from error
    return pymodbus.client, ModbusException
