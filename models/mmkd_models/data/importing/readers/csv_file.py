"""Text tables of any encoding and separator."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_edge.errors import first_line as error_line
from mmkd_models.data.importing.keys import MAX_LINE_BYTES, TextTable
from mmkd_models.data.importing.readers.table import RowBlock, refuse_columns, refuse_pointer

_BLOCK_CHARACTERS = 1 << 21
_SEPARATORS = ",;\t|"
_COMMA = r"-?\d+,\d+"
_THOUSANDS = r"-?[1-9]\d{0,2},\d{3}"  # or a decimal comma
_POINT = r"-?\d+\.\d+"
_FIRST_CHARACTERS = 1 << 16
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def csv_names(file: Path, table: TextTable) -> tuple[str, ...]:
    """Return column names. Raise DatasetError if the file is empty, has another encoding, or no header."""
    refuse_pointer(file, "a table")
    head, delimiter = _head(file, table)
    if not head:
        raise DatasetError(f"{file}: expected a table, got an empty file; remove it, or write it again")
    ((_, fields),) = _rows(file, head, 1, delimiter)
    refuse_columns(f"{file}:1", len(fields))
    if not table.header:
        return tuple(str(number + 1) for number in range(len(fields)))
    names = tuple(name.strip() for name in fields)
    try:
        is_header = not [float(name.replace(",", ".") if table.decimal == "," else name) for name in names]
    except ValueError:
        is_header = True
    if not is_header:
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
    """Yield columns in blocks. Raise DatasetError with the line if its number of fields differs."""
    import polars as pl

    names, (_, delimiter) = csv_names(file, table), _head(file, table)
    schema = dict.fromkeys(names, pl.String)
    has_commas: bool | None = None
    for text, line in _text_blocks(file, table):
        if has_commas is None:
            has_commas = _means_commas(text, table, delimiter)
        if line == 1 and table.header:
            text, line = text.partition("\n")[2], 2
        data = text.encode()
        if not data:
            continue
        if _is_plain(data, delimiter, len(names)):
            frame = pl.read_csv(data, separator=delimiter, has_header=False, schema=schema)
            lines: Sequence[int] = range(line, line + len(frame))
        elif rows := _rows(file, text, line, delimiter):
            wrong = next((row for row in rows if len(row[1]) != len(names)), None)
            if wrong is not None:
                number, fields = wrong
                others = [sign for sign in _SEPARATORS if delimiter.join(fields).count(sign) == len(names) - 1]
                cure = "correct the line"
                if others and len(names) > 1:
                    cure = f"this line has another separator, {others[0]!r}; write all lines with one"
                elif wrong is rows[-1] and not text.endswith("\n"):
                    cure = "the file seems cut off there; remove the line, or copy the file again"
                expected = f"expected {len(names)} fields separated by {delimiter!r}"
                raise DatasetError(f"{file}:{number}: {expected}, got {len(fields)}; {cure}")
            values = zip(*(fields for _, fields in rows), strict=True)
            frame = pl.DataFrame(dict(zip(names, values, strict=True)), schema=schema)
            lines = [number for number, _ in rows]
        else:
            continue
        place = lambda row, lines=lines: f"{file}:{lines[row]}"  # noqa: E731
        yield RowBlock(frame=frame.select(columns), place=place, has_commas=has_commas)


def has_decimal_commas(file: Path, table: TextTable) -> bool:
    """Return whether decimal = "auto" means commas: the first fields have no other reading, as thousands."""
    text, _ = next(_text_blocks(file, table), ("", 1)) if table.decimal == "auto" else ("", 1)
    return _means_commas(text, table, _head(file, table)[1])


def _means_commas(text: str, table: TextTable, delimiter: str) -> bool:
    if table.decimal != "auto" or delimiter == ",":
        return False
    fields = {field.strip() for field in re.split(rf"[{re.escape(delimiter)}\n]", text[:_FIRST_CHARACTERS])[:-1]}
    commas = [field for field in fields if re.fullmatch(_COMMA, field)]
    return not all(re.fullmatch(_THOUSANDS, field) for field in commas) and not any(
        re.fullmatch(_POINT, field) for field in fields
    )


def detect_encoding(file: Path) -> str:
    """Return the encoding of a byte order mark, else UTF-8."""
    with file.open("rb") as stream:
        head = stream.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def guess_delimiter(line: str) -> str:
    """Return the commonest separator of a line; a comma without any."""
    return max(_SEPARATORS, key=line.count)


def is_decodable(data: bytes, encoding: str) -> bool:
    """Return whether bytes, perhaps cut within a character, are text in this encoding."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def find_undecodable(stream: BinaryIO, encoding: str) -> tuple[int, bytes, bool] | None:
    """Return number and bytes of the first line that is not in this encoding, and whether text before it is."""
    has_text, number = False, 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if not is_decodable(line, encoding):
            return number, line, has_text
        has_text |= not line.isascii()
    return None


def _choose_encoding(file: Path, table: TextTable) -> str:
    return detect_encoding(file) if table.encoding == "auto" else table.encoding


def _head(file: Path, table: TextTable) -> tuple[str, str]:
    encoding = _choose_encoding(file, table)
    with _explain_decode_errors(file, encoding), file.open(encoding=encoding) as stream:
        line = stream.readline(MAX_LINE_BYTES + 1)
    _refuse_long(file, 1, line)
    line = line.lstrip("\ufeff").rstrip("\n")
    return line, guess_delimiter(line) if table.delimiter == "auto" else table.delimiter


def _text_blocks(file: Path, table: TextTable) -> Iterator[tuple[str, int]]:
    encoding, rest, line = _choose_encoding(file, table), "", 1
    with _explain_decode_errors(file, encoding), file.open(encoding=encoding) as stream:
        while text := stream.read(_BLOCK_CHARACTERS):
            if "\0" in text:
                at = line + text.count("\n", 0, text.index("\0"))
                raise DatasetError(
                    f"{file}:{at}: expected text in {encoding}, got a NUL byte; set 'encoding', or 'format' if it is no"
                    " text"
                )
            whole, end, last = (rest + text).rpartition("\n")
            yield (whole + end).lstrip("\ufeff"), line
            line, rest = line + whole.count("\n") + len(end), last
            _refuse_long(file, line, rest)
    if rest:
        yield rest.lstrip("\ufeff"), line


@contextmanager
def _explain_decode_errors(file: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        if (
            not isinstance(error, UnicodeDecodeError) or "BOM" in error.reason
        ):  # a UnicodeDecodeError from Python 3.13 on
            got = "no byte order mark" if "BOM" in str(error) else error_line(error)
            raise DatasetError(f"{file}:1: expected text in {encoding}, got {got}; correct 'encoding'") from error
        if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
            with file.open(encoding=encoding, errors="ignore") as stream:
                line = sum(1 for _ in stream)
            got, cure = "an odd byte at its end", "copy the file again"
        else:
            with file.open("rb") as stream:
                line, data, is_mixed = find_undecodable(stream, encoding) or (1, b"", False)
            guess = next((name for name in ("shift_jis", "cp1252") if is_decodable(data, name)), "latin-1")
            got = f"byte 0x{error.object[error.start]:02x}"
            cure = f"set encoding = '{guess}' if all files of the source have it, or write the file as UTF-8"
            if file.read_bytes()[:4] == b"PK\x03\x04":
                got, cure = "a ZIP file, as Excel's are", "save the sheet as CSV"
            elif is_mixed:
                cure = f"the file mixes encodings, as lines before it are {encoding}: write this line in {encoding} too"
        raise DatasetError(f"{file}:{line}: expected text in {encoding}, got {got}; {cure}") from error


def _refuse_long(file: Path, line: int, text: str) -> None:
    if len(text) > MAX_LINE_BYTES:
        raise DatasetError(
            f"{file}:{line}: expected lines of at most {MAX_LINE_BYTES:,} bytes, got a longer one; write line ends"
            " into the file"
        )


def _is_plain(data: bytes, delimiter: str, width: int) -> bool:
    """Return whether polars, the faster reader, can read the lines."""
    if b'"' in data or width == 1:
        return False
    signs = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", dtype=np.uint8)
    ends, separators = np.flatnonzero(signs == ord("\n")), np.flatnonzero(signs == ord(delimiter))
    counts = np.diff(np.searchsorted(separators, ends), prepend=0)
    return bool((counts == width - 1).all())


def _rows(file: Path, text: str, first_line: int, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows, line = [], first_line
    try:
        for fields in reader:
            if len(fields) > 1 or (fields and fields[0].strip()):
                rows.append((line, fields))
            line = first_line + reader.line_num
    except csv.Error as error:
        raise DatasetError(
            f"{file}:{line}: expected fields with closed quotes, of at most {csv.field_size_limit():,} characters,"
            f" got {error_line(error)}; correct the quotes of the file"
        ) from error
    return rows
