"""Tables of rows with their place in the file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.bundle.files import lfs_pointer
from mmkd_edge.errors import DatasetError, MmkdError, UnavailableError, first_line
from mmkd_models.data.importing.keys import MAX_COLUMNS, TextTable
from mmkd_models.data.windows import Floats

if TYPE_CHECKING:
    import polars as pl

BLOCK_ROWS = 1 << 18


@dataclass(frozen=True, kw_only=True, eq=False)
class RowBlock:
    """Consecutive rows of a file (text files: all text), and their places: `log.csv:17`."""

    frame: pl.DataFrame
    place: Callable[[int], str]
    has_commas: bool = False  # as decimal signs, found in the file


def row_block(
    file: Path, columns: Mapping[str, Any], first: int = 0, *, called: str = "row", base: int = 0
) -> RowBlock:
    """Return a block that begins at row `first` of its file; messages count from `base`."""
    import polars as pl

    frame = pl.DataFrame(dict(columns), strict=False)
    return RowBlock(frame=frame, place=lambda row: f"{file}: {called} {first + row + base}")


def numbers(block: RowBlock, columns: Sequence[str], table: TextTable) -> Floats:
    """Return float32 (rows, C), NaN for missing. Raise DatasetError with the line if a field is no number."""
    return np.stack([_column(block, column, table) for column in columns], axis=1)


def _column(block: RowBlock, name: str, table: TextTable) -> Floats:
    import polars as pl

    column = plain = block.frame[name]
    if column.dtype == pl.String:
        column = plain = strip_texts(column, table)
        if uses_commas(block, table):
            # A dot is then no decimal sign: 1.5 would be read where 15 or a date was meant.
            plain = pl.select(pl.when(~plain.str.contains(".", literal=True)).then(plain)).to_series()
            plain = plain.str.replace(",", ".", literal=True)
    values = plain.cast(pl.Float64, strict=False)
    with np.errstate(over="ignore", invalid="ignore"):
        single: Floats = np.asarray(values.to_numpy(), dtype=np.float32)
    wrong = (column.is_not_null() & values.is_null()).to_numpy() | np.isinf(single)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        cure = f"correct it, or add {str(column[row])!r} to 'null' if it means missing"
        if ("." if uses_commas(block, table) else ",") in str(column[row]):
            cure = decimal_cure(table)
        raise DatasetError(
            f"{block.place(row)}: column {name!r}: expected a number, got {column[row]!r}"
            f" ({int(wrong.sum())} such from there on); {cure}"
        )
    return single


def uses_commas(block: RowBlock, table: TextTable) -> bool:
    """Return whether decimal signs of a block are commas."""
    return block.has_commas or table.decimal == ","


def decimal_cure(table: TextTable) -> str:
    """Return how to read a file whose numbers have another decimal sign."""
    if table.decimal != "auto":
        return "set decimal = 'auto', which reads each file by its own sign"
    return (
        "set decimal = ',' if every file of the source has that sign, or write this file with points and without a"
        " thousands separator"
    )


def strip_texts(column: pl.Series, table: TextTable) -> pl.Series:
    """Strip blanks; null for missing."""
    import polars as pl

    text = column.str.strip_chars()
    return pl.select(pl.when(~text.is_in(["", *table.null])).then(text)).to_series()


def texts(block: RowBlock, name: str, table: TextTable) -> list[str]:
    """Return a column as text; empty for missing."""
    import polars as pl

    column = block.frame[name]
    if column.dtype == pl.String:
        column = strip_texts(column, table)
    values: list[str] = column.cast(pl.String).fill_null("").to_list()
    return values


def require_columns(
    place: str, names: Sequence[str], required: Sequence[str], *, like: str = "", cure: str = ""
) -> None:
    """Raise DatasetError if a column is missing."""
    missing = [name for name in required if name not in names]
    if missing:
        raise DatasetError(
            f"{place}: expected column {', '.join(map(repr, missing))}{like}, got {', '.join(map(repr, names))};"
            f" correct the name in the recipe, or the file{cure}"
        )


def refuse_columns(place: str, count: int) -> None:
    """Raise DatasetError if a file has more columns than an import takes."""
    if count > MAX_COLUMNS:
        raise DatasetError(f"{place}: expected at most {MAX_COLUMNS:,} columns, got {count:,}; split the file")


def refuse_pointer(file: Path, what: str) -> None:
    """Raise DatasetError, `expected` this, if Git LFS has not fetched the file."""
    if got := lfs_pointer(file):
        raise DatasetError(f"{file}: expected {what}, {got}")


@contextmanager
def reading(file: Path, what: str, cure: str = "copy it again") -> Iterator[None]:
    """Turn any parser error into a DatasetError: `expected a TDMS file, got ...`."""
    try:
        refuse_pointer(file, what)
        yield
    except MmkdError:
        raise
    except Exception as error:  # a parser of a damaged file may raise anything
        raise DatasetError(f"{file}: expected {what}, got {first_line(error)}; {cure}") from error


def library(module: str, *, package: str, what: str) -> Any:
    """Import a library that only some formats need. Raise UnavailableError if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"{what} need {package}, which this Python lacks; run: pip install {package}") from error


def require_one(file: Path, values: Mapping[str, object], *, what: str, each: str) -> None:
    """Raise DatasetError if columns read together differ in length, group or clock."""
    if len(set(values.values())) > 1:
        got = ", ".join(f"{name} {value}" for name, value in values.items())
        raise DatasetError(
            f"{file}: expected channels of one {what}, got {got}; write a [[source]] for each {each}, with 'channels'"
        )
