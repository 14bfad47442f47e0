"""`mmkd-bench compare` and `page`: reports of runs in, a verdict or a page out; and what `run --page` does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mmkd_bench.commands.options import Form, FormOption, JsonOption
from mmkd_bench.commands.printing import print_document
from mmkd_bench.compare import DEFAULT_CONDITIONS, MIN_LAUNCHES, parse_conditions, require_passed
from mmkd_bench.compare import compare as compare_runs
from mmkd_bench.report_file import read_report
from mmkd_bench.show.sheets import comparison_sheet
from mmkd_edge.cli.run import check_page
from mmkd_edge.cli.show import say
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_report.schema.bench import BenchReport

if TYPE_CHECKING:
    from mmkd_report.pages.bench import Lead

MOST_TOLD = 5
"""Reports over the budget that the terminal names; the page has all."""


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE.json", help="Report to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER.json", help="Report in question.")],
    *,
    fail_if: Annotated[
        str, typer.Option(help="Changes that end in exit code 5; an empty text fails nothing.")
    ] = DEFAULT_CONDITIONS,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Compare two reports of 'run'; exit 5 where the second is slower beyond noise."""
    conditions = parse_conditions(fail_if)
    comparison = compare_runs(read_report(before), read_report(after), conditions=conditions)
    print_document(comparison, comparison_sheet, form=form, json=json)
    require_passed(comparison)


def page(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT.json...", help="Reports of 'run', the main one first.")
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="The page.")],
    fleet: Annotated[
        bool, typer.Option("--fleet", help="A row for each kind of device and bundle instead, and what is wrong.")
    ] = False,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Of a fleet: what 99 of 100 calls may take, else exit 5.", show_default=False),
    ] = None,
) -> None:
    """Show runs as one self-contained page: distribution, timeline, steps, energy, and devices side by side."""
    require_page(output)
    if budget_ms is not None and not (fleet and math.isfinite(budget_ms) and budget_ms > 0):
        raise UsageError(f"--budget-ms: expected --fleet and milliseconds above 0, got {budget_ms:g}; give both")
    found = [read_report(path) for path in reports]
    if not fleet:
        write_page_of(found, output)
        say(f"wrote {output}; next: open it in a browser")
        return
    _write_fleet(found, list(map(str, reports)), output, budget_ms=budget_ms)


def _write_fleet(found: Sequence[BenchReport], names: Sequence[str], output: Path, *, budget_ms: float | None) -> None:
    """Write the page; raise where a run is over the budget, after that."""
    from mmkd_report import render_fleet, write_page
    from mmkd_report.pages.bench import group_fleet

    documents = [msgspec.to_builtins(report) for report in found]
    write_page(output, render_fleet(documents, names=names, budget_ms=budget_ms))
    say(f"wrote {output}; next: open it in a browser")
    over = [alert for alert in group_fleet(found, names, budget_ms=budget_ms).alerts if alert.over_budget]
    if over:
        more = f" and {len(over) - MOST_TOLD} more" if len(over) > MOST_TOLD else ""
        told = "; ".join(f"{alert.name}: {alert.text}" for alert in over[:MOST_TOLD])
        raise PerformanceError(f"the fleet is over its budget: {told}{more}")


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

    write_page(path, render_bench([msgspec.to_builtins(report) for report in reports], lead=_lead(reports)))


def _lead(reports: Sequence[BenchReport]) -> Lead | None:
    """What `compare` says of the two fastest runs; None where there are not two with enough complete launches."""
    from mmkd_report.pages.bench import Lead, fastest_two

    two = fastest_two([report.result.latency.value_us(0.5) for report in reports])
    if two is None or any(sum(one.complete for one in reports[number].launches) < MIN_LAUNCHES for number in two):
        return None
    comparison = compare_runs(reports[two[1]], reports[two[0]], conditions=())
    median = next(change for change in comparison.changes if change.quantity == "p50")
    if median.low is None or median.high is None:
        return None
    return Lead(is_certain=comparison.verdict == "faster" and median.high < 0, low=median.low, high=median.high)
