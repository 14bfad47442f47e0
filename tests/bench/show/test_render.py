"""Reports on narrow terminals."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from mmkd_bench.show.render import rich_of
from mmkd_bench.show.sheets import sheet_of
from mmkd_report.schema.bench import BenchReport


def words(report: BenchReport, *, width: int) -> set[str]:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(rich_of(sheet_of(report)))
    assert [line for line in file.getvalue().splitlines() if len(line) > width] == []
    # A stacked row names its columns with a colon, and a bar may be wrapped.
    return {word.rstrip(":") for word in file.getvalue().split() if "█" not in word}


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_breaks_no_word_of_a_report(
    report_of: Callable[..., BenchReport], launch_of: Callable[..., Any], width: int
) -> None:
    report = report_of([launch_of(100.0), launch_of(101.0, seed=1)])
    assert {"throughput", "check_window", "confidence"} <= words(report, width=width)
    assert words(report, width=width) <= words(report, width=200)
