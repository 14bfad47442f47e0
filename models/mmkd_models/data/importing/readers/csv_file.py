"""Text tables in blocks: any encoding, any separator, each row with its line."""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.limits import MOST_LINE_BYTES
from mmkd_models.data.importing.readers.table import RowBlock, refuse_columns

_BLOCK_CELLS = 1 << 20
_SEPARATORS = ",;\t|"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def csv_names(file: Path, table: TextTable) -> tuple[str, ...]:
    """Return the names of the columns.

    Raise DatasetError if the file is empty, has another encoding, or no header.
    """
    _, fields = next(_rows(file, table), (0, []))
    if not fields:
        raise DatasetError(f"{file}: expected a table, got an empty file; remove it, or write it again")
    refuse_columns(f"{file}:1", len(fields))
    if not table.header:
        return tuple(str(number + 1) for number in range(len(fields)))
    names = tuple(name.strip() for name in fields)
    if all(_is_number(name, table) for name in names):
        head = _delimiter(file, table).join(fields)
        raise DatasetError(
            f"{file}:1: expected the names of the columns, got numbers, {head!r};"
            " write a header, or set header = false and name columns by their numbers, '1', '2'..."
        )
    for name in names:
        if names.count(name) > 1:
            places = " and ".join(str(number + 1) for number, other in enumerate(names) if other == name)
            raise DatasetError(
                f"{file}:1: expected different names of columns, got {name!r} for columns {places}; rename one"
            )
    return names


def csv_blocks(file: Path, table: TextTable, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield these columns in blocks.

    Raise DatasetError, with the line, if a line has another number of fields than the first one.
    """
    names = csv_names(file, table)
    rows = itertools.islice(_rows(file, table), int(table.header), None)
    while block := list(itertools.islice(rows, max(1, _BLOCK_CELLS // len(names)))):
        for line, fields in block:
            if len(fields) != len(names):
                raise _fields_error(file, table, line, fields, len(names))
        yield _row_block(file, block, {name: names.index(name) for name in columns})


def _row_block(file: Path, rows: Sequence[tuple[int, list[str]]], places: Mapping[str, int]) -> RowBlock:
    import polars as pl

    columns = list(zip(*(fields for _, fields in rows), strict=True))
    values = {name: columns[place] for name, place in places.items()}
    frame = pl.DataFrame(values, schema=dict.fromkeys(values, pl.String))
    return RowBlock(frame=frame, place=lambda row: f"{file}:{rows[row][0]}")


def encoding_of(file: Path) -> str:
    """Return the encoding of a byte order mark, else UTF-8, which is checked when the file is read."""
    with file.open("rb") as opened:
        head = opened.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def guess_delimiter(line: str) -> str:
    """Return the commonest separator of a line; a comma where there is none."""
    return max(_SEPARATORS, key=line.count)


def is_decodable(data: bytes, encoding: str) -> bool:
    """Whether bytes, perhaps cut off within a character, are text in this encoding."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _is_number(text: str, table: TextTable) -> bool:
    try:
        float(text.replace(table.decimal, "."))
    except ValueError:
        return False
    return True


def _delimiter(file: Path, table: TextTable) -> str:
    return guess_delimiter(next(_lines(file, table), "")) if table.delimiter == "auto" else table.delimiter


def _rows(file: Path, table: TextTable) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of each row, the header included; blank lines are left out."""
    reader = csv.reader(_lines(file, table), delimiter=_delimiter(file, table), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DatasetError(
                f"{file}:{line}: expected fields with closed quotes, of at most {csv.field_size_limit():,} characters,"
                f" got {first_line(error)}; correct the quotes of the file"
            ) from error
        if len(fields) > 1 or (fields and fields[0].strip()):
            yield line, fields


def _lines(file: Path, table: TextTable) -> Iterator[str]:
    encoding = encoding_of(file) if table.encoding == "auto" else table.encoding
    number = 0
    with file.open(encoding=encoding) as opened:
        try:
            while line := opened.readline(MOST_LINE_BYTES + 1):
                number += 1
                if len(line) > MOST_LINE_BYTES:
                    raise DatasetError(
                        f"{file}:{number}: expected lines of at most {MOST_LINE_BYTES:,} bytes, got a longer one; write"
                        " line ends into the file"
                    )
                if "\0" in line:
                    raise DatasetError(
                        f"{file}:{number}: expected text in {encoding}, got a NUL byte; set 'encoding', or 'format' if"
                        " it is no text"
                    )
                yield line.lstrip("\ufeff") if number == 1 else line
        except UnicodeDecodeError as error:
            number += 1 + error.object[: error.start].count(b"\n")
            raise DatasetError(
                f"{file}:{number}: expected text in {encoding}, got {_cause(error, encoding)}"
            ) from error
        except UnicodeError as error:
            raise DatasetError(
                f"{file}:1: expected text in {encoding}, got {first_line(error)}; correct 'encoding'"
            ) from error


def _cause(error: UnicodeDecodeError, encoding: str) -> str:
    if encoding.startswith("utf-16"):
        return "an odd byte at its end; copy the file again"
    guess = next((name for name in ("shift_jis", "cp1252") if is_decodable(error.object, name)), "latin-1")
    byte = error.object[error.start]
    return f"byte 0x{byte:02x}; set encoding, perhaps to '{guess}', or write the file as UTF-8"


def _fields_error(file: Path, table: TextTable, line: int, fields: Sequence[str], expected: int) -> DatasetError:
    delimiter = _delimiter(file, table)
    text = delimiter.join(fields)
    others = [sign for sign in _SEPARATORS if sign != delimiter and text.count(sign) == expected - 1]
    cure = "correct the line"
    if others and expected > 1:
        cure = f"this line has another separator, {others[0]!r}; write all lines with one"
    elif all(number <= line for number, _ in _rows(file, table)) and file.read_bytes()[-1:] not in (b"\n", b"\0"):
        cure = "the file seems cut off there; remove the line, or copy the file again"
    return DatasetError(
        f"{file}:{line}: expected {expected} fields separated by {delimiter!r}, got {len(fields)}; {cure}"
    )
