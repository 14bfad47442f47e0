"""A page is a head and sections in one template: it works offline, runs no script, and escapes all text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from mmkd_app.pages.charts import Chart, bar
from mmkd_app.words import NOTHING
from mmkd_documents.errors import MmkdError

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Note:
    """A small paragraph."""

    kind: ClassVar = "note"
    text: str


class Heading(Note):
    """A heading inside a section."""

    kind = "heading"


class Code(Note):
    """A command or a snippet."""

    kind = "code"


@dataclass(frozen=True)
class Cell:
    """Text, a smaller `note`, drawn `content`, a link; `shade` (0 to 1) colours it."""

    text: str = ""
    note: str = ""
    content: Markup | None = None
    link: str = ""
    style: str = ""
    role: str = ""
    span: int = 1
    shade: float | None = None


def bar_cell(fraction: float, role: str, text: str = "") -> Cell:
    """Return a cell with a bar of that fraction (0 to 1)."""
    return Cell(text, content=bar(round(100 * min(1.0, max(0.0, fraction)), 2), role))


@dataclass(frozen=True)
class Column:
    """A table column; numbers are right-aligned."""

    title: str
    number: bool = True
    style: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Row:
    """A head, then a cell per further column. The role colours it."""

    cells: Sequence[Cell | str]
    role: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Titled groups of rows; style `results` turns into cards on a phone."""

    kind: ClassVar = "table"
    columns: Sequence[Column]
    caption: str
    groups: Sequence[tuple[Cell | str, Sequence[Row]]]
    style: str
    hide_caption: bool


Rows: TypeAlias = Iterable[Row | Sequence[Cell | str]]


def label(title: str, style: str = "", *, hidden: bool = False) -> Column:
    """Return a column of text."""
    return Column(title, number=False, style=style, hidden=hidden)


BAR = label("Bar", "wide", hidden=True)


def table(
    heads: Sequence[object],
    rows: Rows = (),
    *,
    caption: str,
    groups: Sequence[tuple[Cell | str, Rows]] = (),
    style: str = "results narrow",
    hide_caption: bool = False,
) -> Table:
    """Return a table of `rows` or titled `groups`; heads are columns, or texts above numbers after the first."""
    return Table(
        columns=[head if isinstance(head, Column) else Column(str(head), bool(at)) for at, head in enumerate(heads)],
        caption=caption,
        groups=[
            (title, [row if isinstance(row, Row) else Row(row) for row in part])
            for title, part in groups or [("", rows)]
        ],
        style=style,
        hide_caption=hide_caption,
    )


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar = "facts"
    rows: Iterable[tuple[str, str]]
    title: str = ""
    hashes: bool = False


@dataclass(frozen=True)
class Legend:
    """Colours of lines: role and name."""

    kind: ClassVar = "legend"
    entries: Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Columns:
    """Blocks side by side; a list stays together."""

    kind: ClassVar = "columns"
    items: Sequence[Sequence[Block]]
    style: str = ""


def columns(items: Iterable[Block]) -> Columns:
    """Return single blocks side by side."""
    return Columns([[item] for item in items])


@dataclass(frozen=True)
class Details:
    """Blocks folded below a summary."""

    kind: ClassVar = "details"
    summary: str
    blocks: Sequence[Block]
    is_open: bool = False


@dataclass(frozen=True)
class Findings:
    """Warnings: kind, sentence, advice, and whether results become wrong."""

    kind: ClassVar = "findings"
    items: Sequence[tuple[str, str, str, bool]]


Block: TypeAlias = "str | Note | Table | Facts | Chart | Legend | Columns | Details | Findings"
"""A text is a paragraph; markup is drawn as it is."""


@dataclass(frozen=True)
class Section:
    """A section of a page; `key` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    title: str
    kind: str
    headline: str
    lede: Iterable[str]  # sentences below the headline, the first one bold
    answer: Iterable[str]
    sections: Sequence[Section]
    document: str  # the file with the unrounded figures
    cautions: Iterable[str] = ()
    key_figures: Iterable[tuple[str, str]] = ()  # number, caption


def render(page: Page) -> str:
    """Return the page as HTML, deterministically."""
    return _template().render(page=page, nothing=NOTHING, key_figures=list(page.key_figures))


class PageError(MmkdError, OSError):
    """A page that cannot be written."""

    exit_code = 2


def write_page(path: str | os.PathLike[str], html: str) -> None:
    """Write a page atomically; raise PageError if that fails."""
    target = Path(path)
    if not target.parent.is_dir():
        raise PageError(f"page '{target}': expected an existing folder, got '{target.parent}'; create it first")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(html)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise PageError(
            f"page '{target}': expected a file that can be written, got '{error.strerror}'; "
            "free the space, or choose another path"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only folder always fails
            temporary.unlink(missing_ok=True)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2")
