"""Tables, CSV, JSON and progress lines for all commands."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_WIDTH_WITHOUT_TERMINAL = 160


def show_table(table: RenderableType, *, width: int = _WIDTH_WITHOUT_TERMINAL) -> None:
    """Print a table or another renderable of rich; `width` applies to files and pipes."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=width)
    console.print(table)


def plain_table(headings: Sequence[str], *, left: Collection[str] = (), title: str | None = None) -> Table:
    """Return a table, without lines unless it has a title; the first column and `left` are left-aligned."""
    from rich.box import HEAVY_HEAD
    from rich.table import Table

    table = Table(title=title, box=None if title is None else HEAVY_HEAD, pad_edge=title is not None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 or heading in left else "right")
    return table


def json_text(document: Any, *, indent: int = 2) -> str:
    """Return a document as indented JSON."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(document), indent=indent).decode()


def say(line: str) -> None:
    """Write a progress line to stderr at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def hint_at_resuming() -> Iterator[None]:
    """Print on Ctrl-C that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        say("the same command continues")
        raise
