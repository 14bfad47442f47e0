"""The command `mmkd-export`: its arguments, its progress and how its result looks.

The result goes to stdout, progress to stderr.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from mmkd_export.plan import export_plan
from mmkd_export.report import ArtifactReport
from mmkd_export.run import ExportResult, ExportStep, OnStep, export

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_WIDTH_WITHOUT_TERMINAL = 160


@app.command(epilog="--debug shows the traceback of an error.")
def export_(
    source: Annotated[Path, typer.Argument(metavar="STUDENT.ckpt", help="A student's checkpoint.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The bundle; else beside the checkpoint.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calib",
            metavar="DATA|FILE.npz",
            help="Real windows, in place of those in the checkpoint: a dataset directory, or an .npz file with "
            "x_MODALITY and, where known, y.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export a student to one verified bundle, ready for a device."""
    plan = export_plan(source, output=output, calibration=calibration)
    with _progress() as on_step:
        result = export(plan, on_step=on_step)
    if as_json:
        print(_json(result))
        return
    _show(result)
    print(f"wrote {result.path}; next: mmkd-bench run {shlex.quote(str(result.path))}")


def _json(result: ExportResult) -> str:
    document = {
        "bundle": str(result.path),
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
        "report": result.report,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _show(result: ExportResult) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width that a table must fit
        console = Console(highlight=False, markup=False, width=_WIDTH_WITHOUT_TERMINAL)
    student, windows = result.report.student, result.report.windows
    console.print(
        f"{result.report.model_id}: {student.parameters:,} parameters, {student.mflops:.2f} MFLOP a window, "
        f"{result.size_bytes / 1000:.0f} kB",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("artifact")
    for heading in ("size", "max error", "with gaps", "labels agree", "accuracy", "balanced accuracy"):
        table.add_column(heading, justify="right")
    for artifact in result.report.artifacts:
        table.add_row(*_row(artifact))
    console.print(table)
    console.print(f"compared with torch on {windows.count} {windows.source}", soft_wrap=True)


def _row(artifact: ArtifactReport) -> tuple[str, ...]:
    scores = artifact.scores
    return (
        f"{artifact.precision} {artifact.format}",
        f"{artifact.size_bytes / 1000:.0f} kB",
        f"{artifact.parity.max_abs_error:.1e}",
        f"{artifact.parity_with_gaps.max_abs_error:.1e}",
        f"{artifact.parity.label_agreement:.1%}",
        f"{scores.accuracy:.3f}" if scores else "no labels",
        f"{scores.balanced_accuracy:.3f}" if scores else "no labels",
    )


@contextmanager
def _progress() -> Iterator[OnStep]:
    """Gives an observer of the export that writes to stderr: one live line on a terminal, else a line for each step."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield lambda step: print(_step_text(step), file=sys.stderr, flush=True)
        return
    with Status("", console=console) as status:
        yield lambda step: status.update(_step_text(step))


def _step_text(step: ExportStep) -> str:
    return f"{step.number}/{step.of} {step.name}"
