"""`mmkd-bench capacity` and `plan`: streams that a device carries, and throughput on other core counts."""

from __future__ import annotations

from typing import Annotated

import typer

from mmkd_bench.capacity import Question, measure_capacity, measure_load
from mmkd_bench.commands.options import (
    ArtifactOption,
    BackendOption,
    BundleArgument,
    Form,
    FormOption,
    JsonOption,
    PrecisionOption,
    ReferenceOption,
    ThreadsOption,
    chosen,
    whole_numbers,
)
from mmkd_bench.commands.printing import print_measured
from mmkd_bench.load.offering import MISSED_SHARE
from mmkd_bench.load.verdict import LAUNCHES
from mmkd_bench.plan import measure_plan
from mmkd_bench.show.text import plural
from mmkd_edge.cli.show import say
from mmkd_edge.errors import PerformanceError
from mmkd_report.schema.bench_others import CapacityReport


def capacity(
    bundle: BundleArgument,
    *,
    rate: Annotated[float, typer.Option(help="Predictions per second of one stream.")],
    deadline_ms: Annotated[
        float | None, typer.Option(help="Longest acceptable response.", show_default="the period of the rate")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(help="Offer so many instead; exit 5 if not carried.", show_default="search")
    ] = None,
    servers: Annotated[
        int | None, typer.Option(help="Threads that answer.", show_default="one per usable core")
    ] = None,
    launches: Annotated[
        int, typer.Option(help="Processes that judge one load, an odd number; most of them decide.")
    ] = LAUNCHES,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Longest time that finding the answer may take.")] = 120,
    backend: BackendOption = "auto",
    precision: ArtifactOption = PrecisionOption.auto,
    threads: ThreadsOption = None,
    reference: ReferenceOption = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Find how many streams this device carries, with p99.9 of the response within the deadline."""
    choice = chosen(bundle, backend, precision, threads, reference)
    question = Question(rate_hz=rate, deadline_ms=deadline_ms, servers=servers, launches=launches, budget_s=budget_s)

    def measure() -> CapacityReport:
        """The answer, or the load that was asked for."""
        if streams is None:
            return measure_capacity(choice, question, progress=say)
        return measure_load(choice, question, streams, progress=say)

    report = print_measured(measure, form=form, json=json)
    if report.settled and not report.streams:
        raise PerformanceError(_refusal(report, 1 if streams is None else streams))


def plan(
    bundle: BundleArgument,
    *,
    cores: Annotated[str, typer.Option(help="Core counts of interest, separated by commas.")] = "1,2,4,8",
    rate: Annotated[
        float | None, typer.Option(help="Predictions per second of one stream.", show_default="throughput alone")
    ] = None,
    duration_s: Annotated[float, typer.Option("--duration-s", help="Seconds per core count and round.")] = 2.0,
    backend: BackendOption = "auto",
    precision: ArtifactOption = PrecisionOption.auto,
    reference: ReferenceOption = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Extrapolate throughput to other core counts, with the model's error on this machine."""
    choice = chosen(bundle, backend, precision, 1, reference)
    counts = whole_numbers(cores, name="cores", example="2,4,8")
    print_measured(
        lambda: measure_plan(choice, cores=counts, rate_hz=rate, duration_s=duration_s, progress=say),
        form=form,
        json=json,
    )


def _refusal(report: CapacityReport, streams: int) -> str:
    """Why so many streams are too many."""
    level = report.at_answer or report.refused
    assert level is not None
    missed = f"{level.missed:,} of {level.due:,} windows missed the deadline of {report.deadline_ms:g} ms"
    backlog = "" if level.missed > MISSED_SHARE * level.due else ", and the backlog grew all the time"
    refused, count = sum(not one.carried for one in report.launches), len(report.launches)
    where = f" in {refused} of {plural(count, 'launch', 'launches')}" if count else ""
    return f"{report.subject.bundle}: {plural(streams, 'stream')} not carried{where}: {missed}{backlog}"
