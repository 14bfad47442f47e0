"""`mmkd-bench compare` and `overhead`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.commands import options
from mmkd_bench.compare import DEFAULT_CONDITIONS, parse_conditions, require_passed
from mmkd_bench.compare import compare as compare_reports
from mmkd_bench.in_turn import measure_overhead, measure_pair, measure_rivals
from mmkd_bench.reports import read_report
from mmkd_edge.cli.show import say
from mmkd_edge.errors import PerformanceError, UsageError


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="FIRST", help="Report of 'run', bundle, ONNX model or teacher's checkpoint.")
    ],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="SECOND", help="The report or model to compare with it.", show_default=False),
    ] = None,
    *,
    fail_if: Annotated[
        str, typer.Option(help="Changes between two reports that exit 5; an empty text fails nothing.")
    ] = DEFAULT_CONDITIONS,
    rivals: Annotated[
        bool, typer.Option("--rivals", help="Compare FIRST, a bundle, with other engines on the same weights.")
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The student's checkpoint, for torch among the rivals.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each model.")] = 1,
    duration_s: options.DurationOption = 6.0,
    launches: options.LaunchesOption = 3,
    reference: options.ReferenceOption = None,
    json: options.JsonOption = False,
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
        )
        options.print_report(timed, json=json)
        return
    start = _read_start(first)
    if start.startswith(b"{") and not _is_checkpoint(start):
        conditions = parse_conditions(fail_if)
        comparison = compare_reports(read_report(first), read_report(second), conditions=conditions)
        options.print_report(comparison, json=json)
        require_passed(comparison)
        return
    with ExitStack() as stack:
        paths = [stack.enter_context(_open_model(path)) for path in (first, second)]
        pair = measure_pair(*paths, threads=threads, launches=launches, duration_s=duration_s, progress=say)
    options.print_report(pair, json=json)


def overhead(
    bundle: options.BundleArgument,
    *,
    backend: Annotated[
        str | None, typer.Option(help="Compare with this backend's run.", show_default="onnxruntime's own session.run")
    ] = None,
    checks: Annotated[bool, typer.Option("--checks", help="Turn every sensor check on.")] = False,
    limit_us: Annotated[
        float | None, typer.Option(help="Exit 5 if predict adds more microseconds.", show_default="no limit")
    ] = None,
    duration_s: options.DurationOption = 6.0,
    launches: options.LaunchesOption = 3,
    reference: options.ReferenceOption = None,
    json: options.JsonOption = False,
) -> None:
    """Measure what predict adds to the bare engine on the same feeds, with one thread."""
    report = measure_overhead(
        bundle,
        backend=backend,
        checks=checks,
        reference=reference,
        launches=launches,
        duration_s=duration_s,
        progress=say,
    )
    options.print_report(report, json=json)
    median_us = report.overhead_us.median
    if limit_us is not None and median_us > limit_us:
        raise PerformanceError(
            f"{report.bundle}: predict adds {median_us:.1f} µs to the bare {report.bare} at the median, "
            f"more than the limit of {limit_us:g} µs"
        )


def _read_start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected a report, a bundle or a model, cannot open it: {reason}") from error


def _is_checkpoint(start: bytes) -> bool:
    """Safetensors start with eight bytes of length, the last 0, then JSON."""
    return start[7:] == b"\0{"


@contextmanager
def _open_model(path: Path) -> Iterator[Path]:
    if not _is_checkpoint(_read_start(path)):
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
