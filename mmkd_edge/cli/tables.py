"""Tables on terminals of any width: columns give way between words, and where that is not enough rows are stacked.

Needs rich, which the extras of the commands install; it is imported where a table is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_WIDE = 10_000
_INDENT = 2


class WholeWords:
    """A table of rich in which no word is broken in half, unless it is longer than a line."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """What rich shows at this width."""
        from copy import copy

        from rich.measure import Measurement

        roomy = options.update(max_width=_WIDE, width=_WIDE)
        cells = [[Measurement.get(console, roomy, cell) for cell in _cells_of(self._table, c)] for c in self._columns]
        most = [max((one.maximum for one in column), default=0) for column in cells]
        words = [max((one.minimum for one in column), default=0) for column in cells]
        least = [most[c] if column.no_wrap else words[c] for c, column in enumerate(self._columns)]
        lines = Measurement.get(console, roomy, self._table).maximum - sum(most)  # what stands between the columns
        if sum(least) + lines > options.max_width:
            yield from self._stacked()
            return
        table = copy(self._table)
        table.columns = [copy(column) for column in table.columns]
        for column, width in zip(table.columns, shared_widths(least, most, options.max_width - lines), strict=True):
            column.width = width
        yield table

    @property
    def _columns(self) -> Sequence[Any]:
        columns: Sequence[Any] = self._table.columns
        return columns

    def _stacked(self) -> Iterator[Any]:
        """Each row as a few lines: the first cell, then the others behind the names of their columns."""
        from rich.padding import Padding
        from rich.text import Text

        if self._table.title:
            yield Text(str(self._table.title))
        headings = [str(column.header) if self._table.show_header else "" for column in self._columns]
        for first, *others in zip(*(column.cells for column in self._columns), strict=True):
            if str(first):
                yield first
            for heading, cell in zip(headings[1:], others, strict=True):
                if str(cell):
                    text = cell if isinstance(cell, Text) else Text(str(cell))
                    yield Padding(Text(f"{heading}: ").append_text(text) if heading else text, (0, 0, 0, _INDENT))


def shared_widths(least: Sequence[int], most: Sequence[int], total: int) -> list[int]:
    """Widths of columns from `least` to `most` that come to `total` at most; the narrowest columns grow first.

    >>> shared_widths([4, 5, 3], [6, 40, 3], 30)
    [6, 21, 3]
    """
    widths = list(least)
    left = total - sum(widths)
    growing = [c for c in range(len(widths)) if widths[c] < most[c]]
    while left > 0 and growing:
        narrowest = min(growing, key=widths.__getitem__)
        widths[narrowest] += 1
        left -= 1
        growing = [c for c in growing if widths[c] < most[c]]
    return widths


def _cells_of(table: Any, column: Any) -> Iterator[Any]:
    if table.show_header:
        yield column.header
    yield from column.cells
