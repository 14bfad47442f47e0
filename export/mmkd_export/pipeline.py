"""One export, from plan to bundle and engines; the bundle comes last, so a failure leaves an earlier one intact."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_documents.export import BuiltEngine, ExportReport, LeftOutArtifact, TwinFacts
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ArtifactFormat, Manifest, Precision
from mmkd_edge.errors import GateError, MmkdError, UsageError
from mmkd_edge.outputs import lock_output
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing import contents
from mmkd_export.plan import ExportPlan, Seal, read_report
from mmkd_export.precision.make import make_lower_precision
from mmkd_export.preflight import check_plan
from mmkd_export.student import ProvenStudent, choose_temperature, compare_twin, prove_student, read_checkpoint
from mmkd_export.targets.table import ResolvedPlan, requested_targets
from mmkd_export.verify.artifacts import ProvenArtifact, RejectedError
from mmkd_export.verify.gate import NOTHING_WRITTEN, GateRule, checkpoint_metric

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import StudentCheckpoint


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export; `sha256` is of the bundle."""

    path: Path
    size_bytes: int
    sha256: str
    manifest: Manifest
    report: ExportReport
    engines: tuple[BuiltEngine, ...] = ()
    folders: tuple[str, ...] = ()


OnStage = Callable[[str], None]  # called with each stage, such as `2/4 convert it to ONNX`


@dataclass(kw_only=True)
class _Made:
    checkpoint: StudentCheckpoint
    student: ProvenStudent
    rule: GateRule
    artifacts: list[ProvenArtifact]
    left_out: list[LeftOutArtifact] = field(default_factory=list)

    def leave_out(self, error: MmkdError, precision: Precision, file_format: ArtifactFormat) -> None:
        report = error.report if isinstance(error, RejectedError) else None
        if report is not None and (report.gate is None or not report.gate.finite):
            report = None  # its answers are not numbers, which JSON lacks
        reason = str(error).replace(NOTHING_WRITTEN, "")
        self.left_out.append(LeftOutArtifact(precision=precision, format=file_format, reason=reason, artifact=report))


def export_stages(resolved: ResolvedPlan) -> tuple[str, ...]:
    """Return a plan's stages in order."""
    targets = resolved.targets
    building = tuple(target.stage for target in targets if target.build or target.write)
    if resolved.plan.from_bundle:
        return ("verify the bundle", *building)
    return (
        *("read the checkpoint", "convert it to ONNX", "compare with torch"),
        *(target.stage for target in targets if target.convert),
        *(f"make {precision}" for precision in resolved.precisions),
        "write the bundle",
        *building,
    )


def export(plan: ExportPlan, *, on_stage: OnStage | None = None) -> ExportResult:
    """Export a student to a bundle; write nothing unless every gate passes, engines aside.

    Raises UsageError for a plan that does not fit or has no real windows; UnavailableError for a missing library.
    """
    resolved = check_plan(plan)
    names = export_stages(resolved)

    def begin(name: str) -> None:
        if on_stage is not None:
            on_stage(f"{names.index(name) + 1}/{len(names)} {name}")

    with lock_output(plan.output):
        if plan.from_bundle:
            begin("verify the bundle")
            if plan.output != plan.source or plan.seal != Seal():
                contents.join_bundles([plan.source], plan.output, seal=plan.seal)
        else:
            students = _convert_checkpoint(resolved, begin)
            _make_lower_precisions(students, resolved, begin)
            begin("write the bundle")
            manifest, members = contents.join_parts(
                [
                    contents.pack_bundle(
                        made.student, made.artifacts, platform=resolved.platform.name, left_out=made.left_out
                    )
                    for made in students
                ]
            )
            contents.write_sealed(plan.output, manifest=manifest, members=members, seal=plan.seal)
        engines: list[BuiltEngine] = []
        folders: list[str] = []
        for target in resolved.targets:
            if target.build is not None:
                begin(target.stage)
                engines += target.build(plan.output, resolved.platform, resolved.built_precisions)
            if target.write is not None:
                begin(target.stage)
                folders.append(str(target.write(plan.output)))
        with Bundle.open(plan.output) as bundle:  # verify what a device will read
            return ExportResult(
                path=plan.output,
                size_bytes=plan.output.stat().st_size,
                sha256=bundle.sha256,
                manifest=bundle.manifest,
                report=read_report(bundle),
                engines=tuple(engines),
                folders=tuple(folders),
            )


def _convert_checkpoint(resolved: ResolvedPlan, begin: OnStage) -> list[_Made]:
    """Return the student, and its portable twin if a target's engine lacks one of its members."""
    # After checking the plan: torch takes seconds to import.
    from mmkd_export.graph.onnx_from_student import onnx_from_student

    plan = resolved.plan
    begin("read the checkpoint")
    checkpoint, real, range_rule = read_checkpoint(plan)
    members = checkpoint.config.members
    lacking: list[str] = []
    for target in resolved.targets:
        if target.name not in plan.optional and target.lacking(members):
            if checkpoint.portable is None:
                target.check_members(members)
            lacking += target.lacking(members)
    students: list[tuple[StudentCheckpoint, TwinFacts | None]] = [(checkpoint, None)]
    if lacking and checkpoint.portable is not None:
        portable = replace(checkpoint.portable, modality=checkpoint.modality)
        cost = compare_twin(checkpoint, portable, real, lacking=[name for name in members if name in lacking])
        students.append((portable, cost))
    begin("convert it to ONNX")
    temperatures = [choose_temperature(student, real) for student, _ in students]
    graphs = [
        onnx_from_student(student, temperature=temperature)
        for (student, _), temperature in zip(students, temperatures, strict=True)
    ]
    begin("compare with torch")
    metric = checkpoint_metric(checkpoint.facts.metric, checkpoint.task)
    rule = GateRule(metric=metric, max_drop_points=plan.max_drop_points, accept_unjudged=plan.accept_unjudged)
    made = []
    for (student, twin), temperature, graph in zip(students, temperatures, graphs, strict=True):
        proven = prove_student(
            plan, student, graph, real=real, temperature=temperature, range_rule=range_rule, twin=twin
        )
        made.append(_Made(checkpoint=student, student=proven, rule=rule, artifacts=[proven.fp32]))
    for target in resolved.targets:
        if target.convert is None:
            continue
        begin(target.stage)
        able = next((each for each in made if not target.lacking(each.checkpoint.config.members)), made[0])
        try:
            target.check_members(able.checkpoint.config.members, has_portable=checkpoint.portable is not None)
            able.student = target.add_fp32(able.student, able.checkpoint, plan.source)
        except MmkdError as error:
            if target.name not in plan.optional:
                raise
            able.leave_out(error, "fp32", target.format)
    for each in made:
        each.artifacts += each.student.others
    return made


def _make_lower_precisions(students: Sequence[_Made], resolved: ResolvedPlan, begin: OnStage) -> None:
    """A failed gate ends the export unless the artifact is optional."""
    for precision in resolved.precisions:
        begin(f"make {precision}")
        for made in students:
            _make_precision(made, precision, resolved)


def _make_precision(made: _Made, precision: Precision, resolved: ResolvedPlan) -> None:
    student = made.student
    formats = {proven.artifact.format for proven in student.others}
    optional = precision in resolved.optional
    ops = resolved.platform.int8_ops
    graph = partial(make_lower_precision, student, precision, made.rule, ops=ops)
    no_graph = optional or (precision == "int8" and bool(student.entry.normal) and "native" in formats)
    makers: list[tuple[Callable[[], ProvenArtifact], ArtifactFormat, bool]] = [(graph, "onnx", no_graph)]
    if resolved.platform.name == "mcu" and "native" in formats:
        makers = []  # a microcontroller runs no graph
    for target in resolved.targets:
        wanted = target.format in formats and not (optional and target.smaller)
        if precision == "int8" and target.int8 is not None and wanted:
            in_format = partial(target.make_int8, student, made.rule)
            makers.append((in_format, target.format, optional or target.name in resolved.plan.optional))
    for make, file_format, is_optional in makers:
        try:
            made.artifacts.append(make())
        except GateError as error:
            if not is_optional:
                raise
            made.leave_out(error, precision, file_format)


def export_several(plans: Sequence[ExportPlan], *, output: Path, on_stage: OnStage | None = None) -> list[ExportResult]:
    """Export students, the best first, into one bundle; ignore the plans' outputs. Errors as `export`."""
    for target in requested_targets(plans[0]):
        if target.build or target.write:
            raise UsageError(f"--target {target.name}: expected one student, got several; export each on its own")
    for plan in plans:
        check_plan(replace(plan, output=output))
    students = []
    for facts in (inspect_file(plan.source) for plan in plans):
        name = next(key for key in facts if key.endswith(".window")).removesuffix(".window")
        students.append((name, facts.get("labels") or facts[f"{name}.labels"]))
    contents.check_students(students)
    with lock_output(output), tempfile.TemporaryDirectory(prefix="mmkd-export-") as folder:
        parts = [
            replace(plan, seal=Seal(), output=Path(folder) / f"{number}.edge") for number, plan in enumerate(plans)
        ]
        results = [export(part, on_stage=on_stage) for part in parts]
        contents.join_bundles([part.output for part in parts], output, seal=plans[0].seal)
    return [replace(result, path=output) for result in results]
