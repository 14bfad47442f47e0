"""How the commands of `mmkd-bench` print a document, whole or interrupted, in the form that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from mmkd_bench.commands.options import Form, write
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.show.render import Sheet, csv_of, markdown_of, show
from mmkd_bench.show.sheets import sheet_of
from mmkd_edge.cli.show import json_text, say

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)


def print_measured(
    measure: Callable[[], DocumentT], *, form: Form, json: bool, sheet: Callable[[Any], Sheet] = sheet_of
) -> DocumentT:
    """Measure, and write the report to stdout; `sheet` makes what is shown of it.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was measured until then has been written.
    """
    try:
        report = measure()
    except Interrupted as interrupted:
        print_document(interrupted.report, sheet, form=form, json=json)
        say_interrupted()
        raise
    print_document(report, sheet, form=form, json=json)
    return report


def say_interrupted() -> None:
    """The last line but one of an interrupted command."""
    say("the report holds what was measured until then")


def print_document(document: DocumentT, sheet: Callable[[DocumentT], Sheet], *, form: Form, json: bool) -> None:
    """Write a document to stdout; `sheet` makes what is shown of it."""
    if json or form is Form.json:
        write(json_text(document) + "\n")
    elif form is Form.csv:
        write(csv_of(sheet(document)))
    elif form is Form.md:
        write(markdown_of(sheet(document)))
    else:
        show(sheet(document))
