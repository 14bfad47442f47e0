"""`mmkd-bench page`, and `run --page`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mmkd_bench.compare import MIN_LAUNCHES
from mmkd_bench.compare import compare as compare_reports
from mmkd_bench.reports import read_report
from mmkd_edge.cli.run import check_page
from mmkd_edge.cli.show import say
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_report.schema.bench import BenchReport

if TYPE_CHECKING:
    from mmkd_report.pages.bench import Lead

_MAX_NAMED = 5  # reports named on the terminal; the page has all


def page(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT.json...", help="Reports of 'run', the main one first.")
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="The page.")],
    fleet: Annotated[
        bool, typer.Option("--fleet", help="Show a row for each kind of device and bundle, and the problems.")
    ] = False,
    budget_ms: Annotated[
        float | None, typer.Option(help="Exit 5 if p99 of a report in the fleet is larger.", show_default=False)
    ] = None,
) -> None:
    """Show runs as one self-contained page: distribution, timeline, steps, energy, and devices side by side."""
    check_page(output, extra="bench")
    if budget_ms is not None and not (fleet and math.isfinite(budget_ms) and budget_ms > 0):
        raise UsageError(f"--budget-ms: expected --fleet and milliseconds above 0, got {budget_ms:g}; give both")
    runs = [read_report(path) for path in reports]
    alerts = []
    if fleet:
        from mmkd_report import render_fleet, write_page
        from mmkd_report.pages.fleet import group_fleet

        names = list(map(str, reports))
        write_page(output, render_fleet(list(map(msgspec.to_builtins, runs)), names=names, budget_ms=budget_ms))
        alerts = [alert for alert in group_fleet(runs, names, budget_ms=budget_ms).alerts if alert.over_budget]
    else:
        write_run_page(output, runs)
    say(f"wrote {output}; next: open it in a browser")
    if alerts:
        more = f" and {len(alerts) - _MAX_NAMED} more" if len(alerts) > _MAX_NAMED else ""
        named = "; ".join(f"{alert.name}: {alert.text}" for alert in alerts[:_MAX_NAMED])
        raise PerformanceError(f"the fleet is over its budget: {named}{more}")


def write_run_page(path: Path, reports: Sequence[BenchReport]) -> None:
    """Write the page of runs."""
    from mmkd_report import render_bench, write_page

    write_page(path, render_bench([msgspec.to_builtins(report) for report in reports], lead=_lead(reports)))


def _lead(reports: Sequence[BenchReport]) -> Lead | None:
    """Compare the fastest two with enough complete launches."""
    from mmkd_report.pages.bench import Lead, fastest_two

    two = fastest_two([report.result.latency.value_us(0.5) for report in reports])
    if two is None:
        return None
    fastest, second = (reports[number] for number in two)
    if any(sum(launch.complete for launch in report.launches) < MIN_LAUNCHES for report in (fastest, second)):
        return None
    comparison = compare_reports(second, fastest, conditions=())
    median = next(change for change in comparison.changes if change.quantity == "p50")
    if median.low is None or median.high is None:
        return None
    return Lead(is_certain=comparison.verdict == "faster" and median.high < 0, low=median.low, high=median.high)
