"""Shared options of `mmkd-bench`, and printing."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.measuring.opening import Choice
from mmkd_bench.sheets import AnyReport, make_sheet, show
from mmkd_edge.cli.show import json_text
from mmkd_edge.errors import UsageError


class PrecisionOption(str, Enum):
    """Precision of the model."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


BundleArgument = Annotated[Path, typer.Argument(metavar="STUDENT.edge", help="The bundle to measure.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
BackendOption = Annotated[str, typer.Option(help="Backend to run; auto uses the profile of mmkd-bench tune.")]
ArtifactOption = Annotated[PrecisionOption, typer.Option("--precision", help="Precision of the model to run.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads per prediction.", show_default="the profile's, or one")
]
LaunchesOption = Annotated[int, typer.Option(help="Number of processes, one after another.")]
DurationOption = Annotated[float, typer.Option("--duration-s", help="Measured seconds over all launches.")]
ReferenceOption = Annotated[
    Path | None, typer.Option(help="Reference file of a modality that is normalised per group.", show_default=False)
]


def make_choice(
    bundle: Path, backend: str, precision: PrecisionOption, threads: int | None, reference: Path | None
) -> Choice:
    """Return what to open and how."""
    return Choice(
        bundle=str(bundle),
        backend=backend,
        precision=precision.value,
        threads=threads,
        reference=None if reference is None else str(reference),
    )


def parse_numbers(text: str, *, name: str, example: str) -> tuple[int, ...]:
    """Parse `1,2,4`; raise UsageError that names the option."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{name}: expected whole numbers separated by commas, like {example}; got {text!r}")
    return tuple(map(int, parts))


def print_report(report: AnyReport, *, json: bool) -> None:
    """Print a report."""
    if json:
        sys.stdout.write(json_text(report) + "\n")
    else:
        show(make_sheet(report))
