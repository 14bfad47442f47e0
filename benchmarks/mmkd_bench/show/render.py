"""A sheet describes a report once: for a terminal, for Markdown, and for programs as CSV. What is in it: `sheets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mmkd_edge.cli.csv_text import csv_text
from mmkd_edge.cli.tables import WholeWords


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: `title` and `write` are for people, `name` for programs; None hides it from either.

    Attributes:
        is_text: stands left and may wrap; the first column always does.
    """

    title: str | None = None
    name: str | None = None
    write: Callable[[Any], str] = str
    is_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of plain values; None is what was not measured."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[object, ...], ...]

    def written(self) -> Iterator[list[str]]:
        """The rows for people, without those that have nothing but a name."""
        for row in self.rows:
            cells = [
                "" if cell is None else column.write(cell)
                for column, cell in zip(self.columns, row, strict=True)
                if column.title is not None
            ]
            if any(cells[1:]):
                yield cells


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence; `style` is rich's."""

    text: str
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A report: parts for people, from top to bottom, and rows for programs; `style` is of the heading."""

    heading: str
    parts: tuple[Table | Sentence, ...]
    csv: Table
    style: str = "bold"


def show(sheet: Sheet) -> None:
    """Write a sheet to stdout as tables on a terminal."""
    Console(highlight=False).print(rich_of(sheet))


def rich_of(sheet: Sheet) -> RenderableType:
    """A sheet for a terminal."""
    drawn: list[RenderableType] = [Text(sheet.heading, style=sheet.style)]
    is_below_table = False
    for part in sheet.parts:
        is_table = isinstance(part, Table)
        drawn += [Text()] if is_table or is_below_table else []
        drawn.append(_rich_table(part) if isinstance(part, Table) else Text(part.text, style=part.style))
        is_below_table = is_table
    return Group(*drawn)


def csv_of(sheet: Sheet) -> str:
    """A sheet as CSV: plain numbers, None as an empty cell."""
    shown = [(number, column.name) for number, column in enumerate(sheet.csv.columns) if column.name is not None]
    return csv_text([[name for _, name in shown], *([row[number] for number, _ in shown] for row in sheet.csv.rows)])


def markdown_of(sheet: Sheet) -> str:
    """A sheet as Markdown, for a pull request."""
    lines, is_list = [f"### {sheet.heading}"], False
    for part in sheet.parts:
        if isinstance(part, Sentence):
            lines += [f"- {part.text}"] if is_list else ["", f"- {part.text}"]
        else:
            titles = [column for column in part.columns if column.title is not None]
            aligned = ["---" if column.is_text or not number else "---:" for number, column in enumerate(titles)]
            cells = [[column.title or "" for column in titles], aligned, *part.written()]
            lines += ["", *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)]
        is_list = isinstance(part, Sentence)
    return "\n".join(lines) + "\n"


def _rich_table(table: Table) -> WholeWords:
    titles = [column for column in table.columns if column.title is not None]
    has_header = any(column.title for column in titles)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_header=has_header)
    for number, column in enumerate(titles):
        is_text = column.is_text or not number
        drawn.add_column(
            column.title or "",
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
            style="" if has_header or number else "dim",
        )
    for row in table.written():
        drawn.add_row(*(Text(cell) for cell in row))
    return WholeWords(drawn)
