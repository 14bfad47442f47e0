"""`mmkd-bench capacity`: how many streams a device carries."""

from __future__ import annotations

from typing import Annotated

import typer

from mmkd_bench.capacity import LAUNCHES, Question, measure_capacity
from mmkd_bench.commands import options
from mmkd_bench.measuring.load import MISSED_FRACTION
from mmkd_bench.text import plural
from mmkd_edge.cli.show import say
from mmkd_edge.errors import PerformanceError


def capacity(
    bundle: options.BundleArgument,
    *,
    rate: Annotated[float, typer.Option(help="Predictions per second of one stream.")],
    deadline_ms: Annotated[
        float | None, typer.Option(help="Longest acceptable response.", show_default="the period of the rate")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(help="Offer this many instead; exit 5 if they are not carried.", show_default="search")
    ] = None,
    servers: Annotated[
        int | None, typer.Option(help="Threads that answer.", show_default="one per usable core")
    ] = None,
    launches: Annotated[
        int, typer.Option(help="Processes that judge one load, an odd number; most of them decide.")
    ] = LAUNCHES,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Longest time for the answer.")] = 120,
    backend: options.BackendOption = "auto",
    precision: options.ArtifactOption = options.PrecisionOption.auto,
    threads: options.ThreadsOption = None,
    reference: options.ReferenceOption = None,
    json: options.JsonOption = False,
) -> None:
    """Find how many streams this device carries, with p99.9 of the response within the deadline."""
    choice = options.make_choice(bundle, backend, precision, threads, reference)
    question = Question(
        rate_hz=rate, deadline_ms=deadline_ms, streams=streams, servers=servers, launches=launches, budget_s=budget_s
    )
    report = measure_capacity(choice, question, progress=say)
    options.print_report(report, json=json)
    level = report.at_answer or report.refused
    if not report.settled or report.streams or level is None:
        return
    missed = f"{level.missed:,} of {level.due:,} windows missed the deadline of {report.deadline_ms:g} ms"
    backlog = "" if level.missed > MISSED_FRACTION * level.due else ", and the backlog grew all the time"
    refused, count = sum(not launch.carried for launch in report.launches), len(report.launches)
    where = f" in {refused} of {plural(count, 'launch', 'launches')}" if count else ""
    raise PerformanceError(
        f"{report.subject.bundle}: {plural(streams or 1, 'stream')} not carried{where}: {missed}{backlog}"
    )
