"""Text tables in blocks: any encoding, any separator, each row with its line."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_edge.errors import first_line as error_line
from mmkd_models.data.importing.limits import MOST_LINE_BYTES, refuse_columns
from mmkd_models.data.importing.readers.table import RowBlock, TextTable

BLOCK_BYTES = 1 << 23
_SEPARATORS = ",;\t|"
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one text file is laid out."""

    encoding: str
    delimiter: str
    names: tuple[str, ...]
    first_line: int


def layout_of(file: Path, table: TextTable) -> Layout:
    """Read the first line of a text file.

    Raise DatasetError if it is empty, has another encoding, or its header is none.
    """
    encoding = encoding_of(file) if table.encoding == "auto" else table.encoding
    head = next(_lines(file, encoding), (b"", 1))[0].decode().lstrip("\ufeff").splitlines()
    if not head:
        raise DatasetError(f"{file}: expected a table, got an empty file; remove it, or write it again")
    delimiter = guessed_delimiter(head[0]) if table.delimiter == "auto" else table.delimiter
    fields = _rows_of(file, 1, [head[0]], delimiter)[0]
    refuse_columns(f"{file}:1", len(fields))
    if not table.header:
        return Layout(
            encoding=encoding, delimiter=delimiter, names=tuple(map(str, range(1, len(fields) + 1))), first_line=1
        )
    names = tuple(name.strip() for name in fields)
    if all(_is_number(name, table) for name in names):
        raise DatasetError(
            f"{file}:1: expected the names of the columns, got numbers, {head[0]!r};"
            " write a header, or set header = false and name columns by their numbers, '1', '2'..."
        )
    for name in names:
        if names.count(name) > 1:
            places = " and ".join(str(number + 1) for number, other in enumerate(names) if other == name)
            raise DatasetError(
                f"{file}:1: expected different names of columns, got {name!r} for columns {places}; rename one"
            )
    return Layout(encoding=encoding, delimiter=delimiter, names=names, first_line=2)


def csv_blocks(file: Path, layout: Layout, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns of a text file in blocks of whole lines.

    Raise DatasetError, with the line, if a line has another number of fields than the first one.
    """
    import polars as pl

    schema = dict.fromkeys(layout.names, pl.String)
    for data, first_line in _lines(file, layout.encoding):
        if first_line == 1 and layout.first_line == 2:
            data, first_line = data.partition(b"\n")[2], 2
        is_plain = not _has_blank_lines(data)
        line_of = _line_counter(None if is_plain else data, first_line)
        rows = data if is_plain else b"\n".join(line for line in data.splitlines() if line.strip()) + b"\n"
        if not rows.strip():
            continue
        _check_fields(file, rows, layout, line_of)
        try:
            frame = pl.read_csv(rows, separator=layout.delimiter, has_header=False, schema=schema)
        except pl.exceptions.PolarsError as error:
            raise DatasetError(
                f"{file}:{first_line}: expected lines of {len(layout.names)} fields from there on, got"
                f" {error_line(error)}; correct the quotes of the file"
            ) from error
        yield RowBlock(file=file, frame=frame.select(columns), place=_placer(file, line_of))


def encoding_of(file: Path) -> str:
    """Return the encoding that a byte order mark says, else UTF-8, which is checked when the file is read."""
    with file.open("rb") as opened:
        head = opened.read(4)
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


def guessed_delimiter(line: str) -> str:
    """Return the commonest separator of a line; a comma where there is none."""
    return max(_SEPARATORS, key=line.count)


def _is_number(text: str, table: TextTable) -> bool:
    try:
        float(text.replace(table.decimal, "."))
    except ValueError:
        return False
    return True


def _placer(file: Path, line_of: Callable[[int], int]) -> Callable[[int], str]:
    return lambda row: f"{file}:{line_of(row)}"


def _lines(file: Path, encoding: str) -> Iterator[tuple[bytes, int]]:
    """Whole lines as UTF-8, about a block of them, and the number of the first."""
    decoder = codecs.getincrementaldecoder(encoding)()
    rest, line = b"", 1
    with file.open("rb") as opened:
        while raw := opened.read(BLOCK_BYTES):
            data = rest + _decoded(file, decoder, raw, line + rest.count(b"\n"), encoding)
            if b"\0" in data:
                at = line + data.count(b"\n", 0, data.index(b"\0"))
                raise DatasetError(
                    f"{file}:{at}: expected text in {encoding}, got a NUL byte; set 'encoding', or 'format' if it is no"
                    " text"
                )
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if len(rest) > MOST_LINE_BYTES:
                at = line + data.count(b"\n")
                raise DatasetError(
                    f"{file}:{at}: expected lines of at most {MOST_LINE_BYTES:,} bytes, got a longer one; write line"
                    " ends into the file"
                )
            if end:
                yield data[:end], line
                line += data.count(b"\n", 0, end)
    rest += _decoded(file, decoder, b"", line, encoding, final=True)
    if rest:
        yield rest, line


def _decoded(
    file: Path, decoder: codecs.IncrementalDecoder, raw: bytes, line: int, encoding: str, *, final: bool = False
) -> bytes:
    try:
        return decoder.decode(raw, final).encode()
    except UnicodeError as error:
        if not isinstance(error, UnicodeDecodeError):
            raise DatasetError(
                f"{file}:{line}: expected text in {encoding}, got {error_line(error)}; correct 'encoding'"
            ) from error
        line += error.object[: error.start].count(b"\n")
        byte = error.object[error.start]
        guess = next((name for name in ("shift_jis", "cp1252") if _is_decodable(raw, name)), "latin-1")
        if encoding.startswith("utf-16"):
            raise DatasetError(
                f"{file}:{line}: expected text in {encoding}, got an odd byte at its end; copy the file again"
            ) from error
        raise DatasetError(
            f"{file}:{line}: expected text in {encoding}, got byte 0x{byte:02x};"
            f" set encoding, perhaps to '{guess}', or write the file as UTF-8"
        ) from error


def _is_decodable(raw: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(raw)
    except UnicodeDecodeError:
        return False
    return True


def _has_blank_lines(data: bytes) -> bool:
    """Whether a line end follows another one; searching for both in the bytes takes ten times as long."""
    signs = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(signs == ord("\n"))
    if not len(ends):
        return False
    lengths = np.diff(ends, prepend=-1)
    return bool((lengths == 1).any() or (signs[ends[lengths == 2] - 1] == ord("\r")).any())


def _line_counter(data: bytes | None, first_line: int) -> Callable[[int], int]:
    """Return the line of a row, from 0, of what is left of a block without its blank lines."""

    def line_of(row: int) -> int:
        if data is None:
            return first_line + row
        filled = [number for number, line in enumerate(data.split(b"\n")) if line.strip()]
        return first_line + filled[row]

    return line_of


def _check_fields(file: Path, rows: bytes, layout: Layout, line_of: Callable[[int], int]) -> None:
    """Refuse a line with more or fewer fields than the header: a file cut off, or another separator."""
    expected = len(layout.names)
    if b'"' in rows:
        lines = _rows_of(file, line_of(0), io.StringIO(rows.decode()), layout.delimiter)
        counts = [len(row) for row in lines]
        wrong = [number for number, count in enumerate(counts) if count != expected]
        found = None if not wrong else (wrong[0], counts[wrong[0]])
    else:
        found = _odd_line(rows, layout.delimiter.encode(), expected)
    if found is None:
        return
    row, count = found
    text = rows.split(b"\n", row + 1)[row].decode().strip()
    others = [sign for sign in _SEPARATORS if sign != layout.delimiter and text.count(sign) == expected - 1]
    cure = "correct the line"
    if others and expected > 1:
        cure = f"this line has another separator, {others[0]!r}; write all lines with one"
    elif row == rows.rstrip(b"\n").count(b"\n") and not rows.endswith(b"\n"):
        cure = "the file seems cut off there; remove the line, or copy the file again"
    raise DatasetError(
        f"{file}:{line_of(row)}: expected {expected} fields separated by {layout.delimiter!r}, got {count}; {cure}"
    )


def _rows_of(file: Path, line: int, lines: Iterable[str], delimiter: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise DatasetError(
            f"{file}:{line}: expected fields of at most {csv.field_size_limit():,} characters from there on, got"
            f" {error_line(error)}; close the quotes of the file"
        ) from error


def _odd_line(rows: bytes, delimiter: bytes, expected: int) -> tuple[int, int] | None:
    """The first line with another number of fields, and that number; None if all are alike."""
    data = np.frombuffer(rows if rows.endswith(b"\n") else rows + b"\n", dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    signs = np.flatnonzero(data == ord(delimiter))
    counts = np.diff(np.searchsorted(signs, ends), prepend=0) + 1
    wrong = np.flatnonzero(counts != expected)
    return (int(wrong[0]), int(counts[wrong[0]])) if len(wrong) else None
