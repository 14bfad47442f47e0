"""Recipe keys as declarations, and the limits of an import."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mmkd_edge.errors import DatasetError

# Checked before anything is read or allocated.
MAX_RECIPE_BYTES = 1 << 20
MAX_PATTERN_BYTES, MAX_NAME_BYTES = 1024, 255  # of a pattern of files, and of one of its folders
MAX_COLUMNS = 4096
MAX_LINE_BYTES = 1 << 20
RATES_HZ = (1e-6, 1e8)
MAX_SECONDS = 1e9  # of a window, a stride and a gap
MAX_OFFSET_S = 4e9  # correction of a clock: from 1970 to now, and as long again
MAX_TIME_NS = 1 << 62  # distance from 1970: 146 years
MAX_SCALE = 1e30
MAX_THINNING = 1000  # samples of a sensor for one in the dataset, if they are filtered
MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 128 << 20, 20  # of the arrays of a file: whatever its size, or times its size
MAX_WRITTEN_BYTES, MAX_WRITTEN_RATIO = 256 << 20, 100  # by an import: whatever its recordings, or times their size
MAX_KEPT_BYTES = 256 << 20  # of a file of kept windows, and of their labels
MAX_LABELS = 1000  # different ones in a recording
MAX_LABEL_BYTES, MAX_LABEL_ITEMS = 64 << 20, 4 << 20  # of an export that a recipe reads
MAX_LABELLED_BYTES = 1 << 30  # of the labelled ones in memory
WINDOW_FACTS_BYTES = 1024  # memory for time, label, group and split of one window
FACTS_RATIO = 10  # bytes that an import may write, for one of memory for these facts

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
_NO_TEXT_CODECS = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")


@dataclass(frozen=True)
class Key:
    """Allowed values of a key; `above` is exclusive, `only` is its modality kind."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    unit: str = ""
    fix: str = "correct it"
    check: Callable[[Any], str | None] | None = None
    only: Literal["", "video", "-video"] = ""

    def allows(self, value: float) -> bool:
        """Return whether a number is in the range; NaN is not."""
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


def list_keys(rule: type[msgspec.Struct]) -> Iterator[tuple[str, Any, Key]]:
    """Yield name, default and declaration of every key."""
    for field in msgspec.structs.fields(rule):
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield field.name, default, next((item for item in get_args(field.type) if isinstance(item, Key)), Key())


def key_problems(rule: msgspec.Struct, *, kind: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and problem of every disallowed value."""
    for name, default, key in list_keys(type(rule)):
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
    """Yield a table's lines from values and comments by key."""
    for name, (value, comment) in values.items():
        # TOML is as JSON for texts, numbers and lists.
        text = json.dumps(value, ensure_ascii=False, separators=(", ", " = " if isinstance(value, dict) else ": "))
        yield f"{name} = {text}" + (f"    # {comment}" if comment else "")


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
    """How a text file and its timestamps are read; other formats use only the timestamps."""

    time_unit: TimeUnit = "auto"
    time_format: str = ""
    timezone: Annotated[str, Key(check=_timezone_problem)] = ""
    ambiguous: Literal["error", "infer"] = "error"
    offset_s: Annotated[float, Key(low=-MAX_OFFSET_S, high=MAX_OFFSET_S, unit="s")] = 0.0
    delimiter: Annotated[str, Key(check=_delimiter_problem)] = "auto"
    decimal: Literal["auto", ".", ","] = "auto"
    encoding: Annotated[str, Key(check=_encoding_problem)] = "auto"
    header: bool = True
    null: tuple[str, ...] = ("", "NaN", "nan")

    @property
    def text_problems(self) -> Iterator[tuple[str, str]]:
        """Yield forbidden combinations of keys."""
        if self.decimal == self.delimiter != "auto":
            yield "decimal", f"is the same sign as 'delimiter', {self.decimal!r}; correct one of them"


def refuse_late(file: Path, count: int, rate_hz: float) -> None:
    """Raise DatasetError if the last sample is later than times can be."""
    if count / rate_hz * 1e9 > MAX_TIME_NS:
        raise DatasetError(
            f"{file}: expected samples of at most {MAX_TIME_NS / 1e9:.3g} s, got {count:,} at {rate_hz:g} Hz; correct"
            " 'rate_hz'"
        )


def refuse_more(
    planned_bytes: int, most_bytes: int, *, where: str, what: str, cure: str, use: str = "to write"
) -> None:
    """Raise DatasetError if an import would write more than `most_bytes`, or have another `use` of them."""
    if planned_bytes > most_bytes:
        raise DatasetError(
            f"{where}: expected at most {most_bytes / 1e9:.3g} GB {use}, got {planned_bytes / 1e9:.3g} GB for"
            f" {what}; {cure}, or allow more with --max-gb"
        )
