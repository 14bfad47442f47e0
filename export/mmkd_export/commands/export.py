"""`mmkd-export`: its options, its progress and how its result looks. The result goes to stdout, progress to stderr."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-export"):
    import math
    from collections.abc import Iterator, Sequence
    from contextlib import contextmanager
    from dataclasses import dataclass, replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, NoReturn, get_args

    import msgspec

    from mmkd_edge.bundle.manifest import MAX_RELEASE
    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.run import check_page, run_command, shell_line
    from mmkd_edge.cli.show import json_text, plain_table, say, show_table
    from mmkd_edge.errors import UsageError
    from mmkd_edge.printable import printable
    from mmkd_export.graph.calibration import CalibrationMethod
    from mmkd_export.pipeline import (
        ExportResult,
        ExportStage,
        OnStage,
        export,
        export_several,
        export_stages,
        several_plans,
    )
    from mmkd_export.plan import PLATFORMS, ExportPlan, GoldenChoice, PlatformName, PrecisionChoice, Seal, export_plan
    from mmkd_export.preflight import check_plan
    from mmkd_export.targets.litert import tflite_gain, with_tflite
    from mmkd_export.targets.table import TARGETS, check_target, keeps_bundle, targets_of, targets_on
    from mmkd_export.verify.batch import batch_from_dim
    from mmkd_export.verify.gate import LEAST_JUDGING, gate_summary
    from mmkd_export.verify.golden import NO_RECORDING
    from mmkd_export.verify.plausible import range_choice
    from mmkd_models.evaluation.confidence_text import SAME_GROUPS, coverage_table, reliability_text
    from mmkd_report.schema.export import (
        ArtifactReport,
        ExportDocument,
        ExportPreview,
        LeftOutArtifact,
        SeveralExports,
    )

if TYPE_CHECKING:
    from rich.table import Table

_ABOUT = "Export a student to one verified bundle, ready for a device."


def main() -> NoReturn:
    """Runs `mmkd-export`; where typer or rich are missing, says which extra brings them and exits with 3."""
    run_command("mmkd-export", run_export, needs=("typer", "rich"), extra="export", about=_ABOUT)


def run_export(arguments: Sequence[str]) -> None:
    """Runs `mmkd-export` with these arguments."""
    run_line("mmkd-export", arguments, [Command(function=export_)])


@dataclass(frozen=True, kw_only=True)
class ArtifactOptions:
    """What is made, and for what."""

    targets: Annotated[
        list[str] | None,
        Option(
            "What else is made of the artifacts, or tried on them; --list-targets says what each is. Repeatable.",
            ("--target",),
            "|".join(row.name for row in TARGETS),
        ),
    ] = None
    onnx_only: Annotated[
        bool,
        Option("Leave out the .tflite that is else added where its converter is installed.", ("--onnx-only",)),
    ] = False
    precisions: Annotated[
        list[str] | None,
        Option(
            "Artifacts beside fp32; auto keeps what proves faster. Repeatable.",
            ("--precision",),
            "fp32|fp16|int8|auto",
        ),
    ] = None
    platform: Annotated[
        PlatformName | None, Option("What it is for; else what the targets and this machine suggest.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class QuantisationOptions:
    """How INT8 is calibrated, and at which sizes graphs run."""

    calibration: Annotated[
        Path | None,
        Option(
            "Real windows, in place of those in the checkpoint: a dataset directory, or an .npz file with "
            "x_MODALITY and, where known, y.",
            ("--calib",),
            "DATA|FILE.npz",
        ),
    ] = None
    method: Annotated[
        CalibrationMethod | None, Option("How INT8 ranges are chosen; else by trial.", ("--calib-method",))
    ] = None
    exclude: Annotated[str | None, Option("Layers that stay out of INT8.", metavar="REGEX")] = None
    dim: Annotated[
        str | None,
        Option("Graphs that take 1 to MAX windows at once; engines are built for OPT.", metavar="batch=1:OPT:MAX"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class JudgingOptions:
    """With what the artifacts are judged."""

    evaluation: Annotated[
        Path | None, Option("Windows that judge, in place of half of the others.", ("--eval",), "DATA|FILE.npz")
    ] = None
    golden: Annotated[
        GoldenChoice,
        Option(
            "Golden windows of the bundle: recordings, drawn from channel statistics, or one constant one.",
            ("--golden",),
        ),
    ] = ExportPlan.golden
    drift_reference: Annotated[
        Path | None,
        Option(
            "Measure on this dataset how people or machines differ, which a device judges drifts by; else taken "
            "from the training.",
            metavar="DATA",
        ),
    ] = None
    value_range: Annotated[
        str | None,
        Option(
            "Values that the sensor can give, none for any; else what the dataset declares, or a wide range from the "
            "training.",
            ("--range",),
            "LOW:HIGH|none",
        ),
    ] = None
    max_drop: Annotated[
        float, Option("Of the task metric that lower precision may lose.", ("--max-drop-points",), "POINTS")
    ] = ExportPlan.max_drop_points
    accept_unjudged: Annotated[
        bool,
        Option(
            f"Take lower precision though fewer than {LEAST_JUDGING} windows judge it; the bundle says so.",
            ("--accept-unjudged",),
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class SealOptions:
    """Which release it is, and who answers for it."""

    keys: Annotated[
        list[Path] | None,
        Option("Sign it with this private key of mmkd-edge keygen. Repeatable.", ("--sign",), "KEY"),
    ] = None
    release: Annotated[
        int | None,
        Option("Its number among releases: devices refuse a lower one.", ("--release",), min=0, max=MAX_RELEASE),
    ] = None


def export_(
    *,
    sources: Annotated[
        list[Path] | None,
        Argument(
            "FILE...",
            "A student's checkpoint (.ckpt), or an earlier bundle (.edge). Several become one bundle, in which "
            "the first whose sensor lives answers.",
        ),
    ] = None,
    output: Annotated[
        Path | None, Option("The bundle; else beside the checkpoint, or in place.", ("-o", "--out"), "FILE")
    ] = None,
    made: ArtifactOptions,
    quantised: QuantisationOptions,
    judged: JudgingOptions,
    sealed: SealOptions,
    page: Annotated[
        Path | None,
        Option("Also write what was measured and tried as one self-contained page.", metavar="FILE.html"),
    ] = None,
    list_targets: Annotated[
        bool, Option("Show the platforms, what each takes, and what has been run there.", ("--list-targets",))
    ] = False,
    dry_run: Annotated[bool, Option("Check everything that is cheap, and stop.", ("--dry-run",))] = False,
    as_json: Annotated[bool, Option("Print one JSON document.", ("--json",))] = False,
) -> None:
    """Export a student to one verified bundle, ready for a device."""
    if list_targets:
        _show_platforms(as_json=as_json)
        return
    if not sources:
        raise UsageError("expected a checkpoint or a bundle to export, got none; name it, or see --help")
    seal = Seal(release=sealed.release, keys=tuple(sealed.keys or ()))
    plan = replace(_plan(sources[0], output, made, quantised, judged), seal=seal)
    others = [row.name for row in targets_of(plan) if row.format != "onnx"]
    if made.onnx_only and others:
        raise UsageError(f"expected --target {others[0]} or --onnx-only, got both; see --help")
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
        print(json_text(_document(result)))
        return
    _show(result)
    if gain:
        print(gain)
    files = [engine.path for engine in result.engines] + ([] if page is None else [str(page)])
    written = ", ".join(files if keeps_bundle(plan) else [str(result.path), *files])
    print(f"wrote {written}; next: {shell_line('mmkd-bench', 'run', result.path)}")


def _plan(
    source: Path,
    output: Path | None,
    made: ArtifactOptions,
    quantised: QuantisationOptions,
    judged: JudgingOptions,
) -> ExportPlan:
    targets = dict.fromkeys([*(made.targets or []), *(["onnx"] if made.onnx_only else [])])
    return ExportPlan(
        source=source,
        output=export_plan(source, output=output).output,
        targets=tuple(check_target(name) for name in targets),
        precisions=tuple(_precision(name) for name in dict.fromkeys(made.precisions or [])),
        platform=made.platform,
        calibration=quantised.calibration,
        method=quantised.method,
        exclude=quantised.exclude,
        evaluation=judged.evaluation,
        max_drop_points=judged.max_drop,
        accept_unjudged=judged.accept_unjudged,
        batch=None if quantised.dim is None else batch_from_dim(quantised.dim),
        drift_reference=judged.drift_reference,
        value_range=range_choice(judged.value_range),
        golden=judged.golden,
    )


def _export_several(plans: Sequence[ExportPlan], *, output: Path, as_json: bool) -> None:
    with _progress() as on_stage:
        results = export_several(plans, output=output, on_stage=on_stage)
    if as_json:
        print(json_text(SeveralExports(bundle=str(output), students=tuple(map(_document, results)))))
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
        print(json_text({"platforms": platforms, "targets": rows}))
        return
    headings = ("platform", "for", "targets", "opset", "IR", "INT8", "run by this project")
    table = plain_table(headings, left=headings)
    for row in PLATFORMS:
        targets, ops = " ".join(targets_on(row)), " ".join(row.int8_ops)
        table.add_row(row.name, row.title, targets, str(row.opset), str(row.ir_version), ops, row.run_here)
    show_table(table)
    for target in TARGETS:
        print(f"--target {target.name}: {target.makes}")


def _show_plan(plan: ExportPlan, *, as_json: bool) -> None:
    resolved = check_plan(plan)
    platform, stages = resolved.platform.name, export_stages(resolved)
    if as_json:
        print(json_text(ExportPreview(output=str(plan.output), platform=platform, steps=stages)))
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


def _show(result: ExportResult) -> None:
    report = result.report
    student, windows = report.student, report.windows
    print(
        f"{printable(report.model_id)}: {student.parameters:,} parameters, {student.mflops:.2f} MFLOP a window, "
        f"{result.size_bytes / 1000:.0f} kB"
    )
    show_table(_artifact_table(report.artifacts))
    for line in _notes(result):
        print(printable(line))
    print(f"compared with torch on {windows.count} {printable(windows.source)}")
    if windows.caution is not None and (windows.synthetic or any(row.gate is not None for row in report.artifacts)):
        print(windows.caution)
    known = [(artifact, artifact.confidence) for artifact in report.artifacts if artifact.confidence is not None]
    for artifact, facts in known:
        print(f"{artifact.precision} {artifact.format}: {reliability_text(facts)}")
        show_table(coverage_table(facts.coverages))
    if known and windows.judged_by == windows.source:
        print(SAME_GROUPS)


def _artifact_table(artifacts: tuple[ArtifactReport, ...]) -> Table:
    figures = artifacts[0].figures or ("accuracy", "balanced accuracy")
    timed = dict.fromkeys(
        run.backend for artifact in artifacts for run in artifact.backends if run.latency_us is not None
    )
    headings = ["artifact", "size", "max error", "with gaps", "labels agree", *figures]
    table = plain_table([*headings, *(f"{name} p50" for name in timed)])
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
    if isinstance(result.report.windows.golden, str):
        yield NO_RECORDING[result.report.windows.golden]
    if isinstance(result.report.range_rule, str):
        low, high = result.manifest.models[0].modality.range or (-math.inf, math.inf)
        yield f"values outside {low:g} to {high:g} count as missing: {result.report.range_rule}; --range changes it"
    for left_out in result.report.left_out:
        yield f"{_name(left_out)}: left out: {left_out.reason}"
    for engine in result.engines:
        sidecar = engine.sidecar
        yield (
            f"{engine.path}: {sidecar.precision} engine, {sidecar.size_bytes / 1000:.0f} kB, "
            f"{sidecar.library} {sidecar.library_version}"
        )


def _name(made: ArtifactReport | LeftOutArtifact) -> str:
    return made.precision if made.format == "onnx" else f"{made.precision} .{made.format}"


@contextmanager
def _progress() -> Iterator[OnStage]:
    """Gives an observer of the export that writes to stderr: one live line on a terminal, else a line a stage."""
    from rich.console import Console
    from rich.status import Status

    errors = Console(stderr=True, highlight=False, markup=False)
    if not errors.is_terminal:
        yield lambda stage: say(_stage_text(stage))
        return
    with Status("", console=errors) as status:
        yield lambda stage: status.update(_stage_text(stage))


def _stage_text(stage: ExportStage) -> str:
    return f"{stage.number}/{stage.of} {stage.name}"
