"""Parquet files in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, reading, row_block

_WHAT = "a Parquet file"


def parquet_names(file: Path) -> tuple[str, ...]:
    """Return the names of the columns. Raise DatasetError if the file is no Parquet."""
    import polars as pl

    with reading(file, _WHAT):
        return tuple(pl.read_parquet_schema(file))


def parquet_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns in blocks. Raise DatasetError if the file is damaged."""
    import polars as pl

    first = 0
    with reading(file, _WHAT):
        while len(frame := pl.scan_parquet(file, glob=False).slice(first, BLOCK_ROWS).select(columns).collect()):
            yield row_block(file, frame.to_dict(), first, base=1)
            first += len(frame)
