"""What the commands of searches and contests print: one report in the form that was asked for."""

from __future__ import annotations

from rich.console import RenderableType

from mmkd_bench import terminal
from mmkd_bench.options_cli import Form, json_text, write
from mmkd_bench.tables import AnyReport, csv_of, markdown_of


def print_report(report: AnyReport, view: RenderableType, *, form: Form, json: bool) -> None:
    """Write a report to stdout; `view` is its table on a terminal."""
    if json or form is Form.json:
        write(json_text(report))
    elif form is Form.csv:
        write(csv_of(report))
    elif form is Form.md:
        write(markdown_of(report))
    else:
        terminal.show(view)
