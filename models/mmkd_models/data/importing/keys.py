"""Keys of a recipe as declarations: one `Key` per key, from which checks, the guide's tables and drafts are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec


@dataclass(frozen=True)
class Key:
    """What a key means and which values it takes, as metadata of its type.

    Attributes:
        help: one sentence, or a noun phrase, in Markdown.
        example: as TOML; the default where it is empty.
        low: smallest value, `above` if this one is no longer allowed.
        unit: of a number.
        check: returns what is wrong with a value that is not the default; None if nothing is.
        only: the kind of modality that has it; `-video` for all others.
    """

    help: str
    example: str = ""
    low: float | None = None
    above: float | None = None
    high: float | None = None
    unit: str = ""
    fix: str = "correct it"
    check: Callable[[Any], str | None] | None = None
    only: Literal["", "video", "-video"] = ""

    def allows(self, value: float) -> bool:
        """Whether a number is in the range; NaN is not."""
        low = self.above if self.low is None else self.low
        if low is not None and not (value > low if self.low is None else value >= low):
            return False
        return self.high is None or value <= self.high

    @property
    def range_text(self) -> str:
        """The range with its unit: `0.5 to 1 s`; empty without one."""
        unit = f" {self.unit}" if self.unit else ""
        high = "" if self.high is None else f" and at most {self.high:g}"
        if self.above is not None:
            return f"above {self.above:g}{high}{unit}"
        if self.low is None:
            return ""
        return f"{self.low:g} to {self.high:g}{unit}" if high else f"{self.low:g} or more{unit}"


def keys_of(rule: type[msgspec.Struct]) -> Iterator[tuple[str, Any, Any, Key]]:
    """Yield name, type, default and declaration of every key of a table."""
    for field in msgspec.structs.fields(rule):
        kind, *metadata = get_args(field.type)
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield field.name, kind, default, next(item for item in metadata if isinstance(item, Key))


def key_problems(rule: msgspec.Struct, *, kind: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name of every key whose value is not allowed, and what is wrong."""
    for name, _, default, key in keys_of(type(rule)):
        value = getattr(rule, name)
        if value == default:
            continue
        if (key.only == "video" and kind != "video") or (key.only == "-video" and kind == "video"):
            yield name, f"{'only' if key.only == 'video' else 'not'} for kind = 'video', got {value!r}; remove it"
        elif isinstance(value, int | float) and not isinstance(value, bool) and not key.allows(value):
            yield name, f"expected {key.range_text}, got {value:g}; {key.fix}"
        elif key.check is not None and (text := key.check(value)):
            yield name, text


def toml_lines(rule: type[msgspec.Struct], values: Mapping[str, tuple[Any, str]]) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        values: by key, the value and a comment.
    """
    unknown = set(values) - {name for name, *_ in keys_of(rule)}
    assert not unknown, f"no keys of {rule.__name__}: {unknown}"
    for name, (value, comment) in values.items():
        # TOML is as JSON for texts, numbers and lists.
        yield f"{name} = {json.dumps(value, ensure_ascii=False)}" + (f"    # {comment}" if comment else "")


def key_table(rule: type[msgspec.Struct], *, without: type[msgspec.Struct] | None = None) -> str:
    """Return the keys of a table for the guide, in Markdown.

    Args:
        without: a table whose keys are listed elsewhere.
    """
    shared = {name for name, *_ in keys_of(without)} if without else set()
    rows = ["key | value | meaning | example", "---|---|---|---"]
    for name, kind, default, key in keys_of(rule):
        if name not in shared:
            example = f"`{key.example}`" if key.example else ""
            rows.append(f"`{name}` | {_value_text(kind, default, key)} | {key.help} | {example}".rstrip())
    return "\n".join(rows)


def _value_text(kind: Any, default: Any, key: Key) -> str:
    if get_origin(kind) in (Union, UnionType):
        options = [_value_text(part, default, key) for part in get_args(kind) if part is not type(None)]
        return " or ".join(dict.fromkeys(options))
    if get_origin(kind) is Literal:
        values = sorted(get_args(kind), key=lambda value: value != default)
        return ", ".join(f"`{value}`" for value in values)
    if get_origin(kind) is dict:
        return "table"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return "list" if parts[-1] is Ellipsis else f"{len(parts)} numbers"
    if kind is bool:
        return "`true`, `false`"
    if kind in (int, float):
        text = key.range_text or ("whole number" if kind is int else "number")
        return text + (f"; default {default:g}" if isinstance(default, int | float) else "")
    return "text"
