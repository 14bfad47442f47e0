"""`mmkd-bench rivals`, `capacity` and `plan`: arguments in, tables and documents out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.capacity import CapacityReport, Question, measure_capacity, measure_load
from mmkd_bench.commands.options import (
    ArtifactOption,
    BackendOption,
    BundleArgument,
    DurationOption,
    Form,
    FormOption,
    JsonOption,
    LaunchesOption,
    PrecisionOption,
    ReferenceOption,
    ThreadsOption,
    say,
    text_or_none,
)
from mmkd_bench.commands.printing import print_measured
from mmkd_bench.contest import measure_rivals
from mmkd_bench.measuring.judge import LAUNCHES
from mmkd_bench.measuring.load import MISSED_SHARE
from mmkd_bench.measuring.subject import Choice
from mmkd_bench.plan import measure_plan
from mmkd_bench.show import terminal
from mmkd_bench.show.text import plural
from mmkd_bench.turns.alternate import is_zip
from mmkd_edge.errors import PerformanceError, UsageError


def rivals(
    student: Annotated[
        Path, typer.Argument(metavar="STUDENT", help="The student's checkpoint, or its bundle with --checkpoint.")
    ],
    *,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Of a bundle the student's checkpoint: adds the engines that need it.")
    ] = None,
    converted: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep converted models here, and take those of this checkpoint that are."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    duration_s: DurationOption = 9.0,
    launches: LaunchesOption = 3,
    reference: ReferenceOption = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Time the same weights through other engines, called in turn, answers compared first."""
    with _bundle_of(student, checkpoint) as (bundle, weights):
        print_measured(
            lambda: measure_rivals(
                bundle,
                checkpoint=weights,
                converted=converted,
                student=str(student),
                reference=reference,
                threads=threads,
                launches=launches,
                duration_s=duration_s,
                progress=say,
            ),
            terminal.rivals_view,
            form=form,
            json=json,
        )


@contextmanager
def _bundle_of(student: Path, checkpoint: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """The bundle to measure and the checkpoint beside it; a checkpoint is exported to a bundle that is then removed."""
    if is_zip(student, expected="a student's checkpoint or a bundle"):
        yield student, checkpoint
        return
    if checkpoint is not None:
        raise UsageError(f"{student}: expected a bundle beside --checkpoint, got another file; give one of both")
    from mmkd_export.plan import export_plan
    from mmkd_export.run import export

    with tempfile.TemporaryDirectory(prefix="mmkd-rivals-") as folder:
        say("exporting the checkpoint to a bundle")
        bundle = Path(folder) / "student.edge"
        export(export_plan(student, output=bundle))
        yield bundle, student


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
    choice = Choice(
        bundle=str(bundle),
        backend=backend,
        precision=precision.value,
        threads=threads,
        reference=text_or_none(reference),
    )
    question = Question(rate_hz=rate, deadline_ms=deadline_ms, servers=servers, launches=launches, budget_s=budget_s)

    def measure() -> CapacityReport:
        """The answer, or the load that was asked for."""
        if streams is None:
            return measure_capacity(choice, question, progress=say)
        return measure_load(choice, question, streams, progress=say)

    report = print_measured(measure, terminal.capacity_view, form=form, json=json)
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
    choice = Choice(
        bundle=str(bundle),
        backend=backend,
        precision=precision.value,
        threads=1,
        reference=text_or_none(reference),
    )
    counts = _core_counts(cores)
    print_measured(
        lambda: measure_plan(choice, cores=counts, rate_hz=rate, duration_s=duration_s, progress=say),
        terminal.plan_view,
        form=form,
        json=json,
    )


def _core_counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"cores: expected whole numbers separated by commas, like 2,4,8; got {text!r}")
    return [int(part) for part in parts]


def _refusal(report: CapacityReport, streams: int) -> str:
    """Why so many streams are too many."""
    level = report.at_answer or report.refused
    assert level is not None
    missed = f"{level.missed:,} of {level.due:,} windows missed the deadline of {report.deadline_ms:g} ms"
    backlog = "" if level.missed > MISSED_SHARE * level.due else ", and the backlog grew all the time"
    refused, count = sum(not one.carried for one in report.launches), len(report.launches)
    where = f" in {refused} of {plural(count, 'launch', 'launches')}" if count else ""
    return f"{report.subject.bundle}: {plural(streams, 'stream')} not carried{where}: {missed}{backlog}"
