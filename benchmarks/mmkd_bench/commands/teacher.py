"""`mmkd-bench teacher`: arguments in, table or document out."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.commands.options import DurationOption, Form, FormOption, JsonOption, LaunchesOption, say
from mmkd_bench.commands.printing import print_measured
from mmkd_bench.show import terminal
from mmkd_bench.teacher import measure_teacher
from mmkd_edge.errors import UsageError

CHECKPOINT_START = b"{"
"""A checkpoint is a safetensors file: eight bytes of length, then JSON. An ONNX graph has no brace there."""


def teacher(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="The teacher's checkpoint, or its graph as ONNX.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT.edge", help="The bundle of its student.")],
    *,
    hop_s: Annotated[float, typer.Option("--hop-s", help="Seconds from one prediction to the next.")] = 1.0,
    sensor_mw: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MW", help="What a sensor draws, from its data sheet; more than once.", show_default=False
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each graph.")] = 1,
    duration_s: DurationOption = 9.0,
    launches: LaunchesOption = 3,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Teacher against student from samples to answer, with the cost of sensors that are no longer needed."""
    power_mw = sensor_powers(sensor_mw or ())
    with _graph_of(teacher) as graph:
        print_measured(
            lambda: measure_teacher(
                graph,
                student,
                teacher=str(teacher),
                hop_s=hop_s,
                power_mw=power_mw,
                threads=threads,
                launches=launches,
                duration_s=duration_s,
                progress=say,
            ),
            terminal.teacher_view,
            form=form,
            json=json,
        )


def sensor_powers(texts: Sequence[str]) -> dict[str, float]:
    """Milliwatts by modality.

    >>> sensor_powers(["gyro=3.5", "camera=900"])
    {'gyro': 3.5, 'camera': 900.0}

    Raises:
        UsageError: a text has another form.
    """
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not (math.isfinite(value) and value >= 0):
            raise UsageError(f"sensor-mw {text!r}: expected NAME=MW with a number from 0, like gyro=3.5")
        found[name] = value
    return found


@contextmanager
def _graph_of(path: Path) -> Iterator[Path]:
    """The teacher's graph; that of a checkpoint is exported and then removed."""
    try:
        with path.open("rb") as file:
            is_checkpoint = file.read(9)[8:] == CHECKPOINT_START
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected a teacher's checkpoint or graph, cannot open it: {reason}") from error
    if not is_checkpoint:
        yield path
        return
    from mmkd_export.graph.onnx_from_student import onnx_from_teacher
    from mmkd_models.training.checkpoint import read_teacher

    with tempfile.TemporaryDirectory(prefix="mmkd-teacher-") as folder:
        say("exporting the teacher")
        checkpoint = read_teacher(path)
        graph = Path(folder) / "teacher.onnx"
        graph.write_bytes(onnx_from_teacher(checkpoint.network(), checkpoint.modalities))
        yield graph
