"""CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

# A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV Injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    r"""Return rows as CSV; a text that a spreadsheet would run as a formula gets a `'` before it.

    Example:
        >>> csv_text([["label", "change"], ["=1+1", -0.5], ["@home", "-3"]])
        "label,change\n'=1+1,-0.5\n'@home,-3\n"
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    escaped = f"'{value}" if value.startswith(_FORMULA_STARTS) and not _is_number(value) else value
    return escaped.replace("\r", "\n")  # the writer quotes "\n"; a bare "\r" would begin a row


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
