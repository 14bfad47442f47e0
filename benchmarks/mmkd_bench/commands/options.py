"""What the commands of `mmkd-bench` share: options with one name each, and the two ways to write."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer


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


def json_text(document: msgspec.Struct) -> str:
    """A document as indented JSON with a final line break."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode("utf-8") + "\n"


def write(content: str) -> None:
    """Write a result to stdout."""
    sys.stdout.write(content)


def say(line: str) -> None:
    """Write a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def text_or_none(path: Path | None) -> str | None:
    """A path as text."""
    return None if path is None else str(path)
