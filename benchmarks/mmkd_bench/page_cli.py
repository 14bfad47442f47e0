"""`mmkd-bench page`: reports of runs in, one page out; and what `run --page` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mmkd_bench.options_cli import say
from mmkd_bench.report import BenchReport, read_report
from mmkd_edge.command import check_page


def page(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT.json...", help="Reports of 'run', the main one first.")
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="The page.")],
) -> None:
    """Show runs as one self-contained page: distribution, timeline, steps, energy, and devices side by side."""
    require_page(output)
    write_page_of([read_report(path) for path in reports], output)
    say(f"wrote {output}; next: open it in a browser")


def require_page(path: Path) -> None:
    """Refuse a page that could not be made or written, before the work.

    Raises:
        UsageError: the name is no HTML file's, or its folder is missing.
        UnavailableError: the library that pages are made with is missing.
    """
    check_page(path, extra="bench")


def write_page_of(reports: Sequence[BenchReport], path: Path) -> None:
    """Make and write the page of these runs.

    Raises:
        DocumentError: more runs than a page can hold.
        PageError: it cannot be written.
    """
    from mmkd_report import render_bench, write_page

    write_page(path, render_bench([msgspec.to_builtins(report) for report in reports]))
