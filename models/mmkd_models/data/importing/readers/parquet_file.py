"""Parquet files in blocks of rows. Only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.data.importing.readers.table import RowBlock

_BLOCK_ROWS = 1 << 18


def parquet_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns. Raise DatasetError if the file is no Parquet."""
    import polars as pl

    try:
        return tuple(pl.read_parquet_schema(file))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{file}: expected a Parquet file, got {first_line(error)}; copy it again") from error


def parquet_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns in blocks. Raise DatasetError if the file is damaged."""
    import polars as pl

    first = 0
    while True:
        try:
            frame = pl.scan_parquet(file, glob=False).slice(first, _BLOCK_ROWS).select(columns).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DatasetError(f"{file}: expected a Parquet file, got {first_line(error)}; copy it again") from error
        if not len(frame):
            return
        start = first
        yield RowBlock(file=file, frame=frame, place=lambda row, start=start: f"{file}: row {start + row + 1}")  # type: ignore[misc]
        first += len(frame)
