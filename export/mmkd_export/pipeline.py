"""One export, from plan to bundle and engines; the bundle comes last, so a failure leaves an earlier one intact."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
from mmkd_export.targets.table import Engines, Format, ResolvedPlan, Sources, Target, requested_targets
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


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A student with what is made of it so far."""

    checkpoint: StudentCheckpoint
    student: ProvenStudent
    rule: GateRule
    artifacts: tuple[ProvenArtifact, ...]
    left_out: tuple[LeftOutArtifact, ...] = ()

    def without(self, error: MmkdError, precision: Precision, file_format: ArtifactFormat) -> _Made:
        """Return it with an artifact that failed among those left out."""
        report = error.report if isinstance(error, RejectedError) else None
        if report is not None and (report.gate is None or not report.gate.finite):
            report = None  # its answers are not numbers, which JSON lacks
        reason = str(error).replace(NOTHING_WRITTEN, "")
        failed = LeftOutArtifact(precision=precision, format=file_format, reason=reason, artifact=report)
        return replace(self, left_out=(*self.left_out, failed))


class _Attempt(NamedTuple):
    """A lower precision in a format; one that fails its gate may be left out if it is optional."""

    format: ArtifactFormat
    make: Callable[[], ProvenArtifact]
    is_optional: bool


def export_stages(resolved: ResolvedPlan) -> tuple[str, ...]:
    """Return a plan's stages in order."""
    targets = resolved.targets
    building = tuple(target.adds.stage for target in targets if isinstance(target.adds, Engines | Sources))
    if resolved.plan.from_bundle:
        return ("verify the bundle", *building)
    return (
        *("read the checkpoint", "convert it to ONNX", "compare with torch"),
        *(target.adds.stage for target in targets if isinstance(target.adds, Format)),
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
            for precision in resolved.precisions:
                begin(f"make {precision}")
                students = [_with_precision(made, precision, resolved) for made in students]
            begin("write the bundle")
            platform = resolved.platform.name
            manifest, members = contents.join_parts(
                [
                    contents.pack_bundle(made.student, made.artifacts, platform=platform, left_out=made.left_out)
                    for made in students
                ]
            )
            contents.write_sealed(plan.output, manifest=manifest, members=members, seal=plan.seal)
        engines: list[BuiltEngine] = []
        folders: list[str] = []
        for target in resolved.targets:
            match target.adds:
                case Engines(stage=stage, build=build):
                    begin(stage)
                    engines += build(plan.output, resolved.platform, resolved.built_precisions)
                case Sources(stage=stage, write=write):
                    begin(stage)
                    folders.append(str(write(plan.output)))
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
        made.append(_Made(checkpoint=student, student=proven, rule=rule, artifacts=(proven.fp32,)))
    for target in resolved.targets:
        if isinstance(target.adds, Format):
            begin(target.adds.stage)
            number = next((n for n, each in enumerate(made) if not target.lacking(each.checkpoint.config.members)), 0)
            made[number] = _with_format(made[number], target, target.adds, plan, checkpoint)
    return [replace(each, artifacts=(*each.artifacts, *each.student.others)) for each in made]


def _with_format(made: _Made, target: Target, added: Format, plan: ExportPlan, checkpoint: StudentCheckpoint) -> _Made:
    try:
        target.check_members(made.checkpoint.config.members, has_portable=checkpoint.portable is not None)
        return replace(made, student=added.add_fp32(made.student, made.checkpoint, plan.source))
    except MmkdError as error:
        if target.name not in plan.optional:
            raise
        return made.without(error, "fp32", added.name)


def _with_precision(made: _Made, precision: Precision, resolved: ResolvedPlan) -> _Made:
    """A failed gate ends the export unless the artifact is optional."""
    for attempt in _attempts(made, precision, resolved):
        try:
            made = replace(made, artifacts=(*made.artifacts, attempt.make()))
        except GateError as error:
            if not attempt.is_optional:
                raise
            made = made.without(error, precision, attempt.format)
    return made


def _attempts(made: _Made, precision: Precision, resolved: ResolvedPlan) -> Iterator[_Attempt]:
    student, is_optional = made.student, precision in resolved.optional
    formats = {proven.artifact.format for proven in student.others}
    if not (resolved.platform.name == "mcu" and "native" in formats):  # a microcontroller runs no graph
        graph = partial(make_lower_precision, student, precision, made.rule, ops=resolved.platform.int8_ops)
        no_graph = precision == "int8" and bool(student.entry.normal) and "native" in formats
        yield _Attempt("onnx", graph, is_optional or no_graph)
    for target in resolved.targets:
        added = target.adds
        if precision != "int8" or not isinstance(added, Format) or added.name not in formats:
            continue
        if not (is_optional and added.smaller):
            make = partial(added.make_int8, student, made.rule)
            yield _Attempt(added.name, make, is_optional or target.name in resolved.plan.optional)


def export_several(plans: Sequence[ExportPlan], *, output: Path, on_stage: OnStage | None = None) -> list[ExportResult]:
    """Export students, the best first, into one bundle; ignore the plans' outputs. Errors as `export`."""
    for target in requested_targets(plans[0]):
        if isinstance(target.adds, Engines | Sources):
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
