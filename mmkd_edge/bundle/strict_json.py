"""Strict JSON: refuses repeated keys, NaN, infinities, numbers beyond float64, lone surrogates and deep nesting."""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class JsonError(ValueError):
    """A document's fault and its path (empty for the whole); callers raise their own error."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class _Pairs(list[tuple[str, Any]]):
    """Members of an object, in file order."""


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a document; JsonError unless it is an object."""
    import json  # not every program needs it

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=_Pairs)
        document = _plain(parsed, "")
    except JsonError:
        raise
    except RecursionError as error:
        raise JsonError("", "not a JSON document: nested too deeply") from error
    except ValueError as error:
        raise JsonError("", f"not a JSON document: {error}") from error
    if not isinstance(document, dict):
        raise JsonError("", f"expected an object, got {type(document).__name__}")
    return document


def check_keys(data: bytes) -> None:
    """Raise JsonError for a key with an escape: C compares the bytes of keys, and no file of ours has one."""
    for text in re.finditer(rb'"(?:[^"\\]|\\.)*"(\s*:)?', data, re.DOTALL):
        if text[1] and b"\\" in text[0]:
            raise JsonError("", f"expected keys without escapes, got {text[0][:40].decode(errors='replace')}")


def convert_object(document: dict[str, Any], struct: type[T]) -> T:
    """Convert a document strictly to a Struct; JsonError if it does not fit."""
    try:
        converted = msgspec.convert(document, type=struct, strict=True)
    except msgspec.ValidationError as error:
        message, _, path = str(error).replace("`", "").partition(" - at $")
        raise JsonError(path.lstrip("."), message[0].lower() + message[1:]) from error
    _refuse_nulls(document, msgspec.to_builtins(converted), "")
    return converted


def _refuse_nulls(document: Any, written: Any, path: str) -> None:
    """An absent value has no key: one that is null and would not be written so is refused, as in C."""
    if isinstance(document, list):
        for index, (item, kept) in enumerate(zip(document, written, strict=True)):
            _refuse_nulls(item, kept, f"{path}[{index}]")
    elif isinstance(document, dict):
        for key, value in document.items():
            inner = f"{path}.{key}" if path else key
            if value is None and key not in written:
                raise JsonError(inner, "expected a value, got null; leave it out")
            _refuse_nulls(value, written.get(key), inner)


def read_canonical(data: bytes, struct: type[T], *, version: int) -> T | None:
    """Return a document of one `format_version` if `json_bytes` writes the same bytes: it needs no slower check."""
    try:
        document = msgspec.json.decode(data, type=struct)
    except ValueError:
        return None
    return document if getattr(document, "format_version", None) == version and json_bytes(document) == data else None


def decode_document(data: bytes, struct: type[T], *, version: int) -> T:
    """Read a file of one `format_version` into a Struct; JsonError if it does not fit."""
    canonical = read_canonical(data, struct, version=version)
    if canonical is not None:
        return canonical
    document = parse_object(data)
    check_keys(data)
    got = document.get("format_version", version)
    if got != version:
        raise JsonError("format_version", f"expected {version}, got {got!r}")
    return convert_object(document, struct)


def json_bytes(document: Any) -> bytes:
    """Return a document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _plain(node: Any, path: str) -> Any:
    if isinstance(node, _Pairs):
        plain: dict[str, Any] = {}
        for key, value in node:
            _check_text(key, path)
            inner = f"{path}.{key}" if path else key
            if key in plain:
                raise JsonError(inner, "expected once, got it twice")
            plain[key] = _plain(value, inner)
        return plain
    if isinstance(node, list):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(node)]
    if isinstance(node, float) and not math.isfinite(node):
        raise JsonError(path, f"expected a finite number, got {node}")
    if isinstance(node, str):
        _check_text(node, path)
    return node


def _check_text(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise JsonError(path, "expected text, got half a surrogate pair") from error
