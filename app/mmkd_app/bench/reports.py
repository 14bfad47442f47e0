"""`mmkd-bench compare` and `page`, and what all commands share: options, printing, pages."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

from mmkd_app.bench.sheets import AnyReport, show
from mmkd_app.cli.options import Argument, Option
from mmkd_app.cli.run import check_page
from mmkd_app.cli.show import json_text, say
from mmkd_bench.compare import DEFAULT_CONDITIONS, parse_conditions, read_report, require_passed
from mmkd_bench.compare import compare as compare_reports
from mmkd_bench.in_turn import measure_pair
from mmkd_bench.rivals import measure_rivals
from mmkd_documents.bench import BenchReport
from mmkd_edge.errors import UsageError

JsonOption = Annotated[bool, Option("Print one JSON document.", names=("--json",))]
LaunchesOption = Annotated[int, Option("Number of processes, one after another.")]
DurationOption = Annotated[float, Option("Measured seconds over all launches.", names=("--duration-s",))]
ReferenceOption = Annotated[
    Path | None, Option("Reference file of a modality that is normalised per group.", shown=False)
]


def print_report(report: AnyReport, *, json: bool) -> None:
    """Print a report."""
    if json:
        sys.stdout.write(json_text(report) + "\n")
    else:
        show(report)


def write_run_page(path: Path, reports: Sequence[BenchReport]) -> None:
    """Write the page of runs."""
    from mmkd_app.pages.bench import render_bench
    from mmkd_app.pages.page import write_page

    write_page(path, render_bench(reports))


def compare(
    first: Annotated[Path, Argument("FIRST", "Report of 'run', bundle, ONNX model or teacher's checkpoint.")],
    second: Annotated[
        Path | None,
        Argument("SECOND", "The report or model to compare with it."),
    ] = None,
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
        print_report(timed, json=json)
        return
    start = _read_start(first)
    if start.startswith(b"{") and not _is_checkpoint(start):
        conditions = parse_conditions(fail_if)
        comparison = compare_reports(read_report(first), read_report(second), conditions=conditions)
        print_report(comparison, json=json)
        require_passed(comparison)
        return
    with ExitStack() as stack:
        paths = [stack.enter_context(_open_model(path)) for path in (first, second)]
        pair = measure_pair(*paths, threads=threads, launches=launches, duration_s=duration_s, progress=say)
    print_report(pair, json=json)


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


def page(
    reports: Annotated[list[Path], Argument("REPORT.json...", "Reports of 'run', the main one first.")],
    *,
    output: Annotated[
        Path,
        Option(
            "The page.",
            names=(
                "-o",
                "--out",
            ),
            metavar="FILE.html",
        ),
    ],
) -> None:
    """Show runs as one self-contained page: distribution, steps, energy, and devices side by side."""
    check_page(output, extra="bench")
    write_run_page(output, [read_report(path) for path in reports])
    say(f"wrote {output}; next: open it in a browser")
