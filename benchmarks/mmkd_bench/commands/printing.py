"""What the commands of searches and contests print: one report in the form that was asked for, whole or interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import RenderableType

from mmkd_bench.commands.options import Form, json_text, say, write
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.show import terminal
from mmkd_bench.show.tables import AnyReport, csv_of, markdown_of

ReportT = TypeVar("ReportT", bound=AnyReport)


def print_measured(
    measure: Callable[[], ReportT], view: Callable[[ReportT], RenderableType], *, form: Form, json: bool
) -> ReportT:
    """Measure, and write the report to stdout; `view` makes its table on a terminal.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was measured until then has been written.
    """
    try:
        report = measure()
    except Interrupted as interrupted:
        _print(interrupted.report, view, form=form, json=json)
        say_interrupted()
        raise
    _print(report, view, form=form, json=json)
    return report


def say_interrupted() -> None:
    """The last line but one of an interrupted command."""
    say("the report holds what was measured until then")


def _print(report: ReportT, view: Callable[[ReportT], RenderableType], *, form: Form, json: bool) -> None:
    if json or form is Form.json:
        write(json_text(report))
    elif form is Form.csv:
        write(csv_of(report))
    elif form is Form.md:
        write(markdown_of(report))
    else:
        terminal.show(view(report))
