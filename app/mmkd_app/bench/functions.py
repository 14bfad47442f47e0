"""The commands of `mmkd-bench`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mmkd_app.bench.sheets import show as show_report
from mmkd_app.cli.interrupts import INTERRUPTED_EXIT_CODE
from mmkd_app.cli.options import Argument, Option
from mmkd_app.cli.run import check_page, shell_line
from mmkd_app.cli.show import json_text, say
from mmkd_bench.capacity import MISSED_FRACTION, measure_capacity
from mmkd_bench.compare import DEFAULT_CONDITIONS, parse_conditions, read_report, require_passed
from mmkd_bench.compare import compare as compare_reports
from mmkd_bench.in_turn import measure_overhead, measure_pair
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.rivals import measure_rivals
from mmkd_bench.run import measure_bundle
from mmkd_bench.tune import tune_bundle
from mmkd_documents.bench import BenchReport, Settings
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import cache_folder, read_first, write_file
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_edge.opening.choice import find_profile, write_profile
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.outputs import check_file

_EXPECTED, _START_BYTES = "a report, a bundle or a model", 9
JsonOption = Annotated[bool, Option("Print one JSON document.", names=("--json",))]
LaunchesOption = Annotated[int, Option("Number of processes, one after another.")]
DurationOption = Annotated[float, Option("Measured seconds over all launches.", names=("--duration-s",))]
ReferenceOption = Annotated[
    Path | None, Option("Reference file of a modality that is normalised per group.", shown=False)
]


def write_run_page(path: Path, reports: Sequence[BenchReport]) -> None:
    """Write the page of runs."""
    from mmkd_app.pages.bench import render_bench
    from mmkd_app.pages.page import write_page

    write_page(path, render_bench(reports))


BundleArgument = Annotated[Path, Argument("STUDENT.edge", "The bundle to measure.")]


@dataclass(frozen=True, kw_only=True)
class OpeningOptions:
    """How the bundle is opened."""

    backend: Annotated[str, Option("Backend to run; auto uses the profile of mmkd-bench tune.")] = "auto"
    precision: Annotated[Literal["auto", "fp32", "fp16", "int8"], Option("Precision of the model to run.")] = "auto"
    threads: Annotated[int | None, Option("Threads per prediction.", shown="the profile's, or one")] = None
    reference: ReferenceOption = None

    def choice(self, bundle: Path) -> Choice:
        """Return what to open, and how. Raises UsageError."""
        options = OpenOptions(
            backend=self.backend,  # type: ignore[arg-type] # checked there
            precision=self.precision,
            threads=self.threads,
            reference=self.reference and str(self.reference),
        )
        return Choice(bundle=str(bundle), options=options)


def run(
    bundle: BundleArgument,
    *,
    opening: OpeningOptions,
    stream: Annotated[bool, Option("Push the samples of one sensor instead of windows.", names=("--stream",))] = False,
    hop: Annotated[int | None, Option("Samples per push of a stream.", shown="one second of samples")] = None,
    duration_s: DurationOption = 10.0,
    launches: LaunchesOption = 5,
    energy: Annotated[bool, Option("Also read a power sensor, if there is one.")] = True,
    output: Annotated[
        Path | None, Option("Also write the report.", names=("-o", "--out"), metavar="FILE.json", shown=False)
    ] = None,
    page: Annotated[
        Path | None, Option("Also write the report as one self-contained page.", names=("--page",), metavar="FILE.html")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure latency end to end and by stage, load time, memory and steadiness."""
    if page is not None:
        check_page(page, extra="bench")
    if output is not None:
        check_file(output)
    if hop is not None and not stream:
        raise UsageError("--hop: expected a stream as well; add --stream")
    if stream and hop is None:
        with Bundle.open(bundle) as opened:
            hop = max(1, round(opened.manifest.models[0].modality.rate_hz))
    settings = Settings(launches=launches, duration_s=duration_s, hop=hop)
    interrupted = False
    try:
        report = measure_bundle(opening.choice(bundle), settings, energy=energy, progress=say)
    except Interrupted as error:
        report, interrupted = error.report, True
    if output is not None:
        write_file(output, f"{json_text(report, indent=2)}\n".encode())
    if page is not None:
        write_run_page(page, [report])
    show_report(report, json=json)
    if interrupted:
        say("the report has what was measured until then")
        sys.exit(INTERRUPTED_EXIT_CODE)
    written = " and ".join(str(path) for path in (output, page) if path is not None)
    following = ("run", bundle, "-o", "base.json") if output is None else ("compare", output, "NEW.json")
    say((f"wrote {written}; " if written else "") + f"next: {shell_line('mmkd-bench', *following)}")


def tune(
    bundle: BundleArgument,
    *,
    duration_s: Annotated[float, Option("Measured seconds over all configs.", names=("--duration-s",))] = 40.0,
    threads: Annotated[
        str | None, Option("Numbers of threads to try, separated by commas.", shown="1,2,4,8 up to the cores")
    ] = None,
    max_drop_points: Annotated[float, Option("Points of the task's metric that a lower precision may lose.")] = 0.5,
    show: Annotated[bool, Option("Show the profile that applies here; measure nothing.", names=("--show",))] = False,
    json: JsonOption = False,
) -> None:
    """Find the fastest backend, precision and threads on this machine; EdgePredictor.open then uses them."""
    if show:
        _show_profile(bundle, json=json)
        return
    parts = [] if threads is None else [part.strip() for part in threads.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--threads: expected whole numbers separated by commas, like 1,2,4; got {threads!r}")
    cache_folder("profiles")  # raise its error before measuring for a minute
    profile = tune_bundle(
        bundle,
        duration_s=duration_s,
        threads=tuple(map(int, parts)) or None,
        max_drop_points=max_drop_points,
        progress=say,
    )
    path = write_profile(profile)
    show_report(profile, json=json)
    say(f"wrote {path}; next: {shell_line('mmkd-bench', 'run', bundle)}")


def _show_profile(bundle: Path, *, json: bool) -> None:
    with Bundle.open(bundle) as opened:
        match = find_profile(opened.sha256)
    if json:
        print(json_text(match))
    elif match.profile is None:
        print(match.reason)
    else:
        show_report(match.profile)
        say(f"from {match.path}")
    if match.profile is None:
        say(f"next: {shell_line('mmkd-bench', 'tune', bundle)}")


def capacity(
    bundle: BundleArgument,
    *,
    rate: Annotated[float, Option("Predictions per second of one stream.")],
    deadline_ms: Annotated[float | None, Option("Longest acceptable response.", shown="the period of the rate")] = None,
    streams: Annotated[
        int | None, Option("Offer this many instead; exit 5 if they are not carried.", shown="search")
    ] = None,
    opening: OpeningOptions,
    json: JsonOption = False,
) -> None:
    """Find how many streams this device carries, with p99.9 of the response within the deadline."""
    report = measure_capacity(
        opening.choice(bundle), rate_hz=rate, deadline_ms=deadline_ms, streams=streams, progress=say
    )
    show_report(report, json=json)
    level = report.at_answer or report.refused
    if report.streams or level is None:
        return
    missed = f"{level.missed:,} of {level.due:,} windows missed the deadline of {report.deadline_ms:g} ms"
    backlog = "" if level.missed > MISSED_FRACTION * level.due else ", and the backlog grew all the time"
    many = "1 stream" if level.streams == 1 else f"{level.streams} streams"
    raise PerformanceError(f"{report.subject.bundle}: {many} not carried: {missed}{backlog}")


def overhead(
    bundle: BundleArgument,
    *,
    backend: Annotated[
        str | None, Option("Compare with this backend's run.", shown="onnxruntime's own session.run")
    ] = None,
    duration_s: DurationOption = 6.0,
    launches: LaunchesOption = 3,
    reference: ReferenceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure what predict adds to the bare engine on the same feeds, with one thread."""
    report = measure_overhead(
        bundle, backend=backend, reference=reference, launches=launches, duration_s=duration_s, progress=say
    )
    show_report(report, json=json)


def compare(
    first: Annotated[Path, Argument("FIRST", "Report of 'run', bundle, ONNX model or teacher's checkpoint.")],
    second: Annotated[Path | None, Argument("SECOND", "The report or model to compare with it.")] = None,
    *,
    fail_if: Annotated[
        str, Option("Changes between two reports that exit 5; an empty text fails nothing.")
    ] = DEFAULT_CONDITIONS,
    rivals: Annotated[
        bool, Option("Compare FIRST, a bundle, with other engines on the same weights.", names=("--rivals",))
    ] = False,
    checkpoint: Annotated[
        Path | None, Option("The student's checkpoint, for torch among the rivals.", shown=False)
    ] = None,
    threads: Annotated[int, Option("Threads of each model.")] = 1,
    duration_s: DurationOption = 6.0,
    launches: LaunchesOption = 3,
    reference: ReferenceOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two reports, two models or rival engines.

    Two reports of 'run': exit 5 if the second is slower beyond noise. Two models: called in turn through ONNX Runtime,
    for a ratio that holds on a noisy machine. With --rivals: one bundle through every engine that is installed.
    """
    if rivals != (second is None):
        raise UsageError("compare: expected a second report or model, or --rivals; give one of both")
    if second is None:
        timed = measure_rivals(
            first,
            checkpoint=checkpoint,
            reference=reference,
            threads=threads,
            launches=launches,
            duration_s=duration_s,
            progress=say,
            worker="mmkd_app.torch_rival",
        )
        show_report(timed, json=json)
        return
    start = read_first(first, _START_BYTES, expected=_EXPECTED)
    if start.startswith(b"{") and not _is_checkpoint(start):
        conditions = parse_conditions(fail_if)
        comparison = compare_reports(read_report(first), read_report(second), conditions=conditions)
        show_report(comparison, json=json)
        require_passed(comparison)
        return
    with ExitStack() as stack:
        paths = [stack.enter_context(_open_model(path)) for path in (first, second)]
        pair = measure_pair(*paths, threads=threads, launches=launches, duration_s=duration_s, progress=say)
    show_report(pair, json=json)


def _is_checkpoint(start: bytes) -> bool:
    """Safetensors start with eight bytes of length, the last 0, then JSON."""
    return start[7:] == b"\0{"


@contextmanager
def _open_model(path: Path) -> Iterator[Path]:
    if not _is_checkpoint(read_first(path, _START_BYTES, expected=_EXPECTED)):
        yield path
        return
    from mmkd_export.graph.onnx_from_student import onnx_from_teacher
    from mmkd_models.training.checkpoint import read_teacher

    with tempfile.TemporaryDirectory(prefix="mmkd-teacher-") as folder:
        say("exporting the teacher")
        checkpoint = read_teacher(path)
        graph = Path(folder) / "teacher.onnx"
        graph.write_bytes(onnx_from_teacher(checkpoint.transformer(), checkpoint.modalities))
        yield graph


def page(
    reports: Annotated[list[Path], Argument("REPORT.json...", "Reports of 'run', the main one first.")],
    *,
    output: Annotated[Path, Option("The page.", names=("-o", "--out"), metavar="FILE.html")],
) -> None:
    """Show runs as one self-contained page: distribution, steps, energy, and devices side by side."""
    check_page(output, extra="bench")
    write_run_page(output, [read_report(path) for path in reports])
    say(f"wrote {output}; next: open it in a browser")
