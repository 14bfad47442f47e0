"""From a template and its figures to one self-contained HTML page, and from there to a file.

Owns the template environment (escaping on, undefined names are errors) and the writing. Every page extends
`templates/base.html.j2`, which brings the style, the content security policy and the frame; nothing is fetched from
anywhere, and no script runs but one that a page names in its policy by its hash.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_report.errors import PageError
from mmkd_report.words import formats

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parents[1] / "templates"


def render_page(template: str, context: Mapping[str, object]) -> str:
    """The HTML of a template of this package; every text in `context` is escaped. Equal figures give equal bytes."""
    return _environment().get_template(template).render(context)


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


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        fixed=formats.fixed,
        count=formats.count,
        percent=formats.percent,
        share=formats.share,
        points=formats.points,
        significant=formats.significant,
        plain=formats.plain,
        magnitude=formats.magnitude,
        duration=formats.duration,
        listed=formats.listed,
        with_unit=formats.with_unit,
        pyquote=repr,
    )
    environment.globals.update(things=formats.things, nothing=formats.NOTHING)
    return environment
