"""`mmkd-bench run`: measures, shows and keeps the report of one bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    chosen,
)
from mmkd_bench.commands.printing import print_document, say_interrupted
from mmkd_bench.commands.reports import require_page, write_page_of
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.report_file import write_report
from mmkd_bench.run import measure_bundle, write_samples
from mmkd_bench.show.sheets import run_sheet
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.cli.interrupts import INTERRUPTED_EXIT_CODE
from mmkd_edge.cli.outputs import check_file
from mmkd_edge.cli.run import shell_line
from mmkd_edge.cli.show import say
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import Settings


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
    choice = chosen(bundle, backend, precision, threads, reference)
    settings = Settings(
        launches=launches,
        duration_s=duration_s,
        clients=clients,
        rate_hz=rate,
        deadline_ms=deadline_ms,
        warm_up_limit_s=warm_up_s,
        batch=batch,
        hop=_hop(bundle, stream=stream, hop=hop),
        jitter=jitter,
    )
    interrupted = False
    try:
        found = measure_bundle(choice, settings, energy=energy, progress=say)
    except Interrupted as ended:
        found, interrupted = ended.report, True
    if output is not None:
        write_report(output, found.report)
    if samples is not None:
        write_samples(samples, found.samples)
    if page is not None:
        write_page_of([found.report], page)
    print_document(found.report, run_sheet, form=form, json=json)
    if interrupted:
        say_interrupted()
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    say(_last_line(bundle, output, samples, page))


def _hop(bundle: Path, *, stream: bool, hop: int | None) -> int | None:
    """Samples of one push; one second of the first student's modality by default."""
    if not stream:
        if hop is not None:
            raise UsageError("hop: expected a stream as well; add --stream")
        return None
    if hop is not None:
        return hop
    with Bundle.open(bundle) as opened:
        return max(1, round(opened.manifest.models[0].modality.rate_hz))


def _last_line(bundle: Path, output: Path | None, samples: Path | None, page: Path | None) -> str:
    """What was written, and the next command."""
    written = " and ".join(str(path) for path in (output, samples, page) if path is not None)
    following = ("run", bundle, "-o", "base.json") if output is None else ("compare", output, "NEW.json")
    return (f"wrote {written}; " if written else "") + f"next: {shell_line('mmkd-bench', *following)}"
