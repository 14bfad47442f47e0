"""`mmkd-export`: result on stdout, progress on stderr."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Annotated, NoReturn, cast, get_args

import msgspec

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import check_page, run_command, shell_line
from mmkd_app.cli.show import json_text, plain_table, say, show_table
from mmkd_app.training.options import run_dir_of
from mmkd_app.training.tracking import Mlflow, Tracker, tracked
from mmkd_documents.export import ArtifactReport, ExportDocument, ExportReport, LeftOutArtifact, SeveralExports
from mmkd_edge.bundle.manifest import MAX_RELEASE, README_FILE, REPORT_FILE
from mmkd_edge.errors import UsageError, printable
from mmkd_export.packing.card import NO_RECORDING
from mmkd_export.pipeline import ExportResult, OnStage, export, export_several
from mmkd_export.plan import PLATFORMS, ExportPlan, GoldenChoice, PlatformName, PrecisionChoice, Seal, export_plan
from mmkd_export.targets.table import TARGETS, requested_targets, targets_on, with_defaults
from mmkd_export.verify.gate import MIN_JUDGING, gate_summary
from mmkd_export.verify.windows import range_choice
from mmkd_models.evaluation.confidence import reliability_text

if TYPE_CHECKING:
    from rich.table import Table


def main() -> NoReturn:
    """Run `mmkd-export`."""
    run_command("mmkd-export", run_export, needs=("typer", "rich"), extra="export")


def run_export(arguments: Sequence[str]) -> None:
    """Run `mmkd-export` with these arguments."""
    run_line("mmkd-export", arguments, [Command(function=export_)])


@dataclass(frozen=True, kw_only=True)
class _Options:
    targets: Annotated[
        list[str] | None,
        Option(
            "Also build or test for this runtime (repeatable); see --list-targets.",
            ("--target",),
            "|".join(row.name for row in TARGETS),
        ),
    ] = None
    precisions: Annotated[
        list[str] | None,
        Option(
            "Also add this precision (repeatable); auto adds those that pass their gates.",
            ("--precision",),
            "fp32|fp16|int8|auto",
        ),
    ] = None
    platform: Annotated[
        PlatformName | None, Option("Platform of the device; by default from the targets and this machine.")
    ] = None
    calibration: Annotated[
        Path | None,
        Option("Dataset with windows for calibration, instead of those in the checkpoint.", ("--calib",), "DATA"),
    ] = None
    evaluation: Annotated[
        Path | None,
        Option("Dataset to measure accuracy with; default: half of the windows for calibration.", ("--eval",), "DATA"),
    ] = None
    golden: Annotated[
        GoldenChoice,
        Option(
            "Self-test windows in the bundle: 'real' copies recordings into it, 'synthetic' does not.", ("--golden",)
        ),
    ] = ExportPlan.golden
    drift_reference: Annotated[
        Path | None, Option("Dataset to set the drift limits from; default: the training data.", metavar="DATA")
    ] = None
    value_range: Annotated[
        str | None,
        Option(
            "Valid sensor values; by default the dataset's, else a wide range from the training.",
            ("--range",),
            "LOW:HIGH|none",
        ),
    ] = None
    max_drop: Annotated[
        float, Option("Points of the task metric that lower precision may lose.", ("--max-drop-points",), "POINTS")
    ] = ExportPlan.max_drop_points
    accept_unjudged: Annotated[
        bool,
        Option(
            f"Accept lower precision tested on fewer than {MIN_JUDGING} windows; the bundle records this.",
            ("--accept-unjudged",),
        ),
    ] = False
    keys: Annotated[
        list[Path] | None, Option("Sign with this private key of mmkd-edge keygen (repeatable).", ("--sign",), "KEY")
    ] = None
    release: Annotated[
        int | None, Option("Release number; devices refuse a lower one.", ("--release",), min=0, max=MAX_RELEASE)
    ] = None


def export_(
    *,
    sources: Annotated[
        list[Path] | None,
        Argument(
            "FILE...",
            "Checkpoint (.ckpt) to export, or bundle (.edge) to sign or to build engines for. Several are joined.",
        ),
    ] = None,
    output: Annotated[
        Path | None, Option("Bundle to write; by default beside the checkpoint, or in place.", ("-o", "--out"), "FILE")
    ] = None,
    options: _Options,
    page: Annotated[
        Path | None, Option("Also write one HTML page of everything measured and tried.", metavar="FILE.html")
    ] = None,
    mlflow: Mlflow = None,
    list_targets: Annotated[
        bool, Option("Show the platforms, their targets, and what has been run there.", ("--list-targets",))
    ] = False,
    as_json: Annotated[bool, Option("Print one JSON document.", ("--json",))] = False,
) -> None:
    """Export a student to one verified bundle, ready for a device."""
    if list_targets:
        _show_platforms(as_json=as_json)
        return
    if not sources:
        raise UsageError("expected a checkpoint or a bundle to export, got none; name it, or see --help")
    plan = _plan(sources[0], output, options)
    if len(sources) > 1:
        if output is None or page is not None or mlflow is not None:
            raise UsageError("several students need -o FILE, and take no --page and no --mlflow; see --help")
        plans = [with_defaults(replace(plan, source=source)) for source in sources]
        _export_several(plans, output=output, as_json=as_json)
        return
    if page is not None:
        check_page(page, extra="export")
    plan = with_defaults(plan)
    with tracked(mlflow, run_dir_of(plan.source), title=plan.source.name, of=plan.source, resume=True) as tracker:
        with _progress() as on_stage:
            result = export(plan, on_stage=on_stage)
        if page is not None:
            from mmkd_app.pages.export import render_export
            from mmkd_app.pages.page import write_page

            write_page(page, render_export(_document(result)))
        if mlflow is not None:
            _record(tracker, result, page)
    if as_json:
        print(json_text(_document(result)))
        return
    _show(result)
    files = [*(engine.path for engine in result.engines), *result.folders] + ([] if page is None else [str(page)])
    is_kept = plan.from_bundle and plan.output == plan.source and plan.seal == Seal()
    written = ", ".join(files if is_kept and files else [str(result.path), *files])
    print(f"wrote {written}; next: {shell_line('mmkd-bench', 'run', result.path)}")


def _record(tracker: Tracker, result: ExportResult, page: Path | None) -> None:
    from mmkd_edge import Bundle

    metrics: dict[str, float | None] = {}
    for artifact in result.report.artifacts:
        figures = {measure.name: artifact.score(measure.name) for measure in result.report.reported_metrics}
        figures |= {"size_bytes": artifact.size_bytes, "max_abs_error": artifact.parity.max_abs_error}
        if artifact.gate is not None:
            figures |= {"gate/drop_points": artifact.gate.drop_points, "gate/passed": artifact.gate.passed}
        metrics |= {f"{artifact.name}/{name}": value for name, value in figures.items()}
    tracker.record(metrics=metrics)
    flavor = {"loader_module": "mmkd_edge.pyfunc", "data": result.path.name, "python_version": python_version()}
    model = json_text({"artifact_path": "model", "flavors": {"python_function": flavor}})
    with Bundle.open(result.path) as bundle:
        texts = {"model/MLmodel": model, **{name: bundle.read(name).decode() for name in (REPORT_FILE, README_FILE)}}
    for name, text in texts.items():
        tracker.add("log_text", text=text, artifact_file=name)
    tracker.record_file(result.path, "model")
    if page is not None:
        tracker.record_file(page)


def _plan(source: Path, output: Path | None, options: _Options) -> ExportPlan:
    choices = get_args(PrecisionChoice)
    for name in options.precisions or []:
        if name not in choices:
            raise UsageError(f"--precision {name!r}: expected one of {', '.join(choices)}; choose one of them")
    plan = ExportPlan(
        source=source,
        output=export_plan(source, output=output).output,
        targets=tuple(dict.fromkeys(options.targets or [])),
        precisions=cast("tuple[PrecisionChoice, ...]", tuple(dict.fromkeys(options.precisions or []))),
        platform=options.platform,
        calibration=options.calibration,
        evaluation=options.evaluation,
        max_drop_points=options.max_drop,
        accept_unjudged=options.accept_unjudged,
        drift_reference=options.drift_reference,
        value_range=range_choice(options.value_range),
        golden=options.golden,
        seal=Seal(release=options.release, keys=tuple(options.keys or ())),
    )
    requested_targets(plan)  # raises for a target that does not exist
    return plan


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


def _show_platforms(*, as_json: bool) -> None:
    if as_json:
        platforms = [msgspec.to_builtins(row) | {"targets": targets_on(row)} for row in PLATFORMS]
        rows = [{"name": row.name, "makes": row.makes} for row in TARGETS]
        print(json_text({"platforms": platforms, "targets": rows}))
        return
    headings = ("platform", "for", "targets", "INT8", "run by this project")
    table = plain_table(headings, left=headings)
    for row in PLATFORMS:
        targets, ops = " ".join(targets_on(row)), " ".join(row.int8_ops)
        table.add_row(row.name, row.title, targets, ops, row.run_here)
    show_table(table)
    for target in TARGETS:
        print(f"--target {target.name}: {target.makes}")


def _document(result: ExportResult) -> ExportDocument:
    return ExportDocument(
        bundle=str(result.path),
        size_bytes=result.size_bytes,
        sha256=result.sha256,
        report=result.report,
        engines=result.engines,
        folders=result.folders,
    )


def _show(result: ExportResult) -> None:
    report = result.report
    windows = report.windows
    for each in (report, *report.others):
        size = "" if each is not report else f", {result.size_bytes / 1000:.0f} kB"
        print(
            f"{printable(each.model_id)}: {each.student.parameters:,} parameters, {each.student.mflops:.2f} MFLOP a "
            f"window{size}"
        )
        show_table(_artifact_table(each.artifacts))
        for line in _notes(result, each):
            print(printable(line))
    for engine in result.engines:
        sidecar = engine.sidecar
        print(
            printable(
                f"{engine.path}: {sidecar.precision} engine, {sidecar.size_bytes / 1000:.0f} kB, "
                f"{sidecar.library} {sidecar.library_version}, --platform {sidecar.platform}"
            )
        )
    print(f"compared with torch on {windows.count} {printable(windows.source)}")
    if windows.caution is not None and (windows.synthetic or any(row.gate is not None for row in report.artifacts)):
        print(windows.caution)
    for artifact in report.artifacts:
        if artifact.confidence is not None:
            print(f"{artifact.precision} {artifact.format}: {reliability_text(artifact.confidence)}")


def _artifact_table(artifacts: Sequence[ArtifactReport]) -> Table:
    figures = artifacts[0].figures or ("accuracy", "balanced accuracy")
    table = plain_table(["artifact", "size", "max error", "with gaps", "labels agree", *figures])
    for artifact in artifacts:
        scores: tuple[str, ...] = ("no labels", "no labels")
        if artifact.figures:
            scores = tuple("no known faults" if one is None else f"{one:.4g}" for one in artifact.figures.values())
        elif artifact.scores:
            scores = (f"{artifact.scores.accuracy:.3f}", f"{artifact.scores.balanced_accuracy:.3f}")
        table.add_row(
            f"{artifact.precision} {artifact.format}",
            f"{artifact.size_bytes / 1000:.0f} kB",
            f"{artifact.parity.max_abs_error:.1e}",
            f"{artifact.parity_with_gaps.max_abs_error:.1e}",
            f"{artifact.parity.label_agreement:.1%}",
            *scores,
        )
    return table


def _notes(result: ExportResult, report: ExportReport) -> Iterator[str]:
    if report.twin_text:
        yield report.twin_text
    for artifact in report.artifacts:
        if artifact.gate is not None:
            yield f"{_name(artifact)}: {gate_summary(artifact.gate)}"
        if len(artifact.attempts) > 1:
            tried = ", then ".join(attempt.remedy for attempt in artifact.attempts)
            yield f"{artifact.precision}: passed with the last of: {tried}"
        if artifact.precision == "fp16":
            for name, reason in artifact.float_layers.items():
                yield f"fp16: {name} stays float32: it {reason}"
    if report.windows.golden and not report.twin:
        yield NO_RECORDING
    if isinstance(report.range_rule, str) and not report.twin:
        low, high = result.manifest.models[0].modality.range or (-math.inf, math.inf)
        yield f"values outside {low:g} to {high:g} count as missing: {report.range_rule}; --range changes it"
    for left_out in report.left_out:
        yield f"{_name(left_out)}: left out: {left_out.reason}"


def _name(made: ArtifactReport | LeftOutArtifact) -> str:
    return made.precision if made.format == "onnx" else f"{made.precision} .{made.format}"


@contextmanager
def _progress() -> Iterator[OnStage]:
    from rich.console import Console
    from rich.status import Status

    errors = Console(stderr=True, highlight=False, markup=False)
    if not errors.is_terminal:
        yield say
        return
    with Status("", console=errors) as status:
        yield status.update
