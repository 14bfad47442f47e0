"""A block of a file's rows as a table, with the place of each row for messages, and the numbers in it."""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError, MmkdError, UnavailableError, first_line
from mmkd_models.data.importing.keys import Key
from mmkd_models.data.importing.limits import MOST_OFFSET_S
from mmkd_models.data.sources import Floats

if TYPE_CHECKING:
    import polars as pl


TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
_NOT_OF_FILES = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")
"""Encodings of Python that no text file has."""


def _timezone_problem(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"expected a name such as 'Europe/Berlin' or 'UTC', got {name!r}; correct it"
    return None


def _encoding_problem(name: str) -> str | None:
    try:
        is_text = codecs.lookup(name).name not in _NOT_OF_FILES
        "a".encode(name)  # raises LookupError for codecs that do not encode text, such as zlib
    except (LookupError, ValueError):
        is_text = False
    wanted = "the name of a text encoding, such as 'utf-8' or 'shift_jis'"
    return None if is_text else f"expected {wanted}, got {name!r}; correct it"


def _delimiter_problem(sign: str) -> str | None:
    if len(sign.encode(errors="replace")) == 1 and (sign.isprintable() or sign == "\t") and sign != '"':
        return None
    return f"expected one ASCII character other than a quote, got {sign!r}; correct it"


class TextTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a text file and its timestamps are read; of other formats only what concerns timestamps."""

    time_unit: Annotated[
        TimeUnit,
        Key(
            "Unit of numeric timestamps. `auto` reads text as ISO 8601 and numbers as times since 1970, with the unit"
            " that fits their size; with a unit, numbers may count from any moment.",
            '"ms"',
        ),
    ] = "auto"
    time_format: Annotated[
        str, Key("Format of timestamps that are not ISO 8601, as in `strptime`.", '"%d.%m.%Y %H:%M:%S%.f"')
    ] = ""
    timezone: Annotated[
        str,
        Key(
            "Time zone of timestamps without an offset; required for them.", '"Europe/Berlin"', check=_timezone_problem
        ),
    ] = ""
    ambiguous: Annotated[
        Literal["error", "earliest", "latest", "infer"],
        Key("The hour that clocks repeat in autumn; `infer` uses the order of the lines.", '"infer"'),
    ] = "error"
    nonexistent: Annotated[Literal["error", "drop"], Key("The hour that clocks skip in spring.", '"drop"')] = "error"
    offset_s: Annotated[float, Key("Added to all times.", "-3.0", low=-MOST_OFFSET_S, high=MOST_OFFSET_S, unit="s")] = (
        0.0
    )
    delimiter: Annotated[
        str, Key("Field separator; `auto` takes the most frequent one of the header.", '";"', check=_delimiter_problem)
    ] = "auto"
    decimal: Annotated[Literal[".", ","], Key("Decimal sign.", '","')] = "."
    thousands: Annotated[str, Key("Thousands separator.", '"."')] = ""
    encoding: Annotated[
        str,
        Key(
            "Text encoding; `auto` is UTF-8 unless the file has a byte order mark.",
            '"shift_jis"',
            check=_encoding_problem,
        ),
    ] = "auto"
    header: Annotated[bool, Key("Whether the first line names the columns; else they are `1`, `2`...", "false")] = True
    null: Annotated[tuple[str, ...], Key("Texts that mean missing.", '["", "NaN", "Bad"]')] = ("", "NaN", "nan")

    @property
    def text_problems(self) -> Iterator[tuple[str, str]]:
        """What no key shows alone."""
        for name in ("delimiter", "thousands"):
            if self.decimal == getattr(self, name):
                yield "decimal", f"is the same sign as {name!r}, {self.decimal!r}; correct one of them"


@dataclass(frozen=True, kw_only=True, eq=False)
class RowBlock:
    """Rows that follow each other in a file.

    Attributes:
        frame: their columns; of text files all are text.
        place: gives where a row is, for messages: `log.csv:17`.
    """

    file: Path
    frame: pl.DataFrame
    place: Callable[[int], str]


def numbers(block: RowBlock, columns: Sequence[str], table: TextTable) -> Floats:
    """Return float32 (rows, C), NaN where there is none. Raise DatasetError if a field is no number, with its line."""
    return np.stack([_column(block, column, table) for column in columns], axis=1)


def _column(block: RowBlock, name: str, table: TextTable) -> Floats:
    import polars as pl

    column = block.frame[name]
    if column.dtype == pl.String:
        text = stripped(column, table)
        plain = text.str.replace_all(table.thousands, "", literal=True) if table.thousands else text
        if table.decimal == ",":
            # A dot is then no decimal sign: 1.5 would be read where 15 or a date was meant.
            plain = pl.select(pl.when(~plain.str.contains(".", literal=True)).then(plain)).to_series()
            plain = plain.str.replace(",", ".", literal=True)
        found = plain.cast(pl.Float64, strict=False)
        wrong = (text.is_not_null() & found.is_null()).to_numpy()
    else:
        text = column
        found = column.cast(pl.Float64, strict=False)
        wrong = (column.is_not_null() & found.is_null()).to_numpy()
    values: npt.NDArray[Any] = found.to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        single: Floats = np.asarray(values, dtype=np.float32)
    wrong = wrong | np.isinf(single)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DatasetError(
            f"{block.place(row)}: column {name!r}: expected a number, got {text[row]!r}"
            f" ({int(wrong.sum())} such from there on); {_cure(str(text[row]), table)}"
        )
    return single


def _cure(text: str, table: TextTable) -> str:
    if table.decimal == "." and text.count(",") == 1 and "." not in text:
        return "set decimal = ',' if that is its sign"
    if table.decimal == "." and "," in text and "." in text:
        return "set 'thousands' and 'decimal' to the signs of this file"
    if table.decimal == "," and "." in text:
        return "set decimal = '.', or thousands = '.', whichever this sign is"
    return f"correct it, or add {text!r} to 'null' if it means missing"


def stripped(column: pl.Series, table: TextTable) -> pl.Series:
    """Return a text column without blanks around, null where it says that a value is missing."""
    import polars as pl

    text = column.str.strip_chars()
    return pl.select(pl.when(~text.is_in(list(table.null))).then(text)).to_series()


def texts(block: RowBlock, name: str, table: TextTable) -> list[str]:
    """Return a column as text; empty where there is none."""
    import polars as pl

    column = block.frame[name]
    if column.dtype == pl.String:
        column = stripped(column, table)
    found: list[str] = column.cast(pl.String).fill_null("").to_list()
    return found


def require_columns(place: str, found: Sequence[str], wanted: Sequence[str], *, like: str = "") -> None:
    """Raise DatasetError if a column is missing."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DatasetError(
            f"{place}: expected column {', '.join(map(repr, missing))}{like}, got {', '.join(map(repr, found))};"
            " correct the name in the recipe, or the file"
        )


BLOCK_ROWS = 1 << 18


@contextmanager
def reading(file: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser stumbles over in the block into a DatasetError: `expected a TDMS file, got ...`."""
    try:
        yield
    except MmkdError:
        raise
    except Exception as error:  # a parser of a damaged file raises what it happens to meet
        told = first_line(error) or type(error).__name__
        raise DatasetError(f"{file}: expected {what}, got {told}; copy it again") from error


def library(module: str, *, package: str, what: str) -> Any:
    """Import a library that only some formats need. Raise UnavailableError if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"{what} need {package}, which this Python lacks; run: pip install {package}") from error


def utc(times_ns: Any) -> Any:
    """Return nanoseconds since 1970 as a column of times in UTC."""
    import polars as pl

    return pl.Series(times_ns, dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))


def require_one_length(file: Path, lengths: dict[str, int]) -> None:
    """Raise DatasetError if columns that are read together have different numbers of rows."""
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DatasetError(
            f"{file}: expected channels of one length, got {told}; write a [[source]] for each rate, with 'channels'"
        )


def require_one(file: Path, found: Sequence[object], *, what: str) -> None:
    """Raise DatasetError if columns that are read together are of several groups or topics."""
    names = list(dict.fromkeys(str(one) for one in found))
    if len(names) > 1:
        raise DatasetError(
            f"{file}: expected channels of one {what}, got {', '.join(names)}; write a [[source]] for each,"
            " with 'channels'"
        )
