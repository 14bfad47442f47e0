"""`mmkd-bench pair`, `overhead`, `rivals` and `teacher`: what calls in turn, arguments in, sheet or document out."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.commands.options import (
    BundleArgument,
    DurationOption,
    Form,
    FormOption,
    JsonOption,
    LaunchesOption,
    ReferenceOption,
)
from mmkd_bench.commands.printing import print_measured
from mmkd_bench.pair import measure_overhead, measure_pair
from mmkd_bench.rivals import measure_rivals
from mmkd_bench.teacher import measure_teacher
from mmkd_bench.turns.pairs import is_zip
from mmkd_edge.cli.show import say
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_report.schema.bench_others import OverheadReport

CHECKPOINT_START = b"{"
"""A checkpoint is a safetensors file: eight bytes of length, then JSON. An ONNX graph has no brace there."""


def pair(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="ONNX model of static shape, or a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="The other.")],
    *,
    threads: Annotated[int, typer.Option(help="Threads of each session.")] = 1,
    duration_s: DurationOption = 6.0,
    launches: LaunchesOption = 3,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Call two models in turn through ONNX Runtime: a ratio that holds on a noisy machine."""
    print_measured(
        lambda: measure_pair(first, second, threads=threads, launches=launches, duration_s=duration_s, progress=say),
        form=form,
        json=json,
    )


def overhead(
    bundle: BundleArgument,
    *,
    backend: Annotated[
        str | None,
        typer.Option(help="Over this backend's run.", show_default="over onnxruntime's own session.run"),
    ] = None,
    checks: Annotated[bool, typer.Option("--checks", help="With every sensor check on.")] = False,
    limit_us: Annotated[
        float | None, typer.Option(help="Exit 5 where predict adds more.", show_default="no limit")
    ] = None,
    duration_s: DurationOption = 6.0,
    launches: LaunchesOption = 3,
    reference: ReferenceOption = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """What predict adds to the bare engine on the same feeds, one thread."""
    report = print_measured(
        lambda: measure_overhead(
            bundle,
            backend=backend,
            checks=checks,
            launches=launches,
            duration_s=duration_s,
            reference=reference,
            progress=say,
        ),
        form=form,
        json=json,
    )
    _require_below(report, limit_us)


def _require_below(report: OverheadReport, limit_us: float | None) -> None:
    median_us = report.overhead_us.median
    if limit_us is not None and median_us > limit_us:
        raise PerformanceError(
            f"{report.bundle}: predict adds {median_us:.1f} µs to the bare {report.bare} at the median, "
            f"more than the limit of {limit_us:g} µs"
        )


def rivals(
    student: Annotated[
        Path, typer.Argument(metavar="STUDENT", help="The student's checkpoint, or its bundle with --checkpoint.")
    ],
    *,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Of a bundle the student's checkpoint: adds the engines that need it.")
    ] = None,
    converted: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep converted models here, and take those of this checkpoint that are."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    duration_s: DurationOption = 9.0,
    launches: LaunchesOption = 3,
    reference: ReferenceOption = None,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Time the same weights through other engines, called in turn, answers compared first."""
    with _bundle_of(student, checkpoint) as (bundle, weights):
        print_measured(
            lambda: measure_rivals(
                bundle,
                checkpoint=weights,
                converted=converted,
                student=str(student),
                reference=reference,
                threads=threads,
                launches=launches,
                duration_s=duration_s,
                progress=say,
            ),
            form=form,
            json=json,
        )


@contextmanager
def _bundle_of(student: Path, checkpoint: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """The bundle to measure and the checkpoint beside it; a checkpoint is exported to a bundle that is then removed."""
    if is_zip(student, expected="a student's checkpoint or a bundle"):
        yield student, checkpoint
        return
    if checkpoint is not None:
        raise UsageError(f"{student}: expected a bundle beside --checkpoint, got another file; give one of both")
    from mmkd_export.plan import export_plan
    from mmkd_export.run import export

    with tempfile.TemporaryDirectory(prefix="mmkd-rivals-") as folder:
        say("exporting the checkpoint to a bundle")
        bundle = Path(folder) / "student.edge"
        export(export_plan(student, output=bundle))
        yield bundle, student


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
        graph.write_bytes(onnx_from_teacher(checkpoint.transformer(), checkpoint.modalities))
        yield graph
