"""What readers of other libraries' formats share: their errors told as one, and libraries that may be missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkd_edge.errors import DatasetError, MmkdError, UnavailableError, first_line

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
