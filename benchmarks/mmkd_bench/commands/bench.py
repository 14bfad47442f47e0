"""The commands of `mmkd-bench`: arguments in, tables and files out. What they show is made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench import compare as comparing
from mmkd_bench.commands.cli import ABOUT
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
    json_text,
    say,
    text_or_none,
    write,
)
from mmkd_bench.commands.page import page as show_page
from mmkd_bench.commands.page import require_page, write_page_of
from mmkd_bench.commands.printing import print_measured, say_interrupted
from mmkd_bench.commands.search import capacity, plan, rivals
from mmkd_bench.commands.teacher import teacher
from mmkd_bench.commands.tune import tune
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.measuring.subject import Choice
from mmkd_bench.paired import OverheadReport, measure_overhead, measure_pair
from mmkd_bench.report import BenchReport, encode_report, read_report, write_report
from mmkd_bench.run import Settings, measure_bundle, write_samples
from mmkd_bench.show import terminal, text
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.command.help import command_app, command_class
from mmkd_edge.command.interrupts import INTERRUPTED_EXIT_CODE
from mmkd_edge.command.outputs import check_file
from mmkd_edge.command.run import shell_line
from mmkd_edge.errors import PerformanceError, UsageError


def make_app() -> typer.Typer:
    """The whole command line."""
    app, cls = command_app(ABOUT), command_class()
    app.command("run", cls=cls)(run)
    app.command("compare", cls=cls)(compare)
    app.command("page", cls=cls)(show_page)
    app.command("pair", cls=cls)(pair)
    app.command("teacher", cls=cls)(teacher)
    app.command("overhead", cls=cls)(overhead)
    app.command("rivals", cls=cls)(rivals)
    app.command("capacity", cls=cls)(capacity)
    app.command("plan", cls=cls)(plan)
    app.command("tune", cls=cls)(tune)
    return app


def run(
    bundle: BundleArgument,
    *,
    backend: BackendOption = "auto",
    precision: ArtifactOption = PrecisionOption.auto,
    threads: ThreadsOption = None,
    clients: Annotated[int, typer.Option(help="Threads that ask at the same time; of a stream, sensors.")] = 1,
    rate: Annotated[
        float | None, typer.Option(help="Calls per second of each client.", show_default="back to back")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Longest acceptable response at that rate.", show_default="its period")
    ] = None,
    batch: Annotated[int, typer.Option(help="Windows of one call, through predict_batch.")] = 1,
    stream: Annotated[
        bool, typer.Option("--stream", help="Push the samples of one sensor instead of windows.")
    ] = False,
    hop: Annotated[
        int | None, typer.Option(help="Samples of one push of a stream.", show_default="the bundle's rate: 1 s")
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(
            help="Give samples of a stream times that stray by this share of their period: they are resampled.",
            show_default="no times",
        ),
    ] = None,
    duration_s: DurationOption = 10.0,
    launches: LaunchesOption = 5,
    warm_up_s: Annotated[float, typer.Option("--warm-up-s", help="Longest warm-up of one launch.")] = 5.0,
    energy: Annotated[bool, typer.Option(help="Also read a power sensor, where there is one.")] = True,
    reference: ReferenceOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.json", help="Also write the report.", show_default=False)
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Also write the raw samples, as .npz.", show_default=False)
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE.html", help="Also write the report as one self-contained page."),
    ] = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Measure latency end to end and by stage, load time, memory and steadiness."""
    if page is not None:
        require_page(page)
    for file in (output, samples):
        if file is not None:
            check_file(file)
    choice = Choice(
        bundle=str(bundle),
        backend=backend,
        precision=precision.value,
        threads=threads,
        reference=text_or_none(reference),
    )
    settings = Settings(
        launches=launches,
        duration_s=duration_s,
        clients=clients,
        rate_hz=rate,
        deadline_ms=deadline_ms,
        warm_up_limit_s=warm_up_s,
        energy=energy,
        batch=batch,
        hop=_hop(bundle, stream=stream, hop=hop),
        jitter=jitter,
    )
    interrupted = False
    try:
        found = measure_bundle(choice, settings, progress=say)
    except Interrupted as ended:
        found, interrupted = ended.report, True
    if output is not None:
        write_report(output, found.report)
    if samples is not None:
        write_samples(samples, found.samples)
    if page is not None:
        write_page_of([found.report], page)
    _print_report(found.report, Form.json if json else form)
    if interrupted:
        say_interrupted()
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    say(_last_line(bundle, output, samples, page))


def _hop(bundle: Path, *, stream: bool, hop: int | None) -> int | None:
    """Samples of one push; one second of the first student's modality where nobody says it."""
    if not stream:
        if hop is not None:
            raise UsageError("hop: expected a stream as well; add --stream")
        return None
    if hop is not None:
        return hop
    with Bundle.open(bundle) as opened:
        return max(1, round(opened.manifest.models[0].modality.rate_hz))


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE.json", help="Report to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER.json", help="Report in question.")],
    *,
    fail_if: Annotated[
        str, typer.Option(help="Changes that end in exit code 5; an empty text fails nothing.")
    ] = comparing.DEFAULT_CONDITIONS,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Compare two reports of 'run'; exit 5 where the second is slower beyond noise."""
    conditions = comparing.parse_conditions(fail_if)
    comparison = comparing.compare(read_report(before), read_report(after), conditions=conditions)
    form = Form.json if json else form
    if form is Form.json:
        write(json_text(comparison))
    elif form is Form.csv:
        write(text.csv_from_comparison(comparison))
    elif form is Form.md:
        write(text.markdown_from_comparison(comparison))
    else:
        terminal.show(terminal.comparison_view(comparison))
    comparing.require_passed(comparison)


def pair(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="ONNX model of static shape, or a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="The other.")],
    *,
    threads: Annotated[int, typer.Option(help="Threads of each session.")] = 1,
    duration_s: DurationOption = 6.0,
    launches: LaunchesOption = 3,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Call two models in turn through ONNX Runtime: a ratio that holds on a noisy machine."""
    print_measured(
        lambda: measure_pair(first, second, threads=threads, launches=launches, duration_s=duration_s, progress=say),
        terminal.pair_view,
        form=form,
        json=json,
    )


def overhead(
    bundle: BundleArgument,
    *,
    backend: Annotated[
        str | None,
        typer.Option(help="Over this backend's run.", show_default="over onnxruntime's own session.run"),
    ] = None,
    checks: Annotated[bool, typer.Option("--checks", help="With every sensor check on.")] = False,
    limit_us: Annotated[
        float | None, typer.Option(help="Exit 5 where predict adds more.", show_default="no limit")
    ] = None,
    duration_s: DurationOption = 6.0,
    launches: LaunchesOption = 3,
    reference: ReferenceOption = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """What predict adds to the bare engine on the same feeds, one thread."""
    report = print_measured(
        lambda: measure_overhead(
            bundle,
            backend=backend,
            checks=checks,
            launches=launches,
            duration_s=duration_s,
            reference=reference,
            progress=say,
        ),
        terminal.overhead_view,
        form=form,
        json=json,
    )
    _require_below(report, limit_us)


def _require_below(report: OverheadReport, limit_us: float | None) -> None:
    median_us = report.overhead_us.median
    if limit_us is not None and median_us > limit_us:
        raise PerformanceError(
            f"{report.bundle}: predict adds {median_us:.1f} µs to the bare {report.bare} at the median, "
            f"more than the limit of {limit_us:g} µs"
        )


def _print_report(report: BenchReport, form: Form) -> None:
    if form is Form.json:
        write(encode_report(report).decode("utf-8"))
    elif form is Form.csv:
        write(text.csv_from_report(report))
    elif form is Form.md:
        write(text.markdown_from_report(report))
    else:
        terminal.show(terminal.report_view(report))


def _last_line(bundle: Path, output: Path | None, samples: Path | None, page: Path | None) -> str:
    """What was written, and the next command."""
    written = " and ".join(str(path) for path in (output, samples, page) if path is not None)
    following = ("run", bundle, "-o", "base.json") if output is None else ("compare", output, "NEW.json")
    return (f"wrote {written}; " if written else "") + f"next: {shell_line('mmkd-bench', *following)}"
