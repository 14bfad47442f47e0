"""The command `mmkd-export`: its arguments, its progress and how its result looks.

The result goes to stdout, progress to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from mmkd_edge.command.help import command_app, command_class
from mmkd_edge.command.run import check_page, shell_line
from mmkd_edge.command.tables import WholeWords
from mmkd_edge.errors import UsageError
from mmkd_export.graph.calibration import CalibrationMethod
from mmkd_export.judge.batch import batch_from_dim
from mmkd_export.judge.gate import LEAST_JUDGING, gate_summary
from mmkd_export.plan import ExportPlan, PrecisionChoice, export_plan
from mmkd_export.platforms import PLATFORMS, PlatformName
from mmkd_export.preflight import check_plan
from mmkd_export.run import (
    ExportResult,
    ExportStage,
    OnStage,
    export,
    export_several,
    export_stages,
    several_plans,
)
from mmkd_export.targets.litert import tflite_gain, with_tflite
from mmkd_export.targets.table import TARGETS, check_target, keeps_bundle, platform_of, targets_on
from mmkd_models.evaluate.confidence_text import SAME_GROUPS, coverage_table, reliability_text
from mmkd_report.documents.export import (
    ArtifactReport,
    ExportDocument,
    ExportPreview,
    ExportReport,
    LeftOut,
    SeveralExports,
    encode_document,
)

app = command_app()

_WIDTH_WITHOUT_TERMINAL = 160


@app.command(cls=command_class())
def export_(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="A student's checkpoint (.ckpt), or an earlier bundle (.edge). Several become one bundle, in which "
            "the first whose sensor lives answers.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="The bundle; else beside the checkpoint, or in place."),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="onnx|openvino|litert|trt",
            help="openvino also tests the artifacts there; litert adds .tflite; trt also builds engines. Repeatable.",
        ),
    ] = None,
    onnx_only: Annotated[
        bool,
        typer.Option("--onnx-only", help="Leave out the .tflite that is else added where its converter is installed."),
    ] = False,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="fp32|fp16|int8|auto",
            help="Artifacts beside fp32; auto keeps what proves faster. Repeatable.",
        ),
    ] = None,
    platform: Annotated[
        PlatformName | None, typer.Option(help="What it is for; else what the targets and this machine suggest.")
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
    method: Annotated[
        CalibrationMethod | None, typer.Option("--calib-method", help="How INT8 ranges are chosen; else by trial.")
    ] = None,
    exclude: Annotated[str | None, typer.Option(metavar="REGEX", help="Layers that stay out of INT8.")] = None,
    dim: Annotated[
        str | None,
        typer.Option(
            metavar="batch=1:OPT:MAX", help="Graphs that take 1 to MAX windows at once; engines are built for OPT."
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", metavar="DATA|FILE.npz", help="Windows that judge, in place of half of the others."),
    ] = None,
    drift_reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Measure on this dataset how people or machines differ, which a device judges drifts by; else taken "
            "from the training.",
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop-points", metavar="POINTS", help="Of the task metric that lower precision may lose."),
    ] = ExportPlan.max_drop_points,
    accept_unjudged: Annotated[
        bool,
        typer.Option(
            "--accept-unjudged",
            help=f"Take lower precision though fewer than {LEAST_JUDGING} windows judge it; the bundle says so.",
        ),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write what was measured and tried as one self-contained page."),
    ] = None,
    list_targets: Annotated[
        bool, typer.Option("--list-targets", help="Show the platforms, what each takes, and what has been run there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything that is cheap, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export a student to one verified bundle, ready for a device."""
    if list_targets:
        _show_platforms(as_json=as_json)
        return
    if not sources:
        raise UsageError("expected a checkpoint or a bundle to export, got none; name it, or see --help")
    plan = ExportPlan(
        source=sources[0],
        output=export_plan(sources[0], output=output).output,
        targets=tuple(
            check_target(name) for name in dict.fromkeys([*(targets or []), *(["onnx"] if onnx_only else [])])
        ),
        precisions=tuple(_precision(name) for name in dict.fromkeys(precisions or [])),
        platform=platform,
        calibration=calibration,
        method=method,
        exclude=exclude,
        evaluation=evaluation,
        max_drop_points=max_drop,
        accept_unjudged=accept_unjudged,
        batch=None if dim is None else batch_from_dim(dim),
        drift_reference=drift_reference,
    )
    if onnx_only and "litert" in plan.targets:
        raise UsageError("expected --target litert or --onnx-only, got both; see --help")
    if len(sources) > 1:
        if output is None or page is not None:
            raise UsageError("of several students expected -o FILE, which they go into, and no --page; see --help")
        plans = [with_tflite(one) for one in several_plans(plan, sources)]
        if dry_run:
            for each in plans:
                _show_plan(each, as_json=as_json)
            return
        _export_several(plans, output=output, as_json=as_json)
        return
    if page is not None:
        check_page(page, extra="export")
    gain, plan = tflite_gain(plan), with_tflite(plan)
    if dry_run:
        _show_plan(plan, as_json=as_json)
        return
    with _progress() as on_stage:
        result = export(plan, on_stage=on_stage)
    if page is not None:
        _write_page(page, result)
    if as_json:
        print(_json(_document(result)))
        return
    _show(result)
    if gain:
        print(gain)
    files = [engine.path for engine in result.engines] + ([] if page is None else [str(page)])
    written = ", ".join(files if keeps_bundle(plan) else [str(result.path), *files])
    print(f"wrote {written}; next: {_next_command(result)}")


def _export_several(plans: Sequence[ExportPlan], *, output: Path, as_json: bool) -> None:
    with _progress() as on_stage:
        results = export_several(plans, output=output, on_stage=on_stage)
    if as_json:
        students = tuple(_document(result) for result in results)
        print(_json(SeveralExports(bundle=str(output), students=students)))
        return
    for result in results:
        _show(result)
    modalities = ", ".join(result.report.student.modality for result in results)
    print(f"wrote {output} ({modalities}, asked in this order); next: {shell_line('mmkd-inspect', output)}")


def _precision(name: str) -> PrecisionChoice:
    for known in get_args(PrecisionChoice):
        if name == known:
            precision: PrecisionChoice = known
            return precision
    raise UsageError(f"--precision {name!r}: expected one of {', '.join(get_args(PrecisionChoice))}")


def _write_page(page: Path, result: ExportResult) -> None:
    from mmkd_report import render_export, write_page

    write_page(page, render_export(msgspec.to_builtins(_document(result))))


def _show_platforms(*, as_json: bool) -> None:
    if as_json:
        platforms = [msgspec.to_builtins(row) | {"targets": targets_on(row)} for row in PLATFORMS]
        rows = [{"name": row.name, "makes": row.makes} for row in TARGETS]
        print(msgspec.json.format(msgspec.json.encode({"platforms": platforms, "targets": rows}), indent=2).decode())
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("platform", "for", "targets", "opset", "IR", "INT8", "run by this project"):
        table.add_column(heading)
    for row in PLATFORMS:
        targets, ops = " ".join(targets_on(row)), " ".join(row.int8_ops)
        table.add_row(row.name, row.title, targets, str(row.opset), str(row.ir_version), ops, row.run_here)
    _console().print(WholeWords(table))
    for target in TARGETS:
        print(f"--target {target.name}: {target.makes}")


def _show_plan(plan: ExportPlan, *, as_json: bool) -> None:
    check_plan(plan)
    platform, stages = platform_of(plan).name, export_stages(plan)
    if as_json:
        print(_json(ExportPreview(output=str(plan.output), platform=platform, steps=stages)))
        return
    print(f"{plan.source} to {plan.output}, for {platform}:")
    for number, name in enumerate(stages, 1):
        print(f"  {number} {name}")
    print("nothing was written; next: the same command without --dry-run")


def _document(result: ExportResult) -> ExportDocument:
    return ExportDocument(
        bundle=str(result.path),
        size_bytes=result.size_bytes,
        sha256=result.sha256,
        report=result.report,
        engines=result.engines,
    )


def _json(document: msgspec.Struct) -> str:
    return encode_document(document).decode().rstrip()


def _next_command(result: ExportResult) -> str:
    return shell_line("mmkd-bench", "run", result.path)


def _show(result: ExportResult) -> None:
    console = _console()
    report = result.report
    student, windows = report.student, report.windows
    console.print(
        f"{report.model_id}: {student.parameters:,} parameters, {student.mflops:.2f} MFLOP a window, "
        f"{result.size_bytes / 1000:.0f} kB",
        soft_wrap=True,
    )
    console.print(WholeWords(_artifact_table(report.artifacts)))
    for line in _notes(result):
        console.print(line, soft_wrap=True)
    console.print(f"compared with torch on {windows.count} {windows.source}", soft_wrap=True)
    if windows.caution is not None and (windows.synthetic or any(row.gate is not None for row in report.artifacts)):
        console.print(windows.caution, soft_wrap=True)
    _show_confidence(console, report)


def _show_confidence(console: Console, report: ExportReport) -> None:
    """Of each artifact what its probabilities and label sets are worth."""
    known = [(artifact, artifact.confidence) for artifact in report.artifacts if artifact.confidence is not None]
    for artifact, facts in known:
        console.print(f"{artifact.precision} {artifact.format}: {reliability_text(facts)}", soft_wrap=True)
        console.print(WholeWords(coverage_table(facts.coverages)))
    if known and report.windows.judged_by == report.windows.source:
        console.print(SAME_GROUPS, soft_wrap=True)


def _artifact_table(artifacts: tuple[ArtifactReport, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("artifact")
    figures = list(artifacts[0].figures or ("accuracy", "balanced accuracy"))
    for heading in ("size", "max error", "with gaps", "labels agree", *figures):
        table.add_column(heading, justify="right")
    timed = dict.fromkeys(
        run.backend for artifact in artifacts for run in artifact.backends if run.latency_us is not None
    )
    for name in timed:
        table.add_column(f"{name} p50", justify="right")
    for artifact in artifacts:
        latencies = {run.backend: run.latency_us for run in artifact.backends}
        table.add_row(*_row(artifact), *(_microseconds(latencies.get(name)) for name in timed))
    return table


def _row(artifact: ArtifactReport) -> tuple[str, ...]:
    return (
        f"{artifact.precision} {artifact.format}",
        f"{artifact.size_bytes / 1000:.0f} kB",
        f"{artifact.parity.max_abs_error:.1e}",
        f"{artifact.parity_with_gaps.max_abs_error:.1e}",
        f"{artifact.parity.label_agreement:.1%}",
        *_scores(artifact),
    )


def _scores(artifact: ArtifactReport) -> tuple[str, ...]:
    if artifact.figures:
        return tuple(f"{figure:.4g}" for figure in artifact.figures.values())
    scores = artifact.scores
    return (f"{scores.accuracy:.3f}", f"{scores.balanced_accuracy:.3f}") if scores else ("no labels", "no labels")


def _microseconds(latency_us: float | None) -> str:
    return "-" if latency_us is None else f"{latency_us:.0f} us"


def _notes(result: ExportResult) -> Iterator[str]:
    """What a reader of the table would ask next."""
    for artifact in result.report.artifacts:
        if artifact.gate is not None:
            yield f"{_name(artifact)}: {gate_summary(artifact.gate)}"
        if artifact.batch is not None:
            batch = artifact.batch
            yield (
                f"{artifact.precision}: takes {batch.minimum} to {batch.maximum} windows at once; every size was run, "
                f"within {batch.max_abs_error:.1e} of one by one"
            )
        if len(artifact.attempts) > 1:
            tried = ", then ".join(attempt.remedy for attempt in artifact.attempts)
            yield f"{artifact.precision}: passed with the last of: {tried}"
        if artifact.precision == "fp16":
            for name, reason in artifact.float_layers.items():
                yield f"fp16: {name} stays float32: it {reason}"
    for left_out in result.report.left_out:
        yield f"{_name(left_out)}: left out: {left_out.reason}"
    for engine in result.engines:
        sidecar = engine.sidecar
        yield (
            f"{engine.path}: {sidecar.precision} engine, {sidecar.size_bytes / 1000:.0f} kB, "
            f"{sidecar.library} {sidecar.library_version}"
        )


def _name(made: ArtifactReport | LeftOut) -> str:
    return made.precision if made.format == "onnx" else f"{made.precision} .{made.format}"


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        return console
    # A file or a pipe has no width that a table must fit.
    return Console(highlight=False, markup=False, width=_WIDTH_WITHOUT_TERMINAL)


@contextmanager
def _progress() -> Iterator[OnStage]:
    """Gives an observer of the export that writes to stderr: one live line on a terminal, else a line a stage."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield lambda stage: print(_stage_text(stage), file=sys.stderr, flush=True)
        return
    with Status("", console=console) as status:
        yield lambda stage: status.update(_stage_text(stage))


def _stage_text(stage: ExportStage) -> str:
    return f"{stage.number}/{stage.of} {stage.name}"
