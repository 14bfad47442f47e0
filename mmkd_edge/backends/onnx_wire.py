"""The protobuf wire format of an ONNX model (protobuf.dev/programming-guides/encoding), read without copies.

Allows what protobuf parsers allow: over-long numbers, unknown fields, split messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmkd_edge.errors import BackendError

Value = int | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10

# The fields of onnx.proto with messages, as far as a tensor, a node or a graph can be in them.
_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
# The key under which a tensor names its file (onnx.proto, `external_data`). In every encoding a key is one piece of
# bytes: without it no engine can find a file, and nothing needs to be parsed.
_KEY = b"location"


def has_external_weights(model: bytes) -> bool:
    """Return whether a tensor's values are in another file; ValueError for a broken message."""
    waiting = [("model", memoryview(model))]
    while waiting:
        kind, message = waiting.pop()
        for number, value in fields(message):
            if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                return True
            inner = _INNER.get(kind, {}).get(number)
            if inner is not None:
                if isinstance(value, int):
                    raise ValueError(f"field {number} of a {kind} is no message")
                waiting.append((inner, value))
    return False


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield each field's number with its integer or bytes; ValueError for a broken message."""
    place, size = 0, len(message)
    while place < size:
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(message, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {wire}, which no engine takes")
        if length > size - place:
            raise ValueError("a field is longer than its message")
        yield number, message[place : place + length]
        place += length


def numbers(value: Value) -> list[int]:
    """Return the signed numbers of a field, packed or single; ValueError if there are none."""
    if isinstance(value, int):
        return [_to_signed(value)]
    signed, place = [], 0
    while place < len(value):
        number, place = _varint(value, place)
        signed.append(_to_signed(number))
    return signed


def _to_signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if place + count >= len(message):
            raise ValueError("a number is cut off")
        byte = message[place + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("a number is too long")


def refuse_trees(model: bytes) -> None:
    """Raise BackendError for the tree operator of ONNX-ML, in an engine that lacks it."""
    if b"TreeEnsembleRegressor" in model:
        raise BackendError("it has trees, an operator that this engine lacks; take the backend native or ort")


def refuse_external_weights(model: bytes) -> None:
    """Raise BackendError for weights in other files, which nothing verifies."""
    if _KEY not in model:
        return
    try:
        is_external = has_external_weights(model)
    except ValueError as error:
        raise BackendError(f"it is not readable as ONNX: {error}") from error
    if is_external:
        raise BackendError("its weights are in another file, which nothing verifies")
