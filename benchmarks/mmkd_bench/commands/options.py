"""What the commands of `mmkd-bench` share: options with one name each, what they mean, and the two ways to write."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.measuring.opening import Choice
from mmkd_edge.errors import UsageError


class Form(str, Enum):
    """What a command prints."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


class PrecisionOption(str, Enum):
    """Which artifact of a bundle, or bf16, in which OpenVINO can run the fp32 one."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    bf16 = "bf16"


BundleArgument = Annotated[Path, typer.Argument(metavar="STUDENT.edge", help="The bundle to measure.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
FormOption = Annotated[Form, typer.Option("--format", help="What to print.")]
BackendOption = Annotated[str, typer.Option(help="What executes the student; auto takes what tune measured.")]
ArtifactOption = Annotated[PrecisionOption, typer.Option("--precision", help="Of the arithmetic; bf16 in OpenVINO.")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads of one prediction.", show_default="the profile's, or one")
]
LaunchesOption = Annotated[int, typer.Option(help="Processes, one after another.")]
DurationOption = Annotated[float, typer.Option("--duration-s", help="Measured seconds over all launches.")]
ReferenceOption = Annotated[
    Path | None, typer.Option(help="Reference of a modality that is normalised per group.", show_default=False)
]


def write(content: str) -> None:
    """Write a result to stdout."""
    sys.stdout.write(content)


def chosen(
    bundle: Path, backend: str, precision: PrecisionOption, threads: int | None, reference: Path | None
) -> Choice:
    """What to open and how."""
    return Choice(
        bundle=str(bundle),
        backend=backend,
        precision=precision.value,
        threads=threads,
        reference=None if reference is None else str(reference),
    )


def whole_numbers(text: str, *, name: str, example: str) -> tuple[int, ...]:
    """`1,2,4` as numbers.

    Raises:
        UsageError: it is something else; `name` is the option, `example` what it may be.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{name}: expected whole numbers separated by commas, like {example}; got {text!r}")
    return tuple(map(int, parts))
