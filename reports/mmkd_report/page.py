"""A page is a title, an answer and a list of sections; one template draws it.

Owns the parts of a page and its writing. A page is one file that works offline: nothing is fetched, and no script runs
but one that the page names in its content security policy by its hash. Every text is escaped.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from mmkd_report.charts import Chart
from mmkd_report.errors import PageError
from mmkd_report.words import NOTHING

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A paragraph; `style` is `about`, `caution`, `notes` or empty."""

    kind: ClassVar = "text"
    text: str | Markup
    style: str = "about"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Code:
    """A command or a snippet."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Cell:
    """A table cell: text, with a smaller `note` beside it, drawn `content` or a link; `shade` (0 to 1) colours it."""

    text: str = ""
    note: str = ""
    content: Markup | None = None
    link: str = ""
    style: str = ""
    role: str = ""
    span: int = 1
    shade: float | None = None
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers stand right-aligned."""

    title: str
    number: bool = True
    style: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its head, the cells under the further columns, and a role that colours it."""

    head: Cell | str
    cells: Sequence[Cell | str] = ()
    role: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. `groups` are titled parts of its rows; wide tables (`results`) turn into cards on a phone."""

    kind: ClassVar = "table"
    columns: Sequence[Column]
    caption: str
    groups: Sequence[tuple[Cell | str, Sequence[Row]]]
    style: str = "results narrow"
    hide_caption: bool = False
    body_id: str = ""


Heads: TypeAlias = list[Column | str]


def label(title: str, style: str = "", *, hidden: bool = False) -> Column:
    """Return a column of text."""
    return Column(title, number=False, style=style, hidden=hidden)


def table(columns: Sequence[Column | str], rows: Sequence[Row], *, caption: str, **options: object) -> Table:
    """Return a table of one group; a column given as text is a column of numbers."""
    made = tuple(Column(one) if isinstance(one, str) else one for one in columns)
    return Table(columns=made, groups=(("", rows),), caption=caption, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values; `style` is `facts` or `glossary`."""

    kind: ClassVar = "facts"
    rows: Iterable[tuple[str, str]]
    title: str = ""
    style: str = "facts"
    hashes: bool = False


@dataclass(frozen=True)
class Picture:
    """A chart as a figure."""

    kind: ClassVar = "picture"
    chart: Chart


@dataclass(frozen=True)
class Legend:
    """What the colours of lines stand for: role and name."""

    kind: ClassVar = "legend"
    entries: Iterable[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Blocks side by side; each item is a list of blocks that stay together."""

    kind: ClassVar = "columns"
    items: Sequence[Sequence[Block]]
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks that are folded away below a summary."""

    kind: ClassVar = "details"
    summary: str
    blocks: Sequence[Block]
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Warnings: kind, sentence, advice, and whether one would make results wrong."""

    kind: ClassVar = "findings"
    items: Sequence[tuple[str, str, str, bool]]


@dataclass(frozen=True)
class Drawing:
    """Markup that is drawn as it is."""

    kind: ClassVar = "drawing"
    markup: Markup


Block: TypeAlias = Text | Heading | Code | Table | Facts | Picture | Legend | Columns | Details | Findings | Drawing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page; its `key` is its anchor. `link` names it in the list of contents, its title otherwise."""

    key: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = ()
    link: str = ""
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page. `key_figures` are (number, caption); `script` is the one script that may run."""

    title: str
    kind: str
    headline: str
    lede: Sequence[tuple[bool, str]]
    answer: Sequence[str]
    sections: Sequence[Section]
    footer: str
    answer_title: str = "The answer"
    cautions: Sequence[str] = ()
    key_figures: Sequence[tuple[str, str]] = ()
    has_contents: bool = False
    script: str = ""


def render(page: Page) -> str:
    """Return the page as HTML. Equal pages give equal bytes."""
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode("ascii")
    policy = f"; script-src 'sha256-{digest}'" if page.script else ""
    return _template().render(page=page, policy=policy, nothing=NOTHING)


def write_page(path: str | os.PathLike[str], html: str) -> None:
    """Write a page, all or nothing: a temporary sibling is flushed to disk, then renamed over an older file.

    Raises:
        PageError: The folder is missing or the file cannot be written; an older page is left as it was.
    """
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
        with contextlib.suppress(OSError):  # a read-only folder says so even where there is nothing to remove
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
