"""Keys of a recipe as declarations, and the keys of every table of text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mmkd_models.data.importing.limits import MOST_OFFSET_S

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
_NO_TEXT_CODECS = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")


@dataclass(frozen=True)
class Key:
    """The values that a key takes, as metadata of its type.

    Attributes:
        above: exclusive smallest value; `low` is inclusive.
        check: returns the problem of a value that is not the default, or None.
        only: kind of modality that has the key; `-video` for all others.
    """

    low: float | None = None
    above: float | None = None
    high: float | None = None
    unit: str = ""
    fix: str = "correct it"
    check: Callable[[Any], str | None] | None = None
    only: Literal["", "video", "-video"] = ""

    def allows(self, value: float) -> bool:
        """Whether a number is in the range; NaN is not."""
        if self.above is not None and not value > self.above:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def range_text(self) -> str:
        """The range with its unit, such as `0.5 to 1 s`."""
        unit = f" {self.unit}" if self.unit else ""
        if self.above is not None:
            return f"above {self.above:g}" + ("" if self.high is None else f" and at most {self.high:g}") + unit
        if self.low is None:
            return ""
        return f"{self.low:g}" + (" or more" if self.high is None else f" to {self.high:g}") + unit


def keys_of(rule: type[msgspec.Struct]) -> Iterator[tuple[str, Any, Key]]:
    """Yield name, default and declaration of every key of a table."""
    for field in msgspec.structs.fields(rule):
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield field.name, default, next((item for item in get_args(field.type) if isinstance(item, Key)), Key())


def key_problems(rule: msgspec.Struct, *, kind: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name of every key whose value is not allowed, and the problem."""
    for name, default, key in keys_of(type(rule)):
        value = getattr(rule, name)
        if value == default:
            continue
        if (key.only == "video" and kind != "video") or (key.only == "-video" and kind == "video"):
            yield name, f"{'only' if key.only == 'video' else 'not'} for kind = 'video', got {value!r}; remove it"
        elif isinstance(value, int | float) and not isinstance(value, bool) and not key.allows(value):
            yield name, f"expected {key.range_text}, got {value:g}; {key.fix}"
        elif key.check is not None and (text := key.check(value)):
            yield name, text


def toml_lines(values: Mapping[str, tuple[Any, str]]) -> Iterator[str]:
    """Yield the lines of a table: by key its value and a comment."""
    for name, (value, comment) in values.items():
        # TOML is as JSON for texts, numbers and lists.
        yield f"{name} = {json.dumps(value, ensure_ascii=False)}" + (f"    # {comment}" if comment else "")


def _timezone_problem(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"expected a name such as 'Europe/Berlin' or 'UTC', got {name!r}; correct it"
    return None


def _encoding_problem(name: str) -> str | None:
    try:
        is_text = codecs.lookup(name).name not in _NO_TEXT_CODECS
        "a".encode(name)  # raises LookupError for codecs that do not encode text, such as zlib
    except (LookupError, ValueError):
        is_text = False
    expected = "the name of a text encoding, such as 'utf-8' or 'shift_jis'"
    return None if is_text else f"expected {expected}, got {name!r}; correct it"


def _delimiter_problem(sign: str) -> str | None:
    if len(sign.encode(errors="replace")) == 1 and (sign.isprintable() or sign == "\t") and sign != '"':
        return None
    return f"expected one ASCII character other than a quote, got {sign!r}; correct it"


class TextTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a text file and its timestamps are read; for other formats only the timestamps."""

    time_unit: TimeUnit = "auto"
    time_format: str = ""
    timezone: Annotated[str, Key(check=_timezone_problem)] = ""
    ambiguous: Literal["error", "earliest", "latest", "infer"] = "error"
    nonexistent: Literal["error", "drop"] = "error"
    offset_s: Annotated[float, Key(low=-MOST_OFFSET_S, high=MOST_OFFSET_S, unit="s")] = 0.0
    delimiter: Annotated[str, Key(check=_delimiter_problem)] = "auto"
    decimal: Literal[".", ","] = "."
    thousands: str = ""
    encoding: Annotated[str, Key(check=_encoding_problem)] = "auto"
    header: bool = True
    null: tuple[str, ...] = ("", "NaN", "nan")

    @property
    def text_problems(self) -> Iterator[tuple[str, str]]:
        """Combinations of keys that are not allowed."""
        for name in ("delimiter", "thousands"):
            if self.decimal == getattr(self, name):
                yield "decimal", f"is the same sign as {name!r}, {self.decimal!r}; correct one of them"
