"""The command `mmkd-bench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.commands import options
from mmkd_bench.commands.page import write_run_page
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.reports import write_report, write_samples
from mmkd_bench.run import measure_bundle
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.cli.interrupts import INTERRUPTED_EXIT_CODE
from mmkd_edge.cli.outputs import check_file
from mmkd_edge.cli.run import check_page, shell_line
from mmkd_edge.cli.show import say
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import Settings


def run(
    bundle: options.BundleArgument,
    *,
    backend: options.BackendOption = "auto",
    precision: options.ArtifactOption = options.PrecisionOption.auto,
    threads: options.ThreadsOption = None,
    clients: Annotated[int, typer.Option(help="Threads that call at the same time; of a stream, sensors.")] = 1,
    rate: Annotated[
        float | None, typer.Option(help="Calls per second of each client.", show_default="back to back")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Longest acceptable response at that rate.", show_default="its period")
    ] = None,
    batch: Annotated[int, typer.Option(help="Windows per call, through predict_batch.")] = 1,
    stream: Annotated[
        bool, typer.Option("--stream", help="Push the samples of one sensor instead of windows.")
    ] = False,
    hop: Annotated[
        int | None, typer.Option(help="Samples per push of a stream.", show_default="one second of samples")
    ] = None,
    duration_s: options.DurationOption = 10.0,
    launches: options.LaunchesOption = 5,
    warm_up_s: Annotated[float, typer.Option("--warm-up-s", help="Longest warm-up of one launch.")] = 5.0,
    energy: Annotated[bool, typer.Option(help="Also read a power sensor, if there is one.")] = True,
    reference: options.ReferenceOption = None,
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
    json: options.JsonOption = False,
) -> None:
    """Measure latency end to end and by stage, load time, memory and steadiness."""
    if page is not None:
        check_page(page, extra="bench")
    for file in (output, samples):
        if file is not None:
            check_file(file)
    if hop is not None and not stream:
        raise UsageError("hop: expected a stream as well; add --stream")
    if stream and hop is None:
        with Bundle.open(bundle) as opened:
            hop = max(1, round(opened.manifest.models[0].modality.rate_hz))
    settings = Settings(
        launches=launches,
        duration_s=duration_s,
        clients=clients,
        rate_hz=rate,
        deadline_ms=deadline_ms,
        warm_up_limit_s=warm_up_s,
        batch=batch,
        hop=hop,
    )
    interrupted = False
    try:
        choice = options.make_choice(bundle, backend, precision, threads, reference)
        measured = measure_bundle(choice, settings, energy=energy, progress=say)
    except Interrupted as error:
        measured, interrupted = error.report, True
    if output is not None:
        write_report(output, measured.report)
    if samples is not None:
        write_samples(samples, measured.samples)
    if page is not None:
        write_run_page(page, [measured.report])
    options.print_report(measured.report, json=json)
    if interrupted:
        say("the report has what was measured until then")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    written = " and ".join(str(path) for path in (output, samples, page) if path is not None)
    following = ("run", bundle, "-o", "base.json") if output is None else ("compare", output, "NEW.json")
    say((f"wrote {written}; " if written else "") + f"next: {shell_line('mmkd-bench', *following)}")
